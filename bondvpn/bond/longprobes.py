"""Whether a line is thin, before it has carried anything: what a long probe takes longer than a short one.

A probe of the path's MTU and its short answer take `bytes more / rate` longer than a short one and its
answer; 6.6 ms at 1.7 Mbit/s, in each direction its own. Of a line of which nothing is known a flow's first
window takes 15 KB, which are 70 ms there, and cubic leaves its slow start on all lines for 16 ms on one.

Whatever else makes the long probe late makes the line look thinner: so it counts only until the line has
shown more, and what a wake-up may take is no part of it.
"""

from math import inf

LATE_S = 0.002  # a wake-up: from 6 Mbit/s on nothing is told
SENT_KEPT = 16  # there is one each quarter of a second, and answers take seconds where others fill the line


class LongProbes:
    """Of one line in its sending direction."""

    def __init__(self) -> None:
        self._sent: dict[int, float] = {}  # id -> when, oldest first
        self._took_s = inf
        self._nbytes = 0

    def sent(self, number: int, now: float) -> None:
        """A probe of that id leaves."""
        self._sent[number] = now
        if len(self._sent) > SENT_KEPT:
            del self._sent[next(iter(self._sent))]

    def answered(self, number: int, nbytes: int, now: float) -> None:
        """The answer to the probe of that id, an Ethernet frame of so many bytes, came."""
        sent = self._sent.pop(number, None)
        if sent is None or nbytes < self._nbytes:
            return
        took = now - sent
        self._took_s = took if nbytes > self._nbytes else min(self._took_s, took)
        self._nbytes = nbytes

    def rate(self, short_bytes: int, short_s: float) -> float:
        """Bytes a second, at least, of a line whose probes of `short_bytes` took `short_s` at the least;
        infinite: it is not seen to be thin."""
        more_s = self._took_s - short_s - LATE_S
        if not self._nbytes or not short_s or more_s <= 0:
            return inf
        return (self._nbytes - short_bytes) / more_s
