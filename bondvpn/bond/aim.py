"""How long a queue to keep in one line's modem: short, but never so short that the line idles.

A few datagrams' time, more on a jittery line, less on one whose buffer is shallower than that (losses.py).
"""

from math import inf

from bondvpn.bond.delays import SHORT_S
from bondvpn.bond.delivery import DATAGRAM_BYTES
from bondvpn.bond.windowed import WindowedMin

# A probe beside a transfer has 1.5 ms less with 2 ms than with 3, and 50 Mbit/s of 10 and of 60 ms have 0.976
# of their sum, not 0.980. With 3 ms at 16 Mbit/s a longer route is not told from a queue.
QUEUE_AIM_S, QUEUE_AIM_FAST_S = 0.004, 0.002
QUEUE_AIM_FAST_DATAGRAMS = 8  # from 24 Mbit/s on it is shorter, from 48 on the shortest
QUEUE_AIM_MAX_S = 0.030
QUEUE_AIM_DATAGRAMS = 2  # of a slow line
QUEUE_AIM_JITTER = 3.0  # times the mean deviation of the delay
QUEUE_HIGH = 1.5  # times the queue aimed at: too long a one
LOWERED, RAISED = 0.7, 1.002  # by a lossy sample, by a round
SHALLOW = 0.9  # of the queue that a deep buffer is to hold
# What held more a moment ago is deep, whatever it lost since: LTE overflows as it stands still, and with bbr
# had 0.928 of the sum, not 0.934, when it was then taken for shallow (kernel, medians of 4 and 5 runs).
DEEP_KEEP_S = 10.0
DATAGRAM_KEEP_S = 3.0  # longer than it takes to tell a longer route from a queue


class QueueAim:
    """Of one line in its sending direction, in seconds. `datagram_s`: what a full datagram takes on it."""

    def __init__(self) -> None:
        # At the line's best: a rate that sank because a longer route looks like a queue must not raise the
        # queue aimed at. Then it would look like a short one, for seconds.
        self._datagram = WindowedMin(DATAGRAM_KEEP_S)
        self._scale = 1.0
        self._deep_at = -inf  # when more than the queue aimed at stood in the buffer

    def note(self, rate: float, now: float) -> None:
        """The line carries so many bytes a second."""
        self._datagram.add(DATAGRAM_BYTES / rate, now)

    def datagram_s(self, rate: float) -> float:
        """At the line's best, now that it carries so many bytes a second."""
        return min(self._datagram.value, DATAGRAM_BYTES / rate)

    def queue_s(self, datagram_s: float, jitter_s: float) -> float:
        """q*: the queue aimed at."""
        return _aim(self._scale, datagram_s, jitter_s)

    def deep_queue_s(self, datagram_s: float, jitter_s: float) -> float:
        """q* where the buffer holds that."""
        return _aim(1.0, datagram_s, jitter_s)

    def shallow(self, now: float) -> bool:
        """Whether the line's buffer is known not to hold that."""
        return self._scale < SHALLOW and now - self._deep_at > DEEP_KEEP_S

    def slow_queue_s(self, datagram_s: float) -> float:
        """q* of a line that is slow only because others share it."""
        return max(QUEUE_AIM_S * self._scale, QUEUE_AIM_DATAGRAMS * datagram_s)

    def lower(self) -> None:
        """The line's buffer does not hold it."""
        self._scale *= LOWERED

    def begin_lowered(self) -> None:
        """STARTUP's end was loss: the buffer may be shallow."""
        self._scale = LOWERED

    def deep(self, now: float) -> None:
        """The buffer does hold it: more stood there."""
        self._deep_at = now

    def end_round(self) -> None:
        """Little by little it is what it was."""
        self._scale = min(1.0, self._scale * RAISED)


def _aim(scale: float, datagram_s: float, jitter_s: float) -> float:
    steady = min(max(QUEUE_AIM_FAST_S, QUEUE_AIM_FAST_DATAGRAMS * datagram_s), QUEUE_AIM_S)
    aim = min(max(steady, QUEUE_AIM_JITTER * jitter_s), QUEUE_AIM_MAX_S) * scale
    return max(aim, SHORT_S, QUEUE_AIM_DATAGRAMS * datagram_s)
