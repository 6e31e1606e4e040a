"""What may wait for the lines, and what is dropped when more does: active queue management (RFC 7567).

A TCP that begins doubles until it is told, and is told a round trip and a queue later. Over long lines a
queue that drops all that exceeds 100 ms then drops thousands of segments and cuts the window three times:
cubic's flow over 29 and 6 Mbit/s of 396 and 361 ms had 0.63 to 0.94 of their sum (bench.matrix, high-2-19,
behind another flow), and over 100 and 13 of 256 and 388 ms 0.79 to 0.96 (now 0.96 to 0.97).

So a burst may exceed the limit, and only a queue that stands is dropped from, as CoDel does (RFC 8289), each
flow's by itself: one frame once all of an interval, a round trip, has seen it beyond the limit, and another
when the first must have been answered and the queue is no shorter. Unlike CoDel a frame is dropped as it
comes, for what waits has its sequence numbers, so a drop is answered after the queue too. What answers no
drop has no more than the limit: it is no TCP, or not one that minds.
"""

from math import inf
from typing import NamedTuple

INTERVAL_S = 0.1  # at least (RFC 8289, 4.3)
# Queue included: one until the sender knows, one until that shows here, and some for what is late.
ANSWER_TRIPS = 2.5
SHORTER = 0.9  # times the most that waited since the last drop, or less: that was answered
IGNORED = 6  # drops without an answer
FORGET_S = 1.0  # without more than the limit


class QueueLimits(NamedTuple):
    """How much may wait for the lines, as the scheduler has it."""

    standing: float
    """Bytes, for as long as they like."""
    burst: float
    """Bytes at all, `standing` or more."""
    rate: float
    """Bytes a second that leave."""
    trip_s: float
    """The round trip of a flow without a queue."""


class FlowQueue:
    """Decides what to drop of one flow's queue."""

    __slots__ = ("_asked_at", "_drop_at", "_dropped", "_most", "short_at")

    def __init__(self) -> None:
        self.short_at = -inf
        """When it was last known to be no longer than it may be; the caller sets it."""
        self._asked_at = -inf
        self._drop_at = -inf
        self._dropped = 0  # without an answer
        self._most = 0  # bytes, since the last drop

    def drops(self, waiting: int, queue_s: float, trip_s: float, now: float) -> bool:
        """Whether to drop a frame that finds `waiting` bytes of its flow, more than it may have, in a queue
        of `queue_s`; `trip_s` as in QueueLimits."""
        asked_at, self._asked_at = self._asked_at, now
        if now - asked_at > FORGET_S:
            self._dropped = 0
        elif self._dropped >= IGNORED:
            return True
        interval_s = max(INTERVAL_S, trip_s)
        if now - self.short_at < interval_s:
            self._dropped = self._most = 0
            return False
        self._most = max(self._most, waiting)
        if now < self._drop_at:
            return False
        answered = self._dropped > 0 and waiting < SHORTER * self._most
        self._dropped += not answered
        self._most = waiting
        self._drop_at = now + ANSWER_TRIPS * (interval_s + queue_s)
        return not answered
