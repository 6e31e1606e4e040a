"""Whether a line is thin, before it has carried anything: what a long probe takes longer than a short one.

A probe of the path's MTU and its short answer take `bytes more / rate` longer than a short one and its
answer; 6.6 ms at 1.7 Mbit/s, in each direction its own. Of a line of which nothing is known a flow's first
window takes 15 KB, which are 70 ms there, and cubic leaves its slow start on all lines for 16 ms on one.

Whatever else makes the long probe late makes the line look thinner: so this bounds only its first windows.
"""

from math import inf

TELLING_S = 0.002  # less may be a wake-up: from 6 Mbit/s on nothing is told


class LongProbes:
    """Of one line in its sending direction."""

    def __init__(self) -> None:
        self._took_s = inf
        self._nbytes = 0

    def answered(self, nbytes: int, rtt_s: float) -> None:
        """The answer to a probe of so many bytes (an Ethernet frame) came after `rtt_s`."""
        if nbytes > self._nbytes:
            self._nbytes, self._took_s = nbytes, rtt_s
        elif nbytes == self._nbytes:
            self._took_s = min(self._took_s, rtt_s)

    def rate(self, short_bytes: int, short_s: float) -> float:
        """Bytes a second, of a line whose probes of `short_bytes` took `short_s` at the least; infinite: it
        is not seen to be thin."""
        more_s = self._took_s - short_s
        if not self._nbytes or not short_s or more_s < TELLING_S:
            return inf
        return (self._nbytes - short_bytes) / more_s
