"""The adaptive scheduler on lines whose figures are given: which chunk by which line, and when none."""

import pytest
from figureline import LIMIT, NOW, PLENTY, FigureLine, adaptive
from hypothesis import given
from hypothesis import strategies as st

from bondvpn.bond.adaptive import (
    BURST_MIN_S,
    BURST_S,
    EXCESS,
    ORDER_S,
    QUEUE_BURST_S,
    QUEUE_BURST_TRIPS,
    QUEUE_FULL,
    QUEUE_S,
    QUEUE_STARTUP_BYTES,
    RESEND_WINDOW,
    TEACH_BYTES,
)
from bondvpn.bond.capacity import DATAGRAM_BYTES, WINDOW_START_BYTES, YOUNG_S, Phase
from bondvpn.bond.equaliser import SPREAD_MAX_S, SPREAD_MIN_S
from bondvpn.bond.line import RUN_BYTES, TURN_S


# -- skip-ahead -------------------------------------------------------------------------------------
def test_the_line_that_brings_it_the_soonest_takes_the_head() -> None:
    fast, slow = FigureLine(delay_s=0.010), FigureLine(delay_s=0.040)
    choice = adaptive(slow, fast).next(NOW, PLENTY, LIMIT)
    assert choice is not None
    assert choice.line is fast
    assert choice.skip == 0


def test_a_slow_line_takes_what_the_fast_ones_will_not_have_brought_by_then() -> None:
    """S = sum of r_j x (A_i - A_j)."""
    fast = FigureLine(2_000_000, 0.010, blocked=True)
    middle = FigureLine(1_000_000, 0.015, queue_s=0.005, blocked=True)
    slow = FigureLine(500_000, 0.050)
    choice = adaptive(fast, middle, slow).next(NOW, PLENTY, LIMIT)
    assert choice is not None
    assert choice.line is slow
    expected = sum(line.rate * (slow.arrival - line.arrival) for line in (fast, middle))
    assert choice.skip == int(expected)
    assert expected > 100_000


def test_a_slow_line_idles_when_the_queue_is_shorter_than_that() -> None:
    fast, slow = FigureLine(1_000_000, 0.010, blocked=True), FigureLine(1_000_000, 0.060)
    ahead = int(fast.rate * (slow.arrival - fast.arrival))
    scheduler = adaptive(fast, slow)
    assert scheduler.next(NOW, ahead - 100, LIMIT) is None
    choice = scheduler.next(NOW, ahead + 100, LIMIT)
    assert choice is not None
    assert choice.line is slow
    fast.blocked = False
    choice = scheduler.next(NOW, ahead - 100, LIMIT)
    assert choice is not None
    assert choice.line is fast


def test_a_long_line_learns_together_with_the_others_not_when_they_are_full() -> None:
    """It has its share of the newest chunks before they have any, once a flow has grown at all."""
    fast, slow = FigureLine(delay_s=0.010), FigureLine(delay_s=0.040)
    slow.capacity.phase = Phase.STARTUP
    scheduler = adaptive(fast, slow)
    fast.in_flight = TEACH_BYTES
    choice = scheduler.next(NOW, PLENTY, LIMIT)
    assert choice is not None
    assert choice.line is slow
    assert choice.skip == PLENTY - choice.budget
    for under_way in ((TEACH_BYTES, TEACH_BYTES + 1), (TEACH_BYTES - 1, 0)):
        fast.in_flight, slow.in_flight = under_way
        choice = scheduler.next(NOW, PLENTY, LIMIT)
        assert choice is not None
        assert choice.line is fast


def test_a_thin_line_has_nothing_to_learn() -> None:
    """Probes know its rate: what doubles goes by the others, and its part of a queue by it."""
    fast = FigureLine(1_000_000, 0.010, in_flight=TEACH_BYTES)
    thin = FigureLine(delay_s=0.040, window=WINDOW_START_BYTES)
    thin.capacity.phase = Phase.STARTUP
    scheduler = adaptive(fast, thin)
    thin.capacity.begin_thin(1e6 / 8)
    choice = scheduler.next(NOW, 30_000, LIMIT)
    assert choice is not None
    assert choice.line is fast
    fast.blocked = True
    assert scheduler.next(NOW, 30_000, LIMIT) is None
    choice = scheduler.next(NOW, 60_000, LIMIT)
    assert choice is not None
    assert choice.line is thin
    later_s = 0.040 - 0.010 + DATAGRAM_BYTES * (8e-6 - 1e-6) - TEACH_BYTES * 1e-6
    assert choice.skip == pytest.approx(1_000_000 * later_s, rel=1e-3)


