"""Whether a line is ours alone, and what it carries when it is.

Theory. What a line brings while it is full, of ours, with a short queue, and has been for FULL_S, is what it
carries: its best rate. A queue that stays high (contention.Suspicion) on a line that brings less than
SUSPECT_SHARE of that, with the least window that the model allows, is perhaps others'; contention.Contention
then has the window until it knows better.
"""

from math import inf

from bondvpn.bond.aim import QUEUE_HIGH
from bondvpn.bond.contention import Contention, Round, Suspicion, Verdict
from bondvpn.bond.delivery import DATAGRAM_BYTES
from bondvpn.bond.windowed import WindowedMin

SUSPECT_SHARE = 0.5  # of its best rate: a line that brings more needs no larger window
SUSPECT_AGAIN_S = 5.0  # after the queue proved to be ours, or nobody's
BEST_KEEP_S = 60.0
FULL_S = 1.0  # something was held back for so long ...
IDLE_S = 0.2  # ... without such a pause


class Sharing:
    """Who else uses a line. Sizes: bytes; rates: bytes a second."""

    def __init__(self) -> None:
        self.queue_s = 0.0
        """Of a verdict ROUTE: by so much the route is longer."""
        self._best = WindowedMin(BEST_KEEP_S)  # seconds a byte at the best rate
        self._carried = WindowedMin(BEST_KEEP_S)  # the same of any rate: it carries no less
        self._suspicion = Suspicion()
        self._suspect_after = -inf
        self._full_since = inf  # with a short queue
        self._used_at = -inf
        self._contention: Contention | None = None

    @property
    def best(self) -> float:
        """What the line carries when it is ours alone; infinite: unknown."""
        return 1 / self._best.value if self._best.value < inf else inf

    @property
    def datagram_s(self) -> float:
        """What a full datagram takes, at the most, at all of the line's rate."""
        return DATAGRAM_BYTES * min(self._carried.value, self._best.value)

    def begins(self, now: float) -> None:
        """The line is full for the first time."""
        self._full_since = now

    def carried(self, rate: float, now: float) -> None:
        """It brought this much, alone or not."""
        self._carried.add(1 / rate, now)

    def over(self) -> None:
        """What the queue was says nothing any more: the line was silent."""
        self._suspicion.clear()
        self._contention = None

    def alone(
        self, seen: Round, window: float, largest: float, loss: float, now: float, *, small: bool
    ) -> Verdict | None:
        """A round of a line that was ours alone: ROUTE, OTHERS (from now on ask `beside`), or None.

        `largest` is what it brings, `loss` the share of the datagrams that it loses by itself; `small`:
        whether the window is the least that the model allows.
        """
        if seen.queue <= QUEUE_HIGH * seen.aim:
            self._suspicion.clear(seen.queue)
            self._short(largest, now, used=seen.used)
            return None
        if self._suspicion.lasts:
            self._full_since = now
        verdict = self._suspicion.high(seen.queue, window, now, seen.trip_s, used=seen.used)
        if verdict is Verdict.ROUTE:
            self.queue_s = self._suspicion.queue_s
        elif (
            verdict is not Verdict.OTHERS
            or not small
            or largest >= SUSPECT_SHARE * self.best
            or now <= self._suspect_after
        ):
            return None
        else:
            self._contention = Contention(window, self.best, 1 / self._carried.value, loss, seen.trip_s, now)
        self._suspicion.clear()
        return verdict

    def _short(self, largest: float, now: float, *, used: bool) -> None:
        if used:
            self._used_at = now
            if largest and now - self._full_since > FULL_S:
                self._best.add(1 / largest, now)
        elif now - self._used_at > IDLE_S:
            self._full_since = now

    def beside(self, seen: Round, now: float) -> tuple[Verdict | None, float]:
        """A round beside others: (the verdict that ends it or None, the window)."""
        contention = self._contention
        assert contention is not None
        verdict = contention.round(seen, now)
        if verdict is not None:
            if contention.best < inf:
                self._best.restart(1 / contention.best, now)
            self._full_since = now
            self._contention = None
            self._suspicion.clear()
            self.queue_s = contention.queue_s
            if verdict is not Verdict.SHORT and verdict is not Verdict.ROUTE:
                self._suspect_after = now + SUSPECT_AGAIN_S
        return verdict, contention.window
