"""Somebody else fills the line's queue: how that is told from a queue of our own or a longer route, and the
window beside them.

Theory. Three things look alike at first: the delay is high, and it stays. What tells them apart is what our
own window does to it (Little's law: window = rate x delay):

                         a smaller window brings   a larger window brings   the delay meanwhile
    a queue of our own   as much, sooner           no more, only later      follows the window
    a longer route       less                      more                     stands
    others' queue        less                      more                     moves by itself

A delay that stayed high for SUSPECT_ROUNDS, although the window had shrunk to the least that the model allows
and the line brings less than half of its best, is suspect. If it came as a step and stood still, it is the
route. Else the window doubles, each time for STEP_TRIPS, up to SHARE of what the line holds:

    stage      next       when
    grow       OURS       the first doubling brought no more, only later
    grow       ROUTE      SHARE was reached, nothing was lost, and the delay stood meanwhile
    grow       beside     SHARE was reached; or a step brought no more, or lost LOSS_GROWING
    grow       look       the delay stood above QUEUE_MAX_S for STOOD_S: perhaps all of it is ours
    beside     look       the same; LOOK_MIN_S after growing; then each LOOK_AGAIN_S
    look       ROUTE      the delay stood all the while, as it did beside
    look       beside     LOOK_TRIPS are over
    look       grow       it showed that we have less than SHARE_LOW
    each       SHORT      the queue is short again
    each       UNKNOWN    nothing used the window for LOOK_AGAIN_S

Beside others the window is cubic's (RFC 9438). A look leaves under way what fills the line without a queue:
if the queue is ours alone it empties, and if not, what it shrank by tells the line's rate, cut / shrinkage,
for the others' windows stood meanwhile. With that rate two bounds hold, and make a wrong guess harmless. We
never have more than SHARE_MAX of what the line holds with the present delay under way: if we are alone after
all, that is less than fills the line, and the queue empties by itself. And no delay that is more than
QUEUE_MAX_S above the base allows a larger window.
"""

from collections import deque
from enum import Enum
from math import inf, sqrt
from typing import NamedTuple

from bondvpn.bond.cubic import Cubic

SUSPECT_ROUNDS = 12
STEADY_QUEUE_S = 0.002  # what a queue moves less than is none ...
ROUTE_ROUNDS, ROUTE_WINDOWS = 6, 1.5  # ... in so many rounds, while the window shrank so much ...
ROUTE_STEP = 0.5  # ... after a step of so much of it
ROUTE_SMALL_S = 0.012  # what is left of our own queue may hide the step
SUSPECT_TRIPS = 3.0
LOSS_DEVIATIONS = 3.0
LOSS_GROWING = 0.05
LOSS_DATAGRAMS = 8  # of the 40 of a small window two are 5 % by chance: it then stayed at 8 % of the line
SHARE = 0.5  # of the line beside others, to begin with
SHARE_LOW, SHARE_MAX = 0.4, 0.6
QUEUE_MAX_S = 0.150
STOOD_S = 0.5
BLIND = 4.0  # times the window: two steps, and the line's rate is looked at
GREW = 1.35  # times as much, by twice the window
OURS_QUEUE = 0.5  # of the delay that twice the window adds to a queue of our own
STEP_TRIPS = 2.0  # until what the window brings has been reported, and for a trip
USED = 0.7  # of a step's rounds
LOOK = 0.6  # of what fills the line without a queue, as Capacity's drain
LOOK_AGAIN_S = 5.0
LOOK_HIGH_S = 2.0  # of more than QUEUE_MAX_S
LOOK_MIN_S = 1.0
RECOVERY_TRIPS = 1.5  # the queue may have grown meanwhile
LOOK_TRIPS = 2.2  # nothing leaves for most of one, and what leaves then has been reported


class Verdict(Enum):
    """Whose queue it is; see the table above."""

    OURS = "ours"
    ROUTE = "route"
    SHORT = "short"
    OTHERS = "others"
    UNKNOWN = "unknown"


class Round(NamedTuple):
    """What a round of the line showed. Sizes: bytes; rates: bytes a second."""

    queue: float
    """The smallest delay above the base, seconds."""
    aim: float
    """The queue aimed at: below this it is short, and what it moves less than is noise."""
    rate: float
    """Delivered over a trip."""
    came: int
    lost: int
    """Datagrams."""
    used: bool
    """Whether the window (or the pacer) held something back."""
    trip_s: float
    """From a datagram's departure to the report on it, with the present delay."""
    empty_trip_s: float
    """The same without any queue."""


