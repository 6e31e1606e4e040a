"""What the model of one line's window leaves out, as a factor: moved each round by the queue that it left.

Above 1.5 q* it goes down by 5 %, above q* by 2 %, below it up by 3 %, if something was held back.

Once in a while the line is drained: its window is DRAIN of what fills it without any queue, for a round. Then
the queue is short for some rounds because of that, and moves nothing.
"""

from bondvpn.bond.aim import QUEUE_HIGH

GROW, EASE, SHRINK = 1.03, 0.98, 0.95
GROW_CAREFUL = 1.001
# The most: where processors are busy both ends are late by more than a short line takes, and what is under
# way must cover that. With 2, clients of eight on two cores stayed at 12 of 40 Mbit/s. A queue ends it.
CORRECTION_MIN, CORRECTION_MAX = 0.6, 8.0
# Below 1 the window would be less than what brings R, and both would shrink each other.
LOSSY_MIN = 1.0
DRAIN = 0.6  # of what fills the line without any queue
DRAIN_ROUNDS = 3  # until the queue is what it was: its own short one is no reason to grow


class Correction:
    """Of one line in its sending direction."""

    def __init__(self) -> None:
        self.value = 1.0
        self._blind = 0  # rounds in which the queue is short because it was drained

    @property
    def smallest(self) -> bool:
        """Whether no queue makes it smaller."""
        return self.value <= CORRECTION_MIN

    @property
    def smallest_lossy(self) -> bool:
        """Whether no loss makes it smaller."""
        return self.value <= LOSSY_MIN

    @property
    def drained(self) -> bool:
        """Whether the round before was one of draining."""
        return self._blind == DRAIN_ROUNDS

    def drains(self) -> None:
        """The round that begins is one of draining."""
        self._blind = DRAIN_ROUNDS

    def note_round(self, queue_s: float, aim_s: float, *, held: bool, careful: bool, shallow: bool) -> None:
        """A round left such a queue where `aim_s` was aimed at. `held`: the window or the pacer held back
        something; `careful`: such a window lost too much a moment ago; `shallow`: the buffer is."""
        least = LOSSY_MIN if shallow else CORRECTION_MIN
        self.value = max(self.value, least)
        if self._blind:
            self._blind -= 1
        elif queue_s > QUEUE_HIGH * aim_s:
            self.value = max(self.value * SHRINK, least)
        elif queue_s > aim_s:
            self.value = max(self.value * EASE, least)
        elif queue_s < aim_s and held:
            self.value = min(self.value * (GROW_CAREFUL if careful else GROW), CORRECTION_MAX)

    def cut(self, share: float) -> None:
        """What was under way lost too much: multiply by this."""
        self.value = min(self.value, max(self.value * share, LOSSY_MIN))

    def reset(self) -> None:
        """What moved it was not the line's queue."""
        self.value = 1.0
