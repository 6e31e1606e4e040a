"""The weighted scheduler: eql's behaviour, with the queue kept here instead of in the modem.

Each line is served in proportion to its weight: its *served time* is bytes carried divided by its
rate, and the next run goes to the line that has been served the least. Every line is paced to its
configured speed, so the order and the pacing agree. `strict` waits for the line whose turn it is, as
eql does; otherwise a line without room is passed over.
"""

from collections.abc import Iterable
from typing import Generic, Protocol, TypeVar

from bondvpn.bond.pacer import Pacer

RUN_BYTES = 65_000 + 64 * 62  # what one send call takes, as Ethernet frames (IPv6 and UDP headers)
TURN_S = 0.002  # of a line's rate: long enough for runs of 8 datagrams at 50 Mbit/s, short enough to mix
EXPRESS_DEBT_S = 0.010  # express goes out at once, up to this much ahead of the line's pace


class Line(Protocol):
    """What the scheduler needs to know of a link."""

    rate_bps: int | None  # None: unlimited
    pacer: Pacer
    served_s: float
    blocked: bool

    @property
    def srtt_s(self) -> float: ...


L = TypeVar("L", bound=Line)


class Weighted(Generic[L]):
    """Names the line for the next run. `lines` holds the usable ones; change it by `set_lines`."""

    def __init__(self, *, strict: bool = True) -> None:
        self.strict = strict
        self.lines: list[L] = []
        self._waiting: L | None = None
        self._default_rate_bps = 1e9

    def set_lines(self, lines: Iterable[L]) -> None:
        """The lines that may carry data now. One that comes in owes nothing for its time away."""
        known = self.lines
        self.lines = list(lines)
        level = max((line.served_s for line in known), default=0.0)
        for line in self.lines:
            if line not in known:
                line.served_s = level
        rates = [line.rate_bps for line in self.lines if line.rate_bps]
        # Lines of unknown speed count as an average one.
        self._default_rate_bps = sum(rates) / len(rates) if rates else 1e9
        self._waiting = None

    @property
    def rate_bps(self) -> float | None:
        """The sum of the lines, None if one of them is unlimited."""
        rates = [line.rate_bps for line in self.lines]
        return None if None in rates or not rates else float(sum(rate for rate in rates if rate))

    def next(self, now: float) -> tuple[L, int] | None:
        """(line, bytes it may take at once as Ethernet frames), or None: no line has room.

        `deadline` then says when to ask again.
        """
        best: L | None = None
        for line in self.lines:
            if (best is None or line.served_s < best.served_s) and (self.strict or self._room(line, now)):
                best = line
        if best is None or (self.strict and not self._room(best, now)):
            self._waiting = best
            return None
        if best.rate_bps is None:
            return best, RUN_BYTES
        return best, int(min(best.pacer.tokens, best.rate_bps / 8 * TURN_S, RUN_BYTES))

    def express(self, now: float) -> L | None:
        """The line with the lowest delay that is not hopelessly ahead of its pace."""
        best: L | None = None
        for line in self.lines:
            if line.blocked or (best is not None and line.srtt_s >= best.srtt_s):
                continue
            line.pacer.refill(now)
            if line.rate_bps is None or line.pacer.tokens > -line.rate_bps / 8 * EXPRESS_DEBT_S:
                best = line
        return best

    def spent(self, line: L, nbytes: int) -> None:
        """`line` carried `nbytes` of Ethernet frames."""
        line.pacer.spend(nbytes)
        line.served_s += nbytes * 8 / (line.rate_bps or self._default_rate_bps)

    def deadline(self, now: float) -> float | None:
        """When a line will have room, None if nothing but a socket can tell."""
        lines = [self._waiting] if self._waiting is not None else self.lines
        times = [line.pacer.next_time() for line in lines if not line.blocked]
        return max(now, min(times)) if times else None

    @staticmethod
    def _room(line: L, now: float) -> bool:
        if line.blocked:
            return False
        line.pacer.refill(now)
        return line.pacer.room()