class Suspicion:
    """The rounds in which the delay stayed high although the window shrank."""

    def __init__(self) -> None:
        self._rounds: deque[tuple[float, float]] = deque(maxlen=SUSPECT_ROUNDS)  # (queue, window)
        self._high = 0
        self._last = 0.0
        self._step = 0.0  # the largest from one round to the next
        self._since = inf

    def clear(self, queue: float = 0.0) -> None:
        """The queue is short, or at least this is known of it."""
        self._rounds.clear()
        self._last, self._step, self._since, self._high = queue, 0.0, inf, 0

    @property
    def lasts(self) -> bool:
        """Whether it is more than what a change of the line's rate brings about."""
        return self._high >= ROUTE_ROUNDS

    @property
    def queue_s(self) -> float:
        """The smallest of these rounds."""
        return min(queue for queue, _ in self._rounds)

    def high(self, queue: float, window: float, now: float, trip_s: float, *, used: bool) -> Verdict | None:
        """The queue was high in one more round: ROUTE, OTHERS (perhaps), or None as long as there is no
        telling."""
        if queue - self._last > ROUTE_STEP * queue:
            self._rounds.clear()
        self._step = max(self._step, queue - self._last)
        self._last = queue
        self._high += 1
        self._since = min(self._since, now)
        if not used:
            return None
        self._rounds.append((queue, window))
        queues, windows = zip(*self._rounds, strict=True)
        still = max(queues[-ROUTE_ROUNDS:]) - min(queues[-ROUTE_ROUNDS:]) < STEADY_QUEUE_S
        shrank = len(queues) >= ROUTE_ROUNDS and max(windows) > ROUTE_WINDOWS * min(windows)
        if still and shrank and (self._step > ROUTE_STEP * queue or queue < ROUTE_SMALL_S):
            return Verdict.ROUTE
        # What was under way before the window shrank has come, and what came after it.
        enough = len(queues) == SUSPECT_ROUNDS and now - self._since > SUSPECT_TRIPS * trip_s
        return Verdict.OTHERS if enough else None