def test_a_metered_line_learns_when_it_is_needed() -> None:
    fast, metered = FigureLine(delay_s=0.010, in_flight=TEACH_BYTES), FigureLine(delay_s=0.040, tier=1)
    metered.capacity.phase = Phase.STARTUP
    choice = adaptive(fast, metered).next(NOW, PLENTY, LIMIT)
    assert choice is not None
    assert choice.line is fast


def test_a_slow_line_of_which_nothing_is_known_takes_the_newest_meanwhile() -> None:
    """The other end holds all chunks as long as the slowest line takes: this one costs nothing by it."""
    fast, slow = FigureLine(1_000_000, 0.010, blocked=True), FigureLine(1_000_000, 0.060)
    slow.capacity.phase = Phase.STARTUP
    choice = adaptive(fast, slow).next(NOW, 30_000, LIMIT)
    assert choice is not None
    assert choice.line is slow
    assert choice.skip == 30_000 - choice.budget
    slow.capacity.delays.queue_s = 0.02
    assert adaptive(fast, slow).next(NOW, 30_000, LIMIT) is None, "it is full: enough is known"
    slow.capacity._told_of_at = NOW - 1.0
    choice = adaptive(fast, slow).next(NOW, 30_000, LIMIT)
    assert choice is not None
    assert choice.line is slow, "that was somebody else's, and has left since"


@pytest.mark.parametrize("apart_s", [SPREAD_MIN_S * 0.9, SPREAD_MAX_S * 1.1])
def test_but_not_where_the_other_end_does_not_hold_for_it(apart_s: float) -> None:
    fast, slow = FigureLine(1_000_000, 0.010, blocked=True), FigureLine(1_000_000, 0.010 + apart_s)
    slow.capacity.phase = Phase.STARTUP
    assert adaptive(fast, slow).next(NOW, 800, LIMIT) is None


def test_a_full_modem_makes_a_line_slow() -> None:
    near, far = FigureLine(delay_s=0.010, queue_s=0.050), FigureLine(delay_s=0.040)
    choice = adaptive(near, far).next(NOW, PLENTY, LIMIT)
    assert choice is not None
    assert choice.line is far


def test_a_line_of_unknown_delay_counts_as_the_slowest() -> None:
    known, unknown = FigureLine(delay_s=0.040), FigureLine(delay_s=None, rate=100_000)
    choice = adaptive(unknown, known).next(NOW, PLENTY, LIMIT)
    assert choice is not None
    assert choice.line is known


def test_the_only_line_takes_the_head_however_slow() -> None:
    choice = adaptive(FigureLine(10_000, 0.9)).next(NOW, 100, LIMIT)
    assert choice is not None
    assert choice.skip == 0


@given(
    figures=st.lists(
        st.tuples(st.floats(1e4, 1e8), st.floats(0.001, 0.5), st.floats(0, 0.2)), min_size=1, max_size=5
    ),
    waiting=st.integers(1, 3_000_000),
)
def test_some_line_always_takes_what_waits_and_nothing_beyond_it(
    figures: list[tuple[float, float, float]], waiting: int
) -> None:
    """With room everywhere the one that is the soonest takes the head."""
    lines = [FigureLine(*one) for one in figures]
    choice = adaptive(*lines).next(NOW, waiting, LIMIT)
    assert choice is not None
    assert choice.line.arrival == min(line.arrival for line in lines)
    assert choice.skip == 0
    choice.line.blocked = True
    second = adaptive(*lines).next(NOW, waiting, LIMIT)
    assert second is None or 0 <= second.skip < waiting


# -- room -------------------------------------------------------------------------------------------
def test_a_line_has_room_while_window_pacer_and_socket_agree() -> None:
    line = FigureLine(window=100_000)
    scheduler = adaptive(line)
    assert scheduler.next(NOW, PLENTY, LIMIT) is not None
    line.blocked = True
    assert scheduler.next(NOW, PLENTY, LIMIT) is None
    line.blocked = False
    line.in_flight = 100_000 - DATAGRAM_BYTES + 1
    assert scheduler.next(NOW, PLENTY, LIMIT) is None
    assert line.capacity._limited, "the line was limited by its window: it may grow"
    line.in_flight = 0
    line.dry()
    assert scheduler.next(NOW, PLENTY, LIMIT) is None


def test_what_a_report_frees_is_no_run_too_small() -> None:
    line = FigureLine(1e9, window=2_000_000, in_flight=2_000_000 - DATAGRAM_BYTES)
    line.capacity.delays.srtt_s = 0.001  # or its pace allows less
    choice = adaptive(line).next(NOW, PLENTY, LIMIT)
    assert choice is not None
    assert choice.budget == int(line.window * EXCESS)


