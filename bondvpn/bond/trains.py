"""What a line carries, told by datagrams that left faster than that: one behind the other they arrive as fast
as the line is (packet-train dispersion: Dovrolis, Ramanathan, Moore, IEEE/ACM ToN 12(6), 2004).

A train lasts from report to report while all that they tell of waited in the queue, or overflowed it: a
buffer of two datagrams shows no delay that is told from jitter, it only loses. The longer a train, the less
the receiver's clock and wake-ups count: each replaces what was known of its own beginning.
"""

from bondvpn.bond.delivery import DATAGRAM_BYTES

TRAIN_S = 0.002  # a modem's or our own timers leave bursts of 1 ms
TRAIN_DATAGRAMS = 4
# Between two reports: a buffer that overflows. Of 8 datagrams 2.5 % random loss takes two once in 60 times,
# and what is taken for a train and is none is slower than the line.
OVERFLOW_LOST, OVERFLOW_SHARE = 2, 1 / 8


class Trains:
    """Of one line. Sizes: bytes as Ethernet frames; times: seconds of the receiver's clock."""

    def __init__(self) -> None:
        self._begins = self._last = (0.0, 0)
        self._goes_on = False
        self._rate = 0.0
        self._fastest = 0.0

    @property
    def fastest(self) -> float:
        """Bytes a second of the fastest; 0: there was none yet."""
        return max(self._fastest, self._rate)

    @property
    def too_short(self) -> bool:
        """Whether there is one, and the next report may tell its rate."""
        return self._goes_on and not self._rate

    def came(self, frame_bytes: int, at_s: float) -> float:
        """So much came in all up to `at_s`. The rate since the train began; 0 while that is too little."""
        self._last = at_s, frame_bytes
        took, came = at_s - self._begins[0], frame_bytes - self._begins[1]
        return came / took if took >= TRAIN_S and came >= TRAIN_DATAGRAMS * DATAGRAM_BYTES else 0.0

    def waited(self, rate: float) -> None:
        """All that came since the last report had waited. `rate`: what `came` said."""
        self._goes_on = True
        self._rate = rate or self._rate

    def overflowed(self, rate: float) -> None:
        """Some of what left was lost in a full buffer. The first of the rest may have found it empty."""
        if self._goes_on:
            self.waited(rate)
        else:
            self.over()
            self._goes_on = True

    def over(self) -> None:
        """Not all that came since the last report had waited: the next one begins here."""
        self._fastest, self._rate = self.fastest, 0.0
        self._begins = self._last
        self._goes_on = False


def overflows(came: int, lost: int) -> bool:
    """Whether a report that newly tells of so many datagrams tells of a full buffer."""
    return lost >= max(OVERFLOW_LOST, OVERFLOW_SHARE * came)
