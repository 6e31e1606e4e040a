"""The first rounds of a line of which nothing is known: the window grows fourfold until something is full.

The flow inside doubles by itself. What of that waits for us is taken for a queue and ends its slow start
(HyStart), so our window runs ahead of it: by twice as much each round, up to four times what it needs. A line
that joins a flow which runs already may have seven times too much once, until its queue is seen to stand.

That is over when a queue of ours stands, when the rate grew by less than a quarter in each of three rounds
that were limited (BBR), of ROUND_MIN_S or more, or when a round lost much, which a shallow buffer does before
it shows a queue.
"""

from collections.abc import Reversible
from math import inf

ROUND_MIN_S = 0.025  # a rate is told over twice as long, and reports are up to 10 ms apart
# While the window doubles: by rounds of 25 ms a flow over gigabit Ethernet was ahead of it by all that may
# wait here, lost some and had 0.6 of its rate for seconds.
ROUND_STARTUP_S = 0.005
STARTUP_GROWTH = 4.0  # per round; slow start has 2
# Times what was delivered in a round trip. Nine pairs of lines of 200 to 400 ms bring cubic 0.76 of Σ; with a
# growth of 2, 2.7 here and a pace bound to what was delivered it was 0.49 (simulated).
STARTUP_WINDOW_MAX = 8.0
THIN_GROWTH = 2.0  # of what fills the line, where probes say that it is thin: they may be wrong
STARTUP_ROUNDS_FLAT = 3  # BBR: draft-cardwell-iccrg-bbr-congestion-control-00, 4.3.1.2
STARTUP_RATE_GROWTH = 1.25
OTHERS_S, OTHERS_TRIPS = 1.0, 4  # a queue that was there before us and stays so long counts too
STARTUP_TOLD = 3  # reports of a queue
LOSS_STARTUP = 0.05
LOSS_STARTUP_DATAGRAMS = 8  # at 2.5 % random loss more than so many of 66 are lost in a round of 10,000


class Startup:
    """Of one line. Sizes: bytes as Ethernet frames; rates: bytes a second."""

    def __init__(self) -> None:
        self._rate = 0.0  # the largest that was delivered in a round, when it was last a quarter more
        self._flat = 0  # rounds since
        self._counted_at = -inf  # when the last of them ended
        self._idle_at = -inf  # when a queue was last seen on the line without our using it

    def over(self, delivered: float, now: float, *, limited: bool, ends: bool) -> bool:
        """Whether the round that delivered so much was the last one. `limited`: by the window; `ends`: by a
        full queue or loss it is anyway."""
        if delivered > self._rate * STARTUP_RATE_GROWTH:
            self._rate, self._flat, self._counted_at = delivered, 0, now
        elif (limited or ends) and now - self._counted_at >= ROUND_MIN_S:
            self._flat, self._counted_at = self._flat + 1, now
        return ends or self._flat >= STARTUP_ROUNDS_FLAT

    def ours(self, short_at: float, trip_s: float, now: float, *, pressed: bool) -> bool:
        """Whether a queue, last seen short at `short_at`, is our own doing: it has become long since we began
        to use the line (`pressed`: we do). One that was there before says nothing of what the line carries,
        unless it stays."""
        if not pressed:
            self._idle_at = now
            return False
        return short_at > self._idle_at - trip_s or now - self._idle_at > OTHERS_S + OTHERS_TRIPS * trip_s

    @staticmethod
    def used(window: float, delivered: float, trip_s: float) -> bool:
        """A quarter of the window in use is enough to widen it (Linux' slow start: half)."""
        return delivered * trip_s > window / STARTUP_GROWTH

    @staticmethod
    def widened(window: float, delivered: float, trip_s: float, thin: float) -> float:
        """The window of the next round. `thin`: what probes say that the line carries (longprobes.py)."""
        wider = min(window * STARTUP_GROWTH, STARTUP_WINDOW_MAX * delivered * trip_s)
        return max(window, min(wider, THIN_GROWTH * max(thin, delivered) * trip_s))


def lossy(came: int, lost: int) -> bool:
    """Whether a round of so many datagrams lost too much."""
    return lost > max(LOSS_STARTUP_DATAGRAMS, LOSS_STARTUP * (came + lost))


def full_for_s(queues: Reversible[tuple[float, float]], high_s: float, least_s: float, now: float) -> float:
    """For how long the line has been full, once its queue has stood for `least_s` and several reports say so;
    else 0. `queues`: (when told, delay), oldest first, both in seconds; from `high_s` on there is a queue.

    What the first of those reports told of had waited, so the line was full already as that left. (The round
    of a long line tells so late that its modem is full by then: over two of 340 ms cubic brought 0.6 of Σ,
    not 0.9; simulated.)
    """
    told, since = 0, now
    for at, queue in reversed(queues):  # mostly the newest is enough: each report asks
        if told >= STARTUP_TOLD and at < now - least_s:
            break
        if queue < high_s:
            return 0.0
        told, since = told + 1, at - queue
    return now - since if told >= STARTUP_TOLD else 0.0
