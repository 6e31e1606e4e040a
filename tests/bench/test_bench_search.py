"""The search for the highest rate: what it finds, how often it asks, and when it gives up."""

import math
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.search import CLIMB, FINE, RATES_MAX, TRIES, highest


@dataclass
class Trial:
    passed: bool


class Machine:
    """Passes up to a limit, but for the probes of which `odd` (counted from 1) says something else."""

    def __init__(self, limit: float, odd: dict[int, bool] | None = None) -> None:
        self.limit = limit
        self.odd = odd or {}
        self.asked: list[float] = []

    def __call__(self, rate: float) -> Trial:
        self.asked.append(rate)
        return Trial(self.odd.get(len(self.asked), rate <= self.limit))


@given(limit=st.floats(2_000, 5e6), start=st.floats(10_000, 100_000))
def test_what_is_found_passes_and_lies_close_below_the_limit(limit: float, start: float) -> None:
    if limit < start / CLIMB**8:
        return
    machine = Machine(limit)
    found = highest(machine, start)
    assert found is not None
    rate, probe = found
    assert probe.passed
    assert limit / FINE <= rate <= limit


@pytest.mark.parametrize("answer", [False, True])
def test_one_odd_answer_does_not_move_the_figure(answer: bool) -> None:
    """Neither a stall of the machine nor a lucky pass."""
    undisturbed = highest(Machine(100_000), 20_000)
    for odd in range(1, 16):
        disturbed = highest(Machine(100_000, {odd: answer}), 20_000)
        assert undisturbed is not None
        assert disturbed is not None
        assert disturbed[0] == undisturbed[0]


def test_a_start_near_the_figure_needs_few_probes() -> None:
    far, near = Machine(130_000), Machine(130_000)
    highest(far, 20_000)
    highest(near, 0.75 * 130_000)
    assert len(near.asked) < len(far.asked) <= 2 * 12


def test_nothing_that_passes_gives_none_and_ends() -> None:
    machine = Machine(0)
    assert highest(machine, 20_000) is None
    assert len(machine.asked) <= TRIES * 10


def test_no_limit_at_all_ends_too() -> None:
    machine = Machine(math.inf)
    assert highest(machine, 1.0) is not None
    assert len(set(machine.asked)) == RATES_MAX


@pytest.mark.parametrize(("start", "fine"), [(0, 1.04), (-1, 1.04), (math.inf, 1.04), (1000, 1.0)])
def test_a_search_that_could_not_end_is_refused(start: float, fine: float) -> None:
    with pytest.raises(ValueError, match="search from"):
        highest(Machine(1e6), start, fine=fine)
