"""The highest rate that passes: a climb by factors, then bisection. The same search for every contender."""

import math
from collections.abc import Callable
from typing import Protocol, TypeVar

CLIMB = 1.4
FINE = 1.06  # the highest rate that passed and the lowest that failed are then this close
TRIES = 3
RATES_MAX = 40


class Probe(Protocol):
    """One trial at a rate."""

    @property
    def passed(self) -> bool: ...


P = TypeVar("P", bound=Probe)


def highest(trial: Callable[[float], P], start: float, *, fine: float = FINE) -> tuple[float, P] | None:
    """The highest rate found to pass and its probe; None when nothing down to `start` / CLIMB**8 does.

    From `start` by factors of CLIMB up while it passes, or down while it fails, to a rate that passed below
    one that failed; then bisected in the geometric mean. Assumes that what passes at a rate passes below
    it. A rate passes when most of TRIES trials do: neither a stall of the machine nor luck decides.
    Raises ValueError for a start or a fineness that no search can end with.
    """
    if not (0 < start < math.inf and fine > 1):
        raise ValueError(f"search from {start} to a factor of {fine}")
    best: tuple[float, P] | None = None
    failed = math.inf
    rate = start
    for _ in range(RATES_MAX):
        probe = _most_of(TRIES, trial, rate)
        if probe.passed:
            best = rate, probe
        else:
            failed = rate
        if best is None:
            if failed < start / CLIMB**8:
                return None
            rate = failed / CLIMB
        elif failed == math.inf:
            rate = best[0] * CLIMB
        elif failed / best[0] <= fine:
            break
        else:
            rate = math.sqrt(failed * best[0])
    return best


def _most_of(tries: int, trial: Callable[[float], P], rate: float) -> P:
    """The trial that decides what most of them say."""
    passed = failed = 0
    while True:
        probe = trial(rate)
        passed, failed = passed + probe.passed, failed + (not probe.passed)
        if 2 * max(passed, failed) > tries:
            return probe
