"""What moves the factor on one line's window."""

import pytest

from bondvpn.bond.correction import (
    CORRECTION_MAX,
    CORRECTION_MIN,
    DRAIN_ROUNDS,
    EASE,
    GROW,
    GROW_CAREFUL,
    LOSSY_MIN,
    SHRINK,
    Correction,
)

AIM_S = 0.004


def moved(
    queue_s: float, *, held: bool = True, careful: bool = False, shallow: bool = False, rounds: int = 1
) -> float:
    correction = Correction()
    for _ in range(rounds):
        correction.note_round(queue_s, AIM_S, held=held, careful=careful, shallow=shallow)
    return correction.value


def test_the_queue_that_a_round_left_moves_it() -> None:
    assert moved(1.6 * AIM_S) == SHRINK
    assert moved(1.1 * AIM_S) == EASE
    assert moved(0.5 * AIM_S) == GROW
    assert moved(0.5 * AIM_S, careful=True) == GROW_CAREFUL


def test_it_grows_only_where_something_was_held_back() -> None:
    assert moved(0.0, held=False) == 1.0
    assert moved(1.6 * AIM_S, held=False) == SHRINK


def test_it_has_bounds_and_a_shallow_buffer_a_higher_one() -> None:
    assert moved(0.0, rounds=200) == CORRECTION_MAX
    assert moved(2 * AIM_S, rounds=200) == CORRECTION_MIN
    assert moved(2 * AIM_S, rounds=200, shallow=True) == LOSSY_MIN


def test_the_queue_is_short_for_some_rounds_because_it_was_drained() -> None:
    correction = Correction()
    correction.drains()
    assert correction.drained
    for _ in range(DRAIN_ROUNDS):
        correction.note_round(0.0, AIM_S, held=True, careful=False, shallow=False)
        assert correction.value == 1.0
        assert not correction.drained
    correction.note_round(0.0, AIM_S, held=True, careful=False, shallow=False)
    assert correction.value == GROW


def test_loss_cuts_it_to_one_at_the_least_and_never_raises_it() -> None:
    correction = Correction()
    correction.value = 2.0
    correction.cut(0.9)
    assert correction.value == pytest.approx(1.8)
    correction.cut(0.1)
    assert correction.value == LOSSY_MIN
    assert correction.smallest_lossy
    correction.value = 0.7  # by queues
    correction.cut(0.9)
    assert correction.value == 0.7
