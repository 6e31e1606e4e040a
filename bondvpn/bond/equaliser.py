"""Delay equalisation: bulk chunks are released as late as the slowest line would have brought them.

Over lines of unequal delay a flow sees round-trip times that jump with the line its segments took. Cubic
leaves slow start by the first jump, and bbr takes the fastest line's for its min_rtt and then allows itself
half the window that the lines need (measured: 46 of 93 Mbit/s over 10 and 60 ms). So a chunk is
held here until its *enqueue* time + the largest base delay + MARGIN_S; counted from when it was sent, what
waited in the sender's queue would wait twice. Lines whose delays are within SPREAD_MIN_S are left alone, and
what waited or came late anyway is not held: under load, nearly nothing.

Delays are arrival minus the sender's clock (bond.delayscale); what was enqueued is at least as old as the
fastest line's base.
"""

from math import inf

from bondvpn.bond.delayscale import DelayScale, RoundTrips
from bondvpn.bond.liveness import RTT_QUEUED_S
from bondvpn.bond.windowed import WindowedMin
from bondvpn.wire.sealed import TIME_UNIT_S, above, time_of

SPREAD_MIN_S = 0.001  # bbr takes the quickest line for all: 5 and 13 ms of round trip gave it 0.88 of the sum
SPREAD_MAX_S = 0.250  # a satellite's delay is not for everybody
# Of the queue that stands in the lines anyway (bond.capacity): where round trips are a few ms, a bbr that has
# once seen less keeps too little under way (measured: 0.74 of the sum over 2 and 4 ms, with this 0.97).
MARGIN_S = 0.005
BASE_KEEP_S = 10.0  # as the sender's: routes change
QUEUED_KEEP_S = 30.0  # what round trips say is queued is for so long not taken for a longer route
LINE_KEEP_S = 5.0  # a line of which nothing is heard for so long, no probe either, does not count
LOOK_S = 0.050  # how often the lines are compared
YOUNGER = round(0.01 / TIME_UNIT_S)  # than the fastest line's base: by how much we may be wrong


class Base(WindowedMin):
    """A line's smallest delay lately, in units. What round trips say is queued only lowers it, for some time:
    else a flow that begins as others end would be held by their queue."""

    __slots__ = ("_empty_at",)

    def __init__(self) -> None:
        super().__init__(BASE_KEEP_S)
        self._empty_at = -inf  # when round trips last said that nothing was queued

    def note(self, delay: int, queued_s: float, now: float) -> None:
        """A datagram took so long; round trips exceed the shortest by `queued_s`."""
        if queued_s <= RTT_QUEUED_S:
            self._empty_at = now
        elif now - self._empty_at < QUEUED_KEEP_S:
            self.lower(delay, now)
            return
        self.add(delay, now)


class Equaliser:
    """Of one session's receiving side. Times: seconds of our clock."""

    __slots__ = ("_bases", "_carrying", "_fastest", "_last", "_looked", "_scale", "_slowest", "spread_s")

    def __init__(self) -> None:
        self._scale = DelayScale()
        self._bases: dict[int, Base] = {}  # by link number
        self._last: dict[int, float] = {}  # when something came
        self._carrying: set[int] = set()  # links that the sender says it spreads bulk over
        self._looked = 0.0
        self._fastest = 0
        self._slowest = 0.0
        self.spread_s = 0.0
        """Between the fastest and the slowest line in use."""

    def note(self, link: int, sent: int, rtt: RoundTrips, now: float) -> None:
        """A datagram that left at `sent` (the sender's clock) came by the link, of those round trips."""
        delay = time_of(now) - sent
        base = self._bases.get(link)
        if base is None:
            base = self._bases[link] = Base()
        placed = self._scale.place(delay, link, rtt, now)
        if placed is not None:
            base.note(placed, rtt.queued_s, now)
        self._last[link] = now
        if now - self._looked > LOOK_S:
            self._look(now)

    def probed(self, link: int, sent: int, rtt: RoundTrips, now: float, *, carries: bool) -> None:
        """A probe came by the link, which says whether bulk is spread over it."""
        if carries:
            self._carrying.add(link)
        else:
            self._carrying.discard(link)
        self.note(link, sent, rtt, now)

    def _look(self, now: float) -> None:
        self._looked = now
        bases = [
            self._bases[link].value
            for link, at in self._last.items()
            if link in self._carrying and now - at < LINE_KEEP_S
        ]
        if not bases:
            self.spread_s = 0.0
            return
        spread = (max(bases) - min(bases)) * TIME_UNIT_S
        self.spread_s = spread if spread > SPREAD_MIN_S else 0.0
        self._fastest = int(min(bases))
        self._slowest = min(bases) + min(spread, SPREAD_MAX_S) / TIME_UNIT_S

    def release(self, enqueued: int, now: float) -> float:
        """When a chunk that was enqueued then (the sender's clock) and came now may go on."""
        if not self.spread_s:
            return now
        age = above(time_of(now) - enqueued, self._fastest - YOUNGER, 16)
        return now + max(0.0, (self._slowest - age) * TIME_UNIT_S + MARGIN_S)
