"""The first rounds of a line of which nothing is known: the window doubles until something is full.

That is over when the queue stands, when the rate grew by less than a quarter in each of three rounds that
were limited (BBR), or when a round lost much, which a shallow buffer does before it shows a queue.
"""

STARTUP_GROWTH = 2.0  # per round, as slow start
# Times what was delivered: doubling has it at 2. Over 16, 50 and 30 Mbit/s the first second of bbr brings
# 66 % of its final rate, at 3 63 %; cubic's 63 and 62 (kernel). At 2 a flow that doubles in bursts waits.
STARTUP_WINDOW_MAX = 2.7
STARTUP_ROUNDS_FLAT = 3  # BBR: draft-cardwell-iccrg-bbr-congestion-control-00, 4.3.1.2
STARTUP_RATE_GROWTH = 1.25
LOSS_STARTUP = 0.05
LOSS_STARTUP_DATAGRAMS = 8  # at 2.5 % random loss more than so many of 66 are lost in a round of 10,000


class Startup:
    """Of one line. Sizes: bytes as Ethernet frames; rates: bytes a second."""

    def __init__(self) -> None:
        self.rate = 0.0
        """The largest that was delivered in a round, when it was last a quarter more."""
        self._flat = 0  # rounds since

    def over(self, delivered: float, *, limited: bool, ends: bool) -> bool:
        """Whether the round that delivered so much was the last one. `limited`: by the window; `ends`: by a
        full queue or loss it is anyway."""
        if delivered > self.rate * STARTUP_RATE_GROWTH:
            self.rate, self._flat = delivered, 0
        elif limited or ends:
            self._flat += 1
        return ends or self._flat >= STARTUP_ROUNDS_FLAT

    @staticmethod
    def used(window: float, delivered: float, trip_s: float) -> bool:
        """As Linux' slow start: half of the window in use is enough to widen it. Else a flow whose own slow
        start doubles as fast waits for ours each round, and cubic takes that for a queue (HyStart)."""
        return delivered * trip_s > window / STARTUP_GROWTH

    @staticmethod
    def widened(window: float, delivered: float, trip_s: float) -> float:
        """The window of the next round."""
        return min(window * STARTUP_GROWTH, max(window, STARTUP_WINDOW_MAX * delivered * trip_s))


def lossy(came: int, lost: int) -> bool:
    """Whether a round of so many datagrams lost too much."""
    return lost > max(LOSS_STARTUP_DATAGRAMS, LOSS_STARTUP * (came + lost))
