"""The weighted scheduler on a virtual clock: eql's shares, express, and lines that come and go."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bondvpn.bond.capacity import Capacity
from bondvpn.bond.line import EXPRESS_DEBT_S, RUN_BYTES, TURN_S, Choice
from bondvpn.bond.pacer import BURST_S, Pacer
from bondvpn.bond.weighted import QUEUE_S, SOCKET_BYTES, Weighted

FRAME_BYTES = 1514
WAITING_BYTES = 1_000_000


@dataclass(eq=False)
class Line:
    """A line of the test: only what the scheduler's Protocol asks for, and what it carried."""

    rate_bps: int | None
    srtt_s: float = 0.02
    served_s: float = 0.0
    blocked: bool = False
    carried: int = 0
    in_flight: int = 0
    tier: int = 0
    capacity: Capacity = field(default_factory=Capacity)
    pacer: Pacer = field(init=False)

    def __post_init__(self) -> None:
        self.pacer = Pacer(self.rate_bps)


class Load:
    """A sender that always has something to send."""

    def __init__(self, *lines: Line) -> None:
        self.scheduler: Weighted[Line] = Weighted()
        self.scheduler.set_lines(list(lines))
        self.lines = lines
        self.now = 50.0
        self.runs: list[Line] = []

    def next(self) -> Choice[Line] | None:
        return self.scheduler.next(self.now, WAITING_BYTES, WAITING_BYTES)

    def dispatch(self) -> None:
        while (choice := self.next()) is not None:
            line, budget, skip = choice
            assert 0 <= budget <= RUN_BYTES
            assert skip == 0, "eql knows of no order but the queue's"
            nbytes = max(1, budget // FRAME_BYTES) * FRAME_BYTES
            line.carried += nbytes
            self.runs.append(line)
            self.scheduler.spent(line, nbytes)

    def run(self, seconds: float) -> None:
        """Each wake-up at the deadline it gave; timers fire at whole milliseconds, as libuv's."""
        end = self.now + seconds
        while self.now < end:
            self.dispatch()
            deadline = self.scheduler.deadline(self.now)
            if deadline is None:
                return
            assert deadline >= self.now
            self.now = max(deadline, self.now + 0.001)

    def shares(self) -> list[float]:
        total = sum(line.carried for line in self.lines)
        return [line.carried / total for line in self.lines]


rates = st.sampled_from([500_000, 1_000_000, 5_000_000, 16_000_000, 30_000_000, 50_000_000, 300_000_000])


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.lists(rates, min_size=1, max_size=5))
def test_shares_are_proportional_to_the_lines_rates(wanted: list[int]) -> None:
    """Within 1 %, and the sum is all the lines give."""
    load = Load(*(Line(rate) for rate in wanted))
    load.run(1)  # the first burst is not the rate
    for line in load.lines:
        line.carried = 0
    seconds = max(3.0, 400 * FRAME_BYTES * 8 / min(wanted))
    load.run(seconds)
    expected = [rate / sum(wanted) for rate in wanted]
    assert load.shares() == pytest.approx(expected, rel=0.01)
    assert sum(line.carried for line in load.lines) * 8 / seconds >= 0.99 * sum(wanted)


def test_no_line_carries_more_than_its_rate_and_one_burst() -> None:
    load = Load(Line(16_000_000), Line(50_000_000))
    load.run(2)
    for line in load.lines:
        assert line.rate_bps is not None
        assert line.carried * 8 <= line.rate_bps * (2 + BURST_S + TURN_S) + 8 * FRAME_BYTES


def test_it_waits_for_the_line_whose_turn_it_is() -> None:
    """As eql does: a line without room holds the others up."""
    slow, fast = Line(1_000_000), Line(100_000_000)
    load = Load(slow, fast)
    load.run(1)
    slow.blocked = True
    before = fast.carried
    load.run(1)
    assert fast.carried - before <= 200 * FRAME_BYTES
    assert load.scheduler.deadline(load.now) is None, "only the socket can tell"
    slow.blocked = False
    load.run(1)
    assert fast.carried > before + 10_000_000


def test_what_may_overdraw_leaves_with_the_run_before_it() -> None:
    load = Load(Line(100_000_000))
    load.next()
    load.lines[0].pacer.tokens = 2.5 * FRAME_BYTES
    choice = load.next()
    assert choice is not None
    assert choice.budget == 3 * FRAME_BYTES


def test_a_line_that_comes_back_owes_nothing() -> None:
    """Neither does it catch up for its time away, nor do the others wait for it."""
    first, second = Line(20_000_000), Line(20_000_000)
    load = Load(first, second)
    load.run(1)
    load.scheduler.set_lines([first])
    load.run(10)
    load.scheduler.set_lines([first, second])
    assert second.served_s >= first.served_s
    first.carried = second.carried = 0
    load.run(1)
    assert load.shares() == pytest.approx([0.5, 0.5], rel=0.02)


def test_lines_that_stay_keep_their_accounts() -> None:
    first, second, third = Line(1_000_000), Line(1_000_000), Line(1_000_000)
    load = Load(first, second)
    load.run(1)
    served = first.served_s, second.served_s
    load.scheduler.set_lines([first, second, third])
    assert (first.served_s, second.served_s) == served
    assert third.served_s == max(served)


def test_a_line_that_carries_more_besides_gets_less_bulk() -> None:
    """Both end at the same served time, so neither waits for the other."""
    first, second = Line(1_000_000), Line(1_000_000)
    load = Load(first, second)
    for _ in range(100):
        first.pacer.spend(125)  # 1 % of it
        first.served_s += 0.001
        load.run(0.1)
    assert first.carried + second.carried >= 0.99 * 10 * 2 * 125_000 - 100 * 125
    assert first.carried / second.carried == pytest.approx(0.99, abs=0.005)