def test_a_run_exceeds_neither_window_nor_turn_nor_a_send_call() -> None:
    line = FigureLine(10_000_000, window=50_000, in_flight=40_000)
    scheduler = adaptive(line)

    def budget() -> int:
        choice = scheduler.next(NOW, PLENTY, LIMIT)
        assert choice is not None
        return choice.budget

    line.pacer.tokens = line.capacity.pace
    assert budget() <= 10_000
    line.in_flight = 0
    line.capacity.window = 1e9
    assert budget() <= 10_000_000 * TURN_S
    line.capacity.carries.mean = 1e9
    assert budget() <= RUN_BYTES


def test_what_may_overdraw_leaves_with_the_run_before_it() -> None:
    """Else each run of a few datagrams is followed by one of one, at the full price of a send call."""
    line = FigureLine(10_000_000, window=1e6)
    scheduler = adaptive(line)
    scheduler.next(NOW, PLENTY, LIMIT)
    line.pacer.tokens = 4.5 * DATAGRAM_BYTES
    choice = scheduler.next(NOW, PLENTY, LIMIT)
    assert choice is not None
    assert choice.budget == 5 * DATAGRAM_BYTES


def test_a_run_waits_until_it_is_worth_a_call_unless_the_buffer_is_shallow() -> None:
    line = FigureLine(10_000_000, window=1e6)
    scheduler = adaptive(line)
    scheduler.next(NOW, PLENTY, LIMIT)
    line.pacer.tokens = DATAGRAM_BYTES
    assert scheduler.next(NOW, PLENTY, LIMIT) is None
    due = scheduler.deadline(NOW)
    assert due is not None
    assert NOW < due < NOW + BURST_S
    assert scheduler.next(due, PLENTY, LIMIT) is not None
    line.capacity._aim.begin_lowered()
    scheduler.set_lines([line])
    scheduler.next(due, PLENTY, LIMIT)
    line.pacer.tokens = DATAGRAM_BYTES
    assert scheduler.next(due, PLENTY, LIMIT) is not None


def test_what_waits_for_the_window_is_not_asked_for_by_the_pace() -> None:
    """Its pacer is as dry as it was when the window still had room: to ask again at once, and again, kept
    eight clients' processors busy."""
    line = FigureLine()
    scheduler = adaptive(line)
    assert scheduler.next(NOW, PLENTY, LIMIT) is not None
    line.pacer.tokens = -1000.0
    due = scheduler.deadline(NOW)
    assert due is not None
    assert due > NOW
    line.in_flight = int(line.capacity.window)
    later = due + 0.001
    assert scheduler.next(later, PLENTY, LIMIT) is None
    assert scheduler.deadline(later) is None
    line.in_flight = 0
    assert scheduler.next(later, PLENTY, LIMIT) is not None


def test_a_dry_pacer_tells_when_to_ask_again_and_a_full_window_does_not() -> None:
    line = FigureLine()
    scheduler = adaptive(line)
    line.pacer.refill(NOW)
    line.pacer.tokens = -line.pacer._bytes_per_s * 0.010
    assert scheduler.deadline(NOW) == pytest.approx(NOW + 0.010, abs=1e-4)
    line.in_flight = int(RESEND_WINDOW * line.window)
    assert scheduler.deadline(NOW) is None


@pytest.mark.parametrize(("lowered", "share"), [(0, 0.6), (2, 1.0)])
def test_a_shallow_line_may_catch_up_with_what_a_late_wake_up_cost_it(lowered: int, share: float) -> None:
    """Its window does not: that is not what limits it."""
    line = FigureLine(4_000_000)
    for _ in range(lowered):
        line.capacity._aim.lower()
    scheduler = adaptive(line, FigureLine(blocked=True))
    scheduler.next(NOW, PLENTY, LIMIT)
    scheduler.next(NOW + 1.0, PLENTY, LIMIT)
    saved_s = line.pacer.tokens / line.capacity.pace
    assert saved_s == pytest.approx(share * line.capacity.queue_aim_s)
    assert BURST_MIN_S < saved_s < BURST_S


# -- tiers ------------------------------------------------------------------------------------------
def test_a_worse_tier_waits_until_the_better_ones_are_full_and_the_queue_is_long() -> None:
    line, lte = FigureLine(delay_s=0.040), FigureLine(delay_s=0.010, tier=1)
    scheduler = adaptive(lte, line)
    choice = scheduler.next(NOW, PLENTY, 10 * PLENTY)
    assert choice is not None
    assert choice.line is line, "though it is the slower"
    line.blocked = True
    assert scheduler.next(NOW, int(QUEUE_FULL * LIMIT) - 1, LIMIT) is None
    choice = scheduler.next(NOW, int(QUEUE_FULL * LIMIT), LIMIT)
    assert choice is not None
    assert choice.line is lte


def test_a_worse_tier_carries_everything_when_it_is_alone() -> None:
    for lines in ([FigureLine(tier=1)], [FigureLine(tier=1), FigureLine(tier=2)]):
        choice = adaptive(*lines).next(NOW, 1, LIMIT)
        assert choice is not None
        assert choice.line is lines[0]