class Contention:
    """The window of a line whose delay stays, whatever we do. Sizes: bytes; rates: bytes a second."""

    def __init__(
        self, window: float, best: float, carried: float, loss: float, trip_s: float, now: float
    ) -> None:
        """`best` is what the line brought when its queue was short, infinite: unknown; `carried` the most
        that it ever brought; `loss` the share of the datagrams that it loses by itself."""
        self.window = window
        self.best = max(best, carried)  # others may have been there already when `best` was seen
        """What the line carries, as far as is known."""
        self._carried = carried
        self._loss = loss
        self._cubic = Cubic(window)
        self._first = True  # before any look
        self._asks = True  # what the line carries
        self._before = 0.0, 0.0, 0.0  # a look: delay, window, rate
        self._look_lowest = inf  # delay
        self._begin_growing(now, trip_s)
        self._recovered_at = -inf
        self._round_at = self._used_at = self._looked_at = now
        self._lowest, self._highest = inf, 0.0  # delay, since the last look began or growing did
        self._stood_at, self._stood_since = inf, now

    @property
    def queue_s(self) -> float:
        """The smallest delay above the base that this stage has seen."""
        return self._lowest

    def round(self, seen: Round, now: float) -> Verdict | None:
        """A round of the line is over: whose queue it is, once that is known."""
        if seen.queue < seen.aim:
            return Verdict.SHORT
        self._rounds += 1
        if seen.used:
            self._used_rounds += 1
            self._used_at = now
        elif now - self._used_at > LOOK_AGAIN_S:
            return Verdict.UNKNOWN
        if now >= self._recovered_at:
            self._came += seen.came
            self._lost += seen.lost
        self._lowest, self._highest = min(self._lowest, seen.queue), max(self._highest, seen.queue)
        if abs(seen.queue - self._stood_at) > max(STEADY_QUEUE_S, seen.aim):
            self._stood_at, self._stood_since = seen.queue, now
        verdict = None
        if self._perhaps_ours(seen, now):
            self._begin_look(seen, now)
        else:
            verdict = self._stage(seen, now)
        self._round_at = now
        return verdict

    def _begin_step(self, now: float, takes_s: float) -> None:
        self._step_ends = now + takes_s
        self._rounds = self._used_rounds = 0
        self._came = self._lost = 0

    @property
    def _lossy(self) -> bool:
        """Whether more was lost in this step than the line loses by itself."""
        usual = self._loss * (self._came + self._lost)
        return self._lost > usual + LOSS_DEVIATIONS * sqrt(usual)

    def _of_line(self, share: float, seen: Round) -> float:
        """So much of what the line holds with the present delay. Before a look told its rate: of what it
        carried at least, or BLIND times what we had, and no more in a queue of QUEUE_MAX_S."""
        trip_s = min(seen.trip_s, seen.empty_trip_s + QUEUE_MAX_S)
        if self.best < inf:
            return share * self.best * trip_s
        least = max(BLIND * self._grew_from, share * self._carried * trip_s)
        return least if seen.queue < QUEUE_MAX_S else self.window

    def _perhaps_ours(self, seen: Round, now: float) -> bool:
        """A queue that moves by itself is others'. So large a one that does not may be ours: the line became
        slow, and what we have under way, a share of what it held, is now all that it holds."""
        stood = now - self._stood_since > STOOD_S
        return self._stage != self._look and seen.queue > QUEUE_MAX_S and stood

    def _stood(self, seen: Round) -> bool:
        return self._highest - self._lowest < max(STEADY_QUEUE_S, seen.aim)

    def _begin_growing(self, now: float, trip_s: float) -> None:
        self._stage = self._grow
        self._grew_from = self.window
        self._rate = self._queue = 0.0  # with the window before
        self._doubled = 0
        self._begin_step(now, trip_s)

    def _grow(self, seen: Round, now: float) -> Verdict | None:
        if now < self._step_ends or not seen.rate:
            return None
        if self._used_rounds < USED * self._rounds:  # too little was sent to tell
            self._begin_step(now, STEP_TRIPS * seen.trip_s)
            return None
        flat = seen.rate < GREW * self._rate
        if flat and self._doubled == 1 and self._first:
            if seen.queue - self._queue > OURS_QUEUE * self.window / 2 / seen.rate:
                return Verdict.OURS
            self._begin_growing(now, seen.trip_s)  # others take it at this very moment
            return None
        target = self._of_line(SHARE, seen)
        full = self._lost > max(LOSS_DATAGRAMS, LOSS_GROWING * (self._came + self._lost))
        if flat or full or target < GREW * self.window:
            if self._stood(seen) and self._doubled and not full and not flat:
                return Verdict.ROUTE
            self._cubic = Cubic(self.window)
            self._go_beside(seen, now)
            if flat or full:
                self._lose(seen, now)
            return None
        self._rate, self._queue = seen.rate, seen.queue
        self._doubled += 1
        self.window = min(2 * self.window, target)
        self._begin_step(now, STEP_TRIPS * seen.trip_s)
        return None

    def _go_beside(self, seen: Round, now: float) -> None:
        self._stage = self._beside
        self._looked_at = now
        self._lowest = self._highest = seen.queue
        self._came = self._lost = 0

    def _lose(self, seen: Round, now: float) -> None:
        """Once for all that was under way with the window that lost."""
        self._cubic.lost()
        self._came = self._lost = 0
        self._recovered_at = now + RECOVERY_TRIPS * seen.trip_s

    def _beside(self, seen: Round, now: float) -> Verdict | None:
        again_s = LOOK_AGAIN_S if seen.queue < QUEUE_MAX_S else LOOK_HIGH_S
        if now - self._looked_at > (LOOK_MIN_S if self._asks else again_s):
            self._begin_look(seen, now)
            return None
        most = self._of_line(SHARE_MAX, seen)
        if self._lossy:
            self._lose(seen, now)
        elif seen.used and self._cubic.window < most:
            self._cubic.grow(now - self._round_at, seen.trip_s)
        self._cubic.window = self.window = min(self._cubic.window, most)
        return None

    def _begin_look(self, seen: Round, now: float) -> None:
        self._stage = self._look
        self._before = seen.queue, self.window, seen.rate
        self._cubic.window = self.window  # this may interrupt growing
        self._look_lowest = seen.queue
        self.window = min(LOOK * seen.rate * seen.empty_trip_s, self.window / 2)
        self._begin_step(now, LOOK_TRIPS * seen.trip_s)

    def _look(self, seen: Round, now: float) -> Verdict | None:
        self._look_lowest = min(self._look_lowest, seen.queue)
        if now < self._step_ends:
            return None
        if self._stood(seen):
            return Verdict.ROUTE
        queue, window, rate = self._before
        shrank = queue - self._look_lowest
        if shrank > seen.aim:
            self.best = max((window - self.window) / shrank, rate)
        self.window = self._cubic.window
        self._first = False
        self._go_beside(seen, now)
        self._asks = self.best == inf or self.window < self._of_line(SHARE_LOW, seen)
        if self._asks:
            self._begin_growing(now, seen.trip_s)
        return None
