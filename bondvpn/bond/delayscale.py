"""One-way delays, known modulo 2^16 units of TIME_UNIT_S between clocks that were never compared.

All lanes of a direction share that scale. Modems queue more than half of those 1.05 s, so a delay is the one
that lies next above its line's anchor, or a little below it: what it is without a queue. (The smallest of
the last seconds may have one: somebody else fills the line.) The anchor follows the clocks as they drift, and
falls with the shortest round trip. The first one of a line lies near another line's.

A queue that grows beyond what can be told so is followed from one delay to the next: those come much sooner
than it can change by half of 2^16 units (but not from the first out of silence, which may be an old one). And
out of silence it is not told at all while round trips say that it is so long. Taken for less than it is, a
delay would be the base for seconds.
"""

from math import inf
from typing import Protocol

from bondvpn.wire.sealed import TIME_UNIT_S, above, nearest

BELOW = round(0.25 / TIME_UNIT_S)  # the anchor: by how much a route gets shorter at once, at the most
STEP = round(0.02 / TIME_UNIT_S)  # that it falls at once; more is a queue of more than 16 bits
PERIOD_S, RISE = 60.0, round(0.02 / TIME_UNIT_S)  # 330 ppm: clocks drift apart by less
QUEUED_MAX_S = 0.7  # told by a delay of 16 bits: less than 2^16 units and BELOW
LATELY_S = 0.25  # the next delay is told before the queue can be another by half of 2^16 units
# A queue that is lost as a whole (a modem starts anew) can mislead what follows it from delay to delay. No
# transfer of ours keeps one of 0.8 s for so long.
FOLLOWED_MAX_S = 3.0


class RoundTrips(Protocol):
    """Of one line, by its probes, in seconds."""

    min_s: float

    @property
    def queued_s(self) -> float:
        """By how much the last one exceeded the shortest."""


class Anchor:
    """Of one line; delays in units."""

    __slots__ = ("_low", "_min_rtt_s", "_queued_s", "_since", "at", "last", "steady", "told", "value")

    def __init__(self, value: int, now: float) -> None:
        self.value = self.last = value
        self.at = now  # when `last` came
        self.steady = False  # whether it came soon after the one before
        self.told = now  # when the last one came that the anchor alone can tell
        self._min_rtt_s = inf
        self._begin(now)

    def _begin(self, now: float) -> None:
        self._since = now
        self._low, self._queued_s = inf, inf  # the least of this period

    def fall(self, min_rtt_s: float) -> None:
        """The shortest round trip (0: not known yet) may be shorter than it was: there was a queue."""
        if 0 < min_rtt_s < self._min_rtt_s:
            if self._min_rtt_s < inf:
                self.value -= round((self._min_rtt_s - min_rtt_s) / TIME_UNIT_S)
            self._min_rtt_s = min_rtt_s

    def follow(self, placed: int, queued_s: float, now: float) -> None:
        """Clocks drift: the anchor falls to what is below it, and rises by what no queue explains."""
        self._low, self._queued_s = min(self._low, placed), min(self._queued_s, queued_s)
        if self.value - STEP < placed < self.value:
            self.value = placed
        if now - self._since > PERIOD_S:
            rise = self._low - self._queued_s / TIME_UNIT_S - self.value
            self.value += round(max(0.0, min(rise, RISE)))
            self._begin(now)


class DelayScale:
    """Of one direction of a session; lines by number."""

    __slots__ = ("_anchors", "_near")

    def __init__(self) -> None:
        self._anchors: dict[int, Anchor] = {}
        self._near: int | None = None  # the anchor of some line

    def place(
        self, told: int, line: int, rtt: RoundTrips, now: float, queued_s: float | None = None
    ) -> int | None:
        """`told` on the scale, in units; None where it may be more than one.

        `queued_s`: by how much this datagram's round trip exceeded the line's shortest, at the most
        QUEUED_MAX_S; None: that is not known.
        """
        anchor = self._anchors.get(line)
        if anchor is None:
            near = told & 0xFFFF if self._near is None else self._near
            anchor = self._anchors[line] = Anchor(near + nearest(told - near, 16), now)
        anchor.fall(rtt.min_s)
        placed = above(told, anchor.value - BELOW, 16)
        lately = now - anchor.at < LATELY_S
        if queued_s is None:
            queued_s = rtt.queued_s
            if lately and anchor.steady and now - anchor.told < FOLLOWED_MAX_S:
                followed = anchor.last + nearest(told - anchor.last, 16)
                if followed > placed:
                    anchor.last, anchor.at = followed, now
                    return followed
            elif not lately and queued_s > QUEUED_MAX_S:
                return None
        anchor.last, anchor.at, anchor.told, anchor.steady = placed, now, now, lately
        anchor.follow(placed, max(queued_s, 0.0), now)
        self._near = anchor.value
        return placed