def test_what_a_worse_tier_would_bring_is_not_counted_on() -> None:
    lte, line = FigureLine(1e7, 0.010, tier=1), FigureLine(1e6, 0.060)
    choice = adaptive(lte, line).next(NOW, 5000, LIMIT)
    assert choice is not None
    assert (choice.line, choice.skip) == (line, 0)


# -- the queue --------------------------------------------------------------------------------------
def test_the_queue_reaches_beyond_what_the_fast_lines_bring_in_the_slow_ones_delay() -> None:
    """Or the slow one would never get a chunk."""
    fast, slow = FigureLine(6_000_000, 0.010), FigureLine(500_000, 0.200)
    scheduler = adaptive(fast, slow)
    ahead = fast.rate * (slow.arrival - fast.arrival)
    assert scheduler.queue_limits.standing == pytest.approx(ahead + QUEUE_S * (fast.rate + slow.rate))
    fast.blocked = True
    assert scheduler.next(NOW, int(scheduler.queue_limits.standing), LIMIT) is not None
    assert scheduler.rate_bps == (fast.rate + slow.rate) * 8
    assert scheduler.configured_bps is None


def test_what_is_known_at_first_is_too_little_for_a_queue() -> None:
    line = FigureLine(10_000)
    line.capacity.phase = Phase.STARTUP
    assert adaptive(line, FigureLine(10_000)).queue_limits.standing == QUEUE_STARTUP_BYTES


def test_a_long_line_of_which_nothing_is_known_has_time_to_double_before_the_queue_is_full() -> None:
    lines = [FigureLine(1e6, 0.010), FigureLine(1e6, 0.150)]
    for line in lines:
        line.capacity.delays._base_rtt.add(2 * (line.delay_s or 0.0), NOW)
    scheduler = adaptive(*lines)
    known = scheduler.queue_limits.standing
    lines[1].capacity.phase = Phase.STARTUP
    assert scheduler.queue_limits.standing == pytest.approx(2e6 * QUEUE_BURST_TRIPS * 0.3)
    assert scheduler.queue_limits.standing > 4 * known


@pytest.mark.parametrize("trip_s", [0.040, 0.400])
def test_the_queue_holds_what_cubic_takes_back_and_for_a_while_what_it_begins_with(trip_s: float) -> None:
    lines = [FigureLine(1e6, trip_s / 2), FigureLine(1e6, trip_s / 2)]
    for line in lines:
        line.capacity.delays._base_rtt.add(trip_s, NOW)
    limits = adaptive(*lines).queue_limits
    assert limits.standing == pytest.approx(2e6 * max(QUEUE_S, 0.4 * trip_s))
    assert limits.burst == pytest.approx(2e6 * max(QUEUE_BURST_S, QUEUE_BURST_TRIPS * trip_s))
    assert (limits.rate, limits.trip_s) == (2e6, trip_s)


def test_the_queue_is_not_cut_before_what_a_flow_began_with_has_left() -> None:
    """Bbr begins with twice what the lines hold, and a loss then costs it a round trip."""
    line = FigureLine(1e6)
    scheduler = adaptive(line, FigureLine(1e6))
    known = scheduler.queue_limits.standing
    line.out_of_startup(YOUNG_S / 2)
    assert scheduler.queue_limits.standing > 2 * known


def test_bulk_is_spread_over_the_best_tier() -> None:
    """Nobody waits for the delay of a line that is there for the worst case."""
    lte, dsl, cable = FigureLine(tier=2), FigureLine(tier=1), FigureLine(tier=1)
    assert adaptive(lte, dsl, cable).spread == [dsl, cable]
    assert adaptive(lte).spread == [lte]
    assert adaptive().spread == []


def test_a_queue_that_nobody_reports_on_is_forgotten_once_it_must_have_left() -> None:
    """Or a line that stood still would get nothing and so never be reported on again."""
    near, stood = FigureLine(delay_s=0.010, blocked=True), FigureLine(delay_s=0.010)
    for i in range(9):
        stood.capacity.on_report(0, NOW, 0.310, 1, 0, NOW + i * 0.01)
    queue_s = stood.capacity.delays.queue_s
    assert queue_s > 0.2
    scheduler = adaptive(near, stood)
    assert scheduler.next(NOW + 0.9 * queue_s, 3_000, LIMIT) is None
    stood.in_flight = 1
    assert scheduler.next(NOW + 1.1 * queue_s, 3_000, LIMIT) is None, "it is still there"
    stood.in_flight = 0
    choice = scheduler.next(NOW + 1.1 * queue_s + 2 * ORDER_S, 3_000, LIMIT)
    assert choice is not None
    assert choice.line is stood
