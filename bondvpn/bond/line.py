"""What a scheduler knows of a line, and what it answers."""

from typing import Generic, NamedTuple, Protocol, TypeVar

from bondvpn.bond.aqm import QueueLimits
from bondvpn.bond.capacity import Capacity
from bondvpn.bond.pacer import Pacer

RUN_BYTES = 65_000 + 64 * 62  # what one send call takes, as Ethernet frames (IPv6 and UDP headers)
TURN_S = 0.002  # of a line's rate: long enough for runs of 8 datagrams at 50 Mbit/s, short enough to mix
EXPRESS_DEBT_S = 0.010  # express goes out at once, up to this much ahead of the line's pace


class Line(Protocol):
    """A link as schedulers see it."""

    rate_bps: int | None  # what it is configured to carry, None: unknown
    capacity: Capacity
    pacer: Pacer
    served_s: float
    blocked: bool
    number: int  # in the order of the configuration
    tier: int

    @property
    def srtt_s(self) -> float: ...

    @property
    def in_flight(self) -> int: ...


L = TypeVar("L", bound=Line)


class Choice(NamedTuple, Generic[L]):
    """The line for the next run, how much it may take and from where in the queue."""

    line: L
    budget: int
    """Bytes as Ethernet frames."""
    skip: int
    """Bytes of the queue that other lines bring sooner."""


class Scheduler(Protocol[L]):
    """Names lines for what waits. `lines` holds the usable ones."""

    lines: list[L]

    def set_lines(self, lines: list[L]) -> None:
        """The lines that may carry data from now on."""

    @property
    def rate_bps(self) -> float | None:
        """The sum of the lines, None if one of them is unlimited."""

    @property
    def configured_bps(self) -> float | None:
        """The sum as configured, None where the lines are to be learned."""

    @property
    def spread(self) -> list[L]:
        """The lines whose delays the other end should equalise: bulk is spread over them."""

    @property
    def queue_limits(self) -> QueueLimits:
        """How much should wait for the lines before no more is taken."""

    def next(self, now: float, waiting: int, limit: int) -> Choice[L] | None:
        """The line for the next run of `waiting` bytes, of a queue that is full at `limit`; None: no line has
        room, or the others are all faster. `deadline` then says when to ask again."""

    def express(self, now: float, but: L | None = None) -> L | None:
        """The line that brings an express run the soonest, `but` left out."""

    def patient(self, now: float) -> L | None:
        """The line that brings the soonest what may wait for its line's pace; None: it must."""

    def copies(self, nbytes: int) -> bool:
        """Whether an express run of `nbytes` of Ethernet frames may leave by a second line too; then it is
        accounted for."""

    def soonest(self, now: float, avoid: L | None = None, tries: int = 1) -> L | None:
        """The line that brings a chunk the soonest, its own wait included; None: that line has no room for it
        yet. Rather not `avoid`, which lost it last, and the less so the more `tries` it has had."""

    def mirrors(self, line: L) -> list[L]:
        """The lines that carry each run of `line` too."""

    def spent(self, line: L, nbytes: int) -> None:
        """`line` carried `nbytes` of Ethernet frames."""

    def deadline(self, now: float) -> float | None:
        """When a line will have room, None if nothing but a report or a socket can tell."""
