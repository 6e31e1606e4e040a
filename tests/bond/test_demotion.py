"""Do no harm: which line is given up, why, and when it is tried again."""

import pytest

from bondvpn.bond.capacity import Capacity
from bondvpn.bond.demotion import (
    BACK_MAX_S,
    BEHIND_MAX_S,
    CLEAN_S,
    LOSS_MAX,
    RETRY_MAX_S,
    RETRY_S,
    WORTH,
    Demotion,
)

NOW = 1000.0


def line(loss: float = 0.0, delay_s: float | None = 0.010, rate: float = 1e6) -> Capacity:
    """`rate` in bytes a second; a lossy one brings little unless told otherwise."""
    capacity = Capacity()
    capacity.losses.share = loss
    capacity.carries.mean = 0.1 * rate if loss else rate
    if delay_s is not None:
        capacity.delays._base_delay.add(delay_s, NOW)
    return capacity


def test_a_sound_line_stays() -> None:
    demotion = Demotion()
    assert not demotion.judge(line(LOSS_MAX), [line()], NOW)
    assert not demotion.judge(line(0.0, 0.010 + BEHIND_MAX_S - 0.001), [line()], NOW)
    assert not demotion.judge(line(0.0, None), [line()], NOW), "its delay is not known"
    assert not demotion.judge(line(), [line(0.0, None)], NOW)
    assert not demotion.demoted
    assert demotion.reason == ""


@pytest.mark.parametrize(
    ("loss", "delay_s", "reason"),
    [
        (0.22, 0.010, "demoted: 22% loss"),
        (0.0, 0.760, "demoted: would hold the others back 750 ms"),
    ],
)
def test_a_line_that_costs_more_than_it_brings_is_demoted_in_words(
    loss: float, delay_s: float, reason: str
) -> None:
    demotion = Demotion()
    assert demotion.judge(line(loss, delay_s), [line(), line(0.0, 0.400)], NOW)
    assert demotion.demoted
    assert demotion.reason == reason


def test_a_line_that_brings_more_than_it_costs_stays_whatever_it_loses() -> None:
    demotion, others = Demotion(), [line()]
    assert not demotion.judge(line(0.3, rate=10e6), others, NOW)
    assert demotion.judge(line(0.3, rate=2e6), others, NOW)


def test_the_only_line_is_never_demoted() -> None:
    demotion = Demotion()
    assert not demotion.judge(line(0.9, 2.0), [], NOW)
    assert not demotion.demoted


def test_it_is_tried_again_each_time_after_twice_as_long() -> None:
    demotion, bad, others = Demotion(), line(0.5), [line()]
    now, waited = NOW, []
    for _ in range(7):
        bad.losses.share = 0.5
        assert demotion.judge(bad, others, now)
        assert demotion.demoted
        since = now
        while not demotion.judge(bad, others, now):
            now += 0.5
        assert not demotion.demoted
        assert demotion.reason == ""
        waited.append(now - since)
    assert waited == [min(RETRY_S * 2**i, RETRY_MAX_S) for i in range(7)]


def test_trying_again_begins_with_a_clean_slate() -> None:
    """What it lost before is not held against it a second time."""
    demotion, bad = Demotion(), line(0.5)
    bad.window = 100_000.0
    demotion.judge(bad, [line()], NOW)
    assert demotion.judge(bad, [line()], NOW + RETRY_S)
    assert bad.loss == 0.0
    assert bad.window == 50_000.0
    assert not demotion.judge(bad, [line()], NOW + RETRY_S + 1)


def test_without_the_others_it_is_used_at_once() -> None:
    demotion, bad = Demotion(), line(0.5)
    demotion.judge(bad, [line()], NOW)
    assert demotion.judge(bad, [], NOW + 0.1)
    assert not demotion.demoted


def test_a_long_time_without_fault_makes_it_as_good_as_new() -> None:
    demotion, bad, others = Demotion(), line(0.5), [line()]
    demotion.judge(bad, others, NOW)
    again = NOW + RETRY_S
    demotion.judge(bad, others, again)
    assert not demotion.judge(bad, others, again + CLEAN_S + 1)
    bad.losses.share = 0.5
    late = again + CLEAN_S + 2
    assert demotion.judge(bad, others, late)
    assert not demotion.judge(bad, others, late + RETRY_S - 0.1)
    assert demotion.judge(bad, others, late + RETRY_S)


def test_a_line_that_brings_its_part_is_kept_whatever_it_loses() -> None:
    bad, others = line(0.5), [line(), line()]
    for other in others:
        other.carries.mean = 1_000_000
    worth = WORTH * 2_000_000 / (1 - bad.loss)
    bad.carries.mean = 1.01 * worth
    assert not Demotion().judge(bad, others, NOW)
    bad.carries.mean = 0.99 * worth
    assert Demotion().judge(bad, others, NOW)


def test_a_line_whose_fault_was_mended_is_tried_at_once() -> None:
    demotion, bad, others = Demotion(), line(0.5), [line()]
    demotion.pardon(bad, NOW)
    assert not demotion.demoted
    assert demotion.judge(bad, others, NOW)
    demotion.pardon(bad, NOW + 1)
    assert (demotion.demoted, demotion.reason) == (False, "")


def test_one_that_was_late_is_used_again_once_it_is_not() -> None:
    """Somebody else had filled it. No need to wait as for one that loses."""
    demotion, late, others = Demotion(), line(0.0, 0.760), [line()]
    assert demotion.judge(late, others, NOW)
    assert not demotion.judge(late, others, NOW + 1.0)
    late.delays._base_delay.restart(0.010 + BACK_MAX_S + 0.01, NOW + 2.0)
    assert not demotion.judge(late, others, NOW + 2.0), "to and fro"
    late.delays._base_delay.restart(0.200, NOW + 3.0)
    assert demotion.judge(late, others, NOW + 3.0)
    assert not demotion.demoted
    bad = line(0.5)
    assert demotion.judge(bad, others, NOW + 4.0)
    assert not demotion.judge(bad, others, NOW + 5.0), "its delay was never why"
