"""Plans of what happens to lines, and what the lines are worth meanwhile."""

import pytest

from bench.timeline import OUTAGE, Step, handovers, mean_worths, outages, wandering
from bondvpn.lab.shape import line

A = line("a", up_mbit=10, down_mbit=50, delay_s=0.010)
B = line("b", up_mbit=10, down_mbit=20, delay_s=0.040)
SHARE = 1448 / 1514


def test_rates_wander_within_their_bounds_each_line_by_itself() -> None:
    steps = wandering([A, B], 0.3, 1.0, 100, seed=1)
    rates = {name: [step.rate or 0 for step in steps if step.line == name] for name in "ab"}
    assert [step.at_s for step in steps if step.line == "a"] == list(range(100))
    assert all(0.7 <= rate <= 1.3 for rate in rates["a"] + rates["b"])
    assert min(rates["a"]) < 0.75
    assert max(rates["a"]) > 1.25
    assert rates["a"] != rates["b"]


def test_a_seed_gives_its_plan_and_no_other() -> None:
    assert wandering([A], 0.3, 1.0, 10, seed=1) == wandering([A], 0.3, 1.0, 10, seed=1)
    assert wandering([A], 0.3, 1.0, 10, seed=1) != wandering([A], 0.3, 1.0, 10, seed=2)


def test_outages_come_as_often_and_last_as_long_as_told() -> None:
    steps = outages("b", 12, (0.1, 0.4), 600, seed=3)
    begins, ends = steps[::2], steps[1::2]
    assert len(begins) == len(ends) == 120
    assert all(step.rate == OUTAGE for step in begins)
    assert all(step.rate == 1.0 for step in ends)
    lengths = [end.at_s - begin.at_s for begin, end in zip(begins, ends, strict=True)]
    assert all(0.1 <= length <= 0.4 + 1e-9 for length in lengths)
    spans = list(zip(begins, ends, strict=True))
    assert all(i * 5 <= begin.at_s < end.at_s <= i * 5 + 5 for i, (begin, end) in enumerate(spans))


def test_a_handover_cuts_and_comes_back_with_another_delay_and_rate() -> None:
    steps = handovers(A, 15, 40, seed=1)
    assert [step.cut for step in steps] == [True, False] * 3
    assert [step.at_s for step in steps[::2]] == [7.5, 22.5, 37.5]
    assert len({step.delay_s for step in steps[1::2]}) == 3
    assert all(0.010 <= (step.delay_s or 0) <= 0.025 for step in steps[1::2])
    assert all(0.7 <= (step.rate or 0) <= 1 for step in steps[1::2])


def test_the_mean_weighs_each_rate_by_its_time_in_the_window() -> None:
    steps = [Step(2.0, "a", rate=0.5), Step(4.0, "a", cut=True), Step(5.0, "a", rate=2.0, cut=False)]
    # From 1 to 6: a second at 1, two at 0.5, a second cut, a second at 2.
    a, b = mean_worths([A, B], steps, "down", 1.0, 6.0)
    assert a == pytest.approx(50e6 * SHARE * (1 + 2 * 0.5 + 0 + 2) / 5)
    assert b == pytest.approx(20e6 * SHARE)


def test_steps_before_the_window_count_and_those_after_do_not() -> None:
    steps = [Step(0.0, "a", rate=0.5), Step(9.0, "a", rate=1.5)]
    assert mean_worths([A], steps, "up", 3.0, 8.0) == pytest.approx([10e6 * SHARE * 0.5])
