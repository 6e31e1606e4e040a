"""What one line carries, by what came over it: R for its window, and a mean for the scheduler.

R is the delivered rate over a round trip, the largest of the last few. Both are of the receiver's clock.
"""

from bondvpn.bond.delays import Delays
from bondvpn.bond.delivery import DATAGRAM_BYTES, RATE_DATAGRAMS, Delivery

RATE_WINDOW_S = 0.050
RATE_KEEP_S = 0.300
RATE_KEEP_ROUNDS = 3
MEAN_RATE_S = 0.200  # for the scheduler: mean over so long
MEAN_WEIGHT = 0.2  # of a report, in the scheduler's mean


class LineRate:
    """Of one line in its sending direction, in bytes a second; sizes: bytes as Ethernet frames."""

    def __init__(self, cap: float, guess: float, delays: Delays) -> None:
        """`cap`: the configured speed, infinite without one; `guess`: what the line may carry."""
        self.cap = cap
        self.mean = min(cap, guess)
        """What it carries as far as is known: it follows up at once, down only while that limits."""
        self._delays = delays
        self._delivery = Delivery()

    def at_least(self, rate: float) -> None:
        """The line may well carry so much."""
        self.mean = min(max(self.mean, rate), self.cap)

    def guess(self, rate: float) -> None:
        """Of a line that has carried nothing yet."""
        self.mean = min(rate, self.cap)

    def arrived(self, frame_bytes: int, at_s: float, report_s: float) -> None:
        """So much came in all up to `at_s` by the receiver's clock, of which a report told; those come every
        `report_s`."""
        trips_s = max(2 * self._delays.base_rtt_s, self._delays.srtt_s + report_s)
        keep_s = max(MEAN_RATE_S, trips_s, RATE_DATAGRAMS * DATAGRAM_BYTES / self.mean)
        self._delivery.arrived(frame_bytes, at_s, keep_s)

    @property
    def lately(self) -> float:
        """What came over the last MEAN_RATE_S; 0: there is no telling."""
        return self.over(MEAN_RATE_S)

    def follow(self, lately: float, *, limited: bool) -> None:
        """The mean, by what came lately. `limited`: the line brought all that it carries."""
        if limited:
            self.mean += (max(lately, DATAGRAM_BYTES) - self.mean) * MEAN_WEIGHT
        elif lately > self.mean:
            self.mean = lately

    @property
    def delivered(self) -> float:
        """The rate of the last round trip; 0: there is no telling."""
        return self.over(max(self._delays.base_rtt_s, RATE_WINDOW_S))

    def over(self, over_s: float) -> float:
        """What came over the last `over_s`; 0: there is no telling."""
        return self._delivery.rate(over_s)

    def brought(self, rate: float, now: float) -> None:
        """That is all the line carries, as far as is known: R for the next rounds, if none is larger."""
        self._delivery.note(rate, now)

    def largest(self, now: float) -> float:
        """R; 0: nothing was brought lately."""
        return self._delivery.largest(max(RATE_KEEP_S, RATE_KEEP_ROUNDS * self._delays.base_rtt_s), now)

    def forget(self) -> None:
        """What the line brought says nothing any more."""
        self._delivery.forget()
