"""How late one line is: its shortest round trip, its queue, its jitter, by what the reports say.

The base is the smallest delay of the last BASE_KEEP_S; what a datagram's delay exceeds it by, less what the
datagram itself takes, was spent in the line's queue. While others keep a queue there (`contended`) the base
only falls: what they keep for so long would become part of it.
"""

from collections import deque
from itertools import takewhile
from math import inf

from bondvpn.bond.windowed import WindowedMin

RTT_START_S = 0.1  # until the first sample
BASE_KEEP_S = 10.0  # as BBR's min_rtt: routes change
QUEUE_MEAN_S = 0.040  # a sample weighs by its age: an idle line's come seconds apart
QUEUE_HISTORY_S = 1.0
SHORT_S = 0.001  # a queue that is none
QUEUED_JITTER = 3.0  # times the mean deviation of the delay
IDLE_S = 1.0  # without a report on the line


class Delays:
    """Of one line in its sending direction, in seconds."""

    def __init__(self) -> None:
        self.srtt_s = RTT_START_S
        """Smoothed round trip."""
        self.queue_s = 0.0
        """Smoothed delay in the line's queue."""
        self.jitter_s = 0.0
        """Mean deviation from one report's delay to the next."""
        self.queues: deque[tuple[float, float]] = deque()
        """(when told, delay in the queue) of the last QUEUE_HISTORY_S, oldest first."""
        self.short_at = -inf
        """When the queue was last seen short."""
        self.timed = False
        """Whether a round trip is known."""
        self._base_rtt = WindowedMin(BASE_KEEP_S)
        self._base_delay = WindowedMin(BASE_KEEP_S)
        self._queued_at = -inf  # when the queue delay was last told
        self._last_delay: float | None = None

    @property
    def base_rtt_s(self) -> float:
        value = self._base_rtt.value
        return value if value != inf else self.srtt_s

    @property
    def base_delay_s(self) -> float | None:
        """Smallest one-way delay, on the scale of the reports; None before the first."""
        value = self._base_delay.value
        return value if value != inf else None

    def least_queue(self, span_s: float, now: float) -> float | None:
        """The smallest queue delay told in the last `span_s`; None: nothing was."""
        since = now - span_s
        recent = takewhile(lambda told: told[0] >= since, reversed(self.queues))
        return min((queue for _, queue in recent), default=None)

    @property
    def most_queue(self) -> float:
        """The largest queue delay told in the last QUEUE_HISTORY_S."""
        return max((queue for _, queue in self.queues), default=0.0)

    def on_trip(self, rtt_s: float, now: float, *, contended: bool) -> None:
        """A round trip without what the receiver waited before its report."""
        if not self.timed:
            self.timed = True
            self.srtt_s = rtt_s
        self.srtt_s += (rtt_s - self.srtt_s) / 8
        _note_base(self._base_rtt, rtt_s, now, contended=contended)

    def on_delay(self, delay_s: float, datagram_s: float, now: float, *, contended: bool) -> None:
        """A one-way delay, on any scale, of a datagram that takes `datagram_s` at the line's best."""
        silent = now - self._queued_at
        if silent > BASE_KEEP_S / 2:  # it may be a queue of others
            self._base_delay.lower(delay_s, now)
        _note_base(self._base_delay, delay_s, now, contended=contended)
        queue = max(0.0, delay_s - self._base_delay.value - datagram_s)
        self.queue_s += (queue - self.queue_s) * min(1.0, silent / QUEUE_MEAN_S)
        self._queued_at = now
        if self._last_delay is not None and silent < IDLE_S:
            self.jitter_s += (abs(delay_s - self._last_delay) - self.jitter_s) / 32
        self._last_delay = delay_s
        if queue < SHORT_S and silent < IDLE_S:
            self.short_at = now
        self.queues.append((now, queue))
        while self.queues[0][0] < now - QUEUE_HISTORY_S:
            self.queues.popleft()

    def queued(self, delay_s: float, datagram_s: float) -> bool:
        """Whether what had at least such a one-way delay all waited in the line's queue; `datagram_s`: what a
        datagram takes."""
        late = delay_s - self._base_delay.value - datagram_s
        return late > max(SHORT_S, QUEUED_JITTER * self.jitter_s)

    def reports_moved(self, now: float) -> None:
        """Reports come by another line from now on, which has a share in each round trip."""
        self._base_rtt.restart(inf, now)

    def longer_route(self, by_s: float, now: float) -> None:
        """So much of the delay is not the queue's."""
        self._base_delay.restart(self._base_delay.value + by_s, now)
        self._base_rtt.restart(self.srtt_s, now)
        self.queues.clear()

    def short(self, queue_s: float) -> None:
        """The queue is that short again; the old delay must not slow the pace."""
        self.srtt_s = min(self.srtt_s, self.base_rtt_s + queue_s)

    def resume(self) -> None:
        """The line carries again after a silence: its queue has left."""
        self.queue_s = 0.0
        self.queues.clear()


def _note_base(base: WindowedMin, value: float, now: float, *, contended: bool) -> None:
    if not contended:
        base.add(value, now)
    else:
        base.lower(value, now)