def test_what_a_line_makes_up_for_is_bounded() -> None:
    """After a night in which it carried all probes and reports."""
    first, second = Line(1_000_000), Line(1_000_000)
    load = Load(first, second)
    load.run(1)
    first.served_s += 600
    load.run(1)
    first.carried = second.carried = 0
    load.run(1)
    assert load.shares() == pytest.approx([0.5, 0.5], rel=0.05)


def test_unlimited_lines_share_evenly_and_never_wait() -> None:
    load = Load(Line(None), Line(None))
    for _ in range(100):
        choice = load.next()
        assert choice is not None
        line, budget, _ = choice
        assert budget == RUN_BYTES
        line.carried += budget
        load.scheduler.spent(line, budget)
    assert load.shares() == [0.5, 0.5]
    assert load.scheduler.deadline(load.now) == load.now


def test_what_is_under_way_bounds_a_line_without_a_speed() -> None:
    line, known = Line(None, in_flight=SOCKET_BYTES), Line(10_000_000, in_flight=SOCKET_BYTES)
    load = Load(line)
    assert load.next() is None
    assert load.scheduler.deadline(load.now) is None, "only a report can tell"
    line.in_flight -= 1
    assert load.next() is not None
    line.in_flight += 1
    line.capacity.window = SOCKET_BYTES + 1.0
    assert load.next() is not None, "it is known to hold more"
    assert Load(known).next() is not None, "its pace bounds it"


def test_a_line_of_unknown_speed_counts_as_an_average_one() -> None:
    known, unknown = Line(10_000_000), Line(None)
    load = Load(known, unknown)
    load.run(2)
    assert unknown.carried == pytest.approx(known.carried, rel=0.05)


def test_the_sum_is_known_only_if_every_line_is() -> None:
    scheduler: Weighted[Line] = Weighted()
    assert scheduler.rate_bps is None
    scheduler.set_lines([Line(1_000_000), Line(2_000_000)])
    assert scheduler.rate_bps == 3_000_000
    scheduler.set_lines([Line(1_000_000), Line(None)])
    assert scheduler.rate_bps is None


def test_the_queue_is_a_time_of_the_lines_sum() -> None:
    scheduler: Weighted[Line] = Weighted()
    scheduler.set_lines([Line(1_000_000), Line(2_000_000)])
    assert scheduler.queue_limits.standing == 3_000_000 / 8 * QUEUE_S
    assert scheduler.queue_limits.burst == scheduler.queue_limits.standing
    scheduler.set_lines([Line(1_000_000), Line(None)])
    assert scheduler.queue_limits.standing == float("inf")


def test_without_lines_nobody_is_named_and_nothing_is_due() -> None:
    scheduler: Weighted[Line] = Weighted()
    assert scheduler.next(1.0, WAITING_BYTES, WAITING_BYTES) is None
    assert scheduler.express(1.0) is None
    assert scheduler.soonest(1.0) is None
    assert scheduler.deadline(1.0) is None


# -- express ----------------------------------------------------------------------------------------
def test_express_takes_the_lowest_round_trip() -> None:
    far, near = Line(10_000_000, srtt_s=0.08), Line(10_000_000, srtt_s=0.02)
    for lines in ([far, near], [near, far]):
        scheduler: Weighted[Line] = Weighted()
        scheduler.set_lines(lines)
        assert scheduler.express(1.0) is near
        near.blocked = True
        assert scheduler.express(1.0) is far
        near.blocked = False


def test_express_goes_ahead_of_the_pace_up_to_its_debt() -> None:
    near, far = Line(8_000_000, srtt_s=0.01), Line(8_000_000, srtt_s=0.05)
    scheduler: Weighted[Line] = Weighted()
    scheduler.set_lines([near, far])
    scheduler.express(1.0)
    near.pacer.spend(int(near.pacer.tokens))
    assert scheduler.express(1.0) is near
    near.pacer.spend(int(1_000_000 * EXPRESS_DEBT_S))
    assert scheduler.express(1.0) is far
    far.pacer.spend(int(far.pacer.tokens + 1_000_000 * EXPRESS_DEBT_S))
    assert scheduler.express(1.0) is None
    assert scheduler.express(1.0 + EXPRESS_DEBT_S) is near


def test_what_a_line_lost_leaves_by_another_if_there_is_one() -> None:
    near, far = Line(8_000_000, srtt_s=0.01), Line(8_000_000, srtt_s=0.05)
    scheduler: Weighted[Line] = Weighted()
    scheduler.set_lines([near, far])
    assert scheduler.soonest(1.0, near) is far
    assert scheduler.soonest(1.0, far) is near
    far.blocked = True
    assert scheduler.soonest(1.0, near) is near
    near.blocked = True
    assert scheduler.soonest(1.0, near) is None


def test_nothing_leaves_twice_unasked() -> None:
    load = Load(Line(8_000_000), Line(8_000_000))
    load.run(1)
    assert not load.scheduler.copies(100)


def test_what_is_spent_on_express_is_paid_for() -> None:
    """A line that carries the express frames gets less of the rest."""
    near, far = Line(8_000_000, srtt_s=0.01), Line(8_000_000, srtt_s=0.05)
    load = Load(near, far)
    load.scheduler.spent(near, 100_000)
    assert near.served_s == pytest.approx(0.1)
    load.run(1)
    assert far.carried - near.carried == pytest.approx(100_000, abs=10 * FRAME_BYTES)
