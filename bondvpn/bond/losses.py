"""What a line loses: by itself, and because its buffer is shallower than our queue.

Theory. Loss as such means nothing. What a line loses while nothing more wanted to leave is its own;
LOSS_MARGIN more than that, while more did, is a full buffer (or a policer). If the smaller window after that
does not help, it was the line's own all the same, and is learned up to LOSS_LEARNED_MAX.
"""

from math import inf
from typing import NamedTuple

LOSS_MARGIN = 0.05
LOSS_SAMPLE = 400  # datagrams: at 2.5 % random loss its share then varies by 0.8 %
LOSS_SEVERE, LOSS_CERTAIN = 0.15, 24  # so much more, and so many lost: no larger sample is needed to tell
# What no smaller window saves is the line's own, up to here: a buffer of two datagrams looks the same.
LOSS_LEARNED_MAX = 0.10
LOSSY_HELPED = 0.8  # of the lossy sample before: a smaller window did help, so the buffer was full
CAREFUL_S = 5.0
NEAR_LOSSY = 0.85  # of the window that lost: below it growth is as ever (as BBRv3's inflight_hi)
LOSSY = 0.9  # of the correction at the most, after a lossy sample


class Sample(NamedTuple):
    """Enough datagrams to tell."""

    share: float
    """Of the datagrams, lost."""
    pressed: bool
    """Whether more wanted to leave than did."""


class Losses:
    """Of one line in its sending direction."""

    def __init__(self) -> None:
        self.share = 0.0
        """Of the datagrams, lost however small the window, smoothed over some samples. What a full buffer
        drops is no fault of the line's."""
        self.pressed = False  # more wanted to leave than did, in the present sample
        self._came = self._lost = 0  # in the present sample
        self._own = 0.0  # what it loses by itself
        self._careful_until = -inf  # after a lossy sample
        self._lossy_window = inf  # with which that was lost
        self._lossy_share = inf  # what it lost

    def forget(self) -> None:
        """The line was silent."""
        self._came = self._lost = 0
        self.share = 0.0

    def near(self, window: float, now: float) -> bool:
        """Whether such a window lost too much a moment ago, or nearly such a one."""
        return now < self._careful_until and window > NEAR_LOSSY * self._lossy_window

    def sample(self, came: int, lost: int) -> Sample | None:
        """So many more datagrams came and were lost: the sample that they complete."""
        self._came += came
        self._lost += lost
        total = self._came + self._lost
        if not total:
            return None
        share = self._lost / total
        certain = self._lost >= LOSS_CERTAIN and share - self._own >= LOSS_SEVERE
        if total < LOSS_SAMPLE and not certain:
            return None
        self._came = self._lost = 0
        pressed, self.pressed = self.pressed, False
        return Sample(share, pressed)

    def judge(self, sample: Sample, window: float, now: float, *, steady: bool, least: bool) -> float | None:
        """What to multiply the window's correction by, if it was `window` that lost; None: it was not.

        `steady`: it was to keep the queue short; `least`: no smaller one is to be had.
        """
        share, pressed = sample
        excess = share - self._own
        lossy = pressed and excess > LOSS_MARGIN and steady
        before = self._lossy_share if now < self._careful_until else inf
        if not lossy or least or share > LOSSY_HELPED * before:
            self.share += (share - self.share) / 4
            if lossy:
                self._own = min(self._own + excess / 4, LOSS_LEARNED_MAX)
        if not pressed or excess < 0:
            self._own += excess / 4
        elif lossy:
            self._careful_until = now + CAREFUL_S
            self._lossy_share, self._lossy_window = share, window
            return min(LOSSY, 1 - excess)
        return None
