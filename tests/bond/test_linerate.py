"""What one line carries, by what came over it."""

from math import inf

import pytest

from bondvpn.bond.delays import Delays
from bondvpn.bond.linerate import MEAN_WEIGHT, RATE_KEEP_ROUNDS, RATE_KEEP_S, LineRate

GUESS = 1e5


def test_a_guess_is_bounded_by_the_configured_speed() -> None:
    rate = LineRate(5e4, GUESS, Delays())
    assert rate.mean == 5e4
    rate.at_least(1e6)
    assert rate.mean == 5e4
    free = LineRate(inf, GUESS, Delays())
    free.at_least(5e4)
    assert free.mean == GUESS


def test_the_mean_follows_up_at_once_and_down_only_while_the_line_limits() -> None:
    rate = LineRate(inf, GUESS, Delays())
    rate.follow(1e6, limited=False)
    assert rate.mean == 1e6
    rate.follow(5e5, limited=False)  # nothing more wanted to leave
    assert rate.mean == 1e6
    rate.follow(5e5, limited=True)
    assert rate.mean == pytest.approx(1e6 - MEAN_WEIGHT * 5e5)


def test_what_came_is_told_over_a_round_trip_however_long() -> None:
    delays = Delays()
    delays.on_trip(0.5, 1.0, contended=False)
    rate = LineRate(inf, GUESS, delays)
    for i in range(201):  # 2 s, the last one of them twice as fast
        rate.arrived(10_000 * i + 10_000 * max(0, i - 100), 50.0 + i / 100, 0.010)
    assert rate.lately == pytest.approx(2e6)
    assert rate.delivered == pytest.approx(2e6)
    assert rate.over(0.9) == pytest.approx(2e6)


@pytest.mark.parametrize("trip_s", [0.010, 0.400])
def test_r_is_the_largest_of_some_rounds(trip_s: float) -> None:
    delays = Delays()
    delays.on_trip(trip_s, 1.0, contended=False)
    rate = LineRate(inf, GUESS, delays)
    keep_s = max(RATE_KEEP_S, RATE_KEEP_ROUNDS * trip_s)
    rate.brought(3e6, 1.0)
    rate.brought(1e6, 1.0 + keep_s / 2)
    assert rate.largest(1.0 + 0.9 * keep_s) == 3e6
    assert rate.largest(1.0 + 1.1 * keep_s) == 1e6
    rate.forget()
    assert rate.largest(1.0 + 1.1 * keep_s) == 0.0
