"""Whose loss it is: the line's, or our window's in a shallow buffer."""

import pytest

from bondvpn.bond.losses import CAREFUL_S, LOSS_CERTAIN, LOSS_LEARNED_MAX, LOSS_SAMPLE, Losses

WINDOW = 1e5


def judge(
    losses: Losses, share: float, now: float, *, pressed: bool = True, least: bool = False
) -> float | None:
    losses.pressed = pressed
    lost = round(share * LOSS_SAMPLE)
    sample = losses.sample(LOSS_SAMPLE - lost, lost)
    assert sample is not None
    assert sample.pressed is pressed
    assert not losses.pressed, "each sample has its own"
    return losses.judge(sample, WINDOW, now, steady=True, least=least)


def test_a_sample_is_complete_with_enough_datagrams_or_enough_lost() -> None:
    losses = Losses()
    assert losses.sample(LOSS_SAMPLE - 2, 1) is None
    assert losses.sample(1, 0) is not None
    assert losses.sample(10, LOSS_CERTAIN - 1) is None
    sample = losses.sample(0, 1)
    assert sample is not None
    assert sample.share == pytest.approx(LOSS_CERTAIN / (10 + LOSS_CERTAIN))


def test_what_a_full_buffer_drops_lowers_the_window_and_is_no_fault_of_the_lines() -> None:
    losses = Losses()
    assert judge(losses, 0.20, 1.0) == pytest.approx(0.80)
    assert losses.share == 0.0
    assert losses.near(WINDOW, 1.0)
    assert not losses.near(WINDOW / 2, 1.0), "well below it growth is as ever"
    assert not losses.near(WINDOW, 1.0 + CAREFUL_S)


def test_what_the_line_loses_unpressed_is_its_own() -> None:
    losses = Losses()
    for i in range(40):
        assert judge(losses, 0.08, float(i), pressed=False) is None
    assert losses.share == pytest.approx(0.08, abs=0.001)
    assert judge(losses, 0.10, 41.0) is None


def test_what_no_smaller_window_saves_is_learned_up_to_a_bound() -> None:
    losses = Losses()
    for i in range(100):
        judge(losses, 0.40, float(i), least=True)
    assert losses.share == pytest.approx(0.40, abs=0.001)
    assert losses._own == LOSS_LEARNED_MAX


def test_after_a_silence_the_line_is_as_good_as_new() -> None:
    losses = Losses()
    judge(losses, 0.40, 1.0, least=True)
    losses.sample(100, 10)
    losses.forget()
    assert losses.share == 0.0
    sample = losses.sample(LOSS_SAMPLE, 0)
    assert sample is not None
    assert sample.share == 0.0
