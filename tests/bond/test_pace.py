"""How fast what may be under way leaves a line, as its figures say."""

from math import inf

import pytest
from figureline import NOW, FigureLine

from bondvpn.bond import pace
from bondvpn.bond.capacity import HELD, WINDOW_START_BYTES, Phase

RATE, TRIP_S = 50e6 / 8, 0.020
FAR_TOO_MUCH = 3 * RATE * TRIP_S


def filled(mbit: float, share: float) -> FigureLine:
    """A line with that share of the queue aimed at standing in it, and a window far larger than it needs."""
    line = FigureLine(mbit * 1e6 / 8, window=FAR_TOO_MUCH)
    capacity = line.capacity
    capacity.delays.on_trip(TRIP_S, NOW, contended=False)
    capacity.delays.queue_s = share * capacity.queue_aim_s
    return line


def test_a_window_leaves_evenly_in_the_time_it_takes_with_the_present_queue() -> None:
    assert pace.evenly(120e3, 0.030, 0.020, 0.0) == pytest.approx(pace.PACE * 4e6)
    assert pace.evenly(120e3, 0.010, 0.020, 0.0) == pytest.approx(pace.PACE * 6e6), "no faster than at once"
    assert pace.evenly(120e3, 0.120, 0.020, 3e6) == 3e6, "reports were seldom"


@pytest.mark.parametrize("share", [0.3, 1.0, 1.9])
def test_a_full_line_gets_what_it_carries_however_large_its_window(share: float) -> None:
    assert RATE < filled(50, share).capacity.pace < 1.1 * RATE


@pytest.mark.parametrize(("mbit", "share"), [(50, 0.2), (50, 2.1), (20, 1.0)])
def test_a_line_that_may_carry_more_or_is_told_coarsely_gets_all_of_it(mbit: float, share: float) -> None:
    assert filled(mbit, share).capacity.pace > 1.5 * mbit * 1e6 / 8


def test_a_line_that_others_fill_too_gets_its_share_of_their_queue() -> None:
    line = filled(50, 1.0)
    line.capacity.phase = Phase.CONTENDED
    assert line.capacity.pace > 1.5 * RATE


@pytest.mark.parametrize(("share", "held"), [(1.0, False), (0.2, True)])
def test_what_the_pace_of_a_full_line_holds_back_says_nothing_of_its_window(share: float, held: bool) -> None:
    capacity = filled(50, share).capacity
    capacity.paced(int(HELD * FAR_TOO_MUCH) + 1)
    assert capacity._held is held


def test_a_thin_line_begins_at_a_multiple_of_its_rate_and_no_faster_than_its_window() -> None:
    assert pace.startup(WINDOW_START_BYTES, 0.002, 80e3) == pace.PACE_STARTUP * 80e3
    assert pace.startup(WINDOW_START_BYTES, 0.002, inf) == pace.PACE_STARTUP * WINDOW_START_BYTES / 0.002
