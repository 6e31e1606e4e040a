"""Learned capacity on a simulated line."""

from math import inf

import pytest
from simulatedline import REPORT_S, TICK_S, SimulatedLine

from bondvpn.bond.capacity import SOCKET_BYTES, WINDOW_MIN_BYTES, WINDOW_START_BYTES, Capacity, Phase
from bondvpn.bond.correction import CORRECTION_MIN
from bondvpn.bond.delivery import DATAGRAM_BYTES
from bondvpn.bond.demotion import LOSS_MAX
from bondvpn.bond.pace import PACE_STARTUP

NOW = 1000.0


@pytest.mark.parametrize("delay_s", [0.005, 0.020, 0.060])
@pytest.mark.parametrize("mbit", [2, 16, 50])
def test_it_converges_on_the_lines_rate_with_a_short_queue(mbit: float, delay_s: float) -> None:
    line = SimulatedLine(mbit, delay_s)
    line.run(4)
    assert line.capacity.phase is Phase.STEADY
    assert line.run(8) >= 0.98 * line.rate  # two drains
    assert line.capacity.rate == pytest.approx(line.rate, rel=0.05)  # in a round; the mean is above
    queues = sorted(line.queues)
    # The window also holds what comes between two reports, half of which may stand in the queue.
    assert (
        queues[len(queues) // 2] <= 2 * line.capacity.queue_aim_s + REPORT_S / 2 + DATAGRAM_BYTES / line.rate
    )


@pytest.mark.parametrize("delay_s", [0.010, 0.020])
def test_the_queue_settles_at_what_is_aimed_at(delay_s: float) -> None:
    line = SimulatedLine(50, delay_s)
    line.run(4)
    line.run(8)
    queues = sorted(line.queues)
    # The aim is for the smallest of a round; what comes between two reports stands on top of it.
    assert queues[len(queues) // 2] <= 1.2 * line.capacity.queue_aim_s + REPORT_S / 2


def test_startup_on_a_short_line_has_short_rounds() -> None:
    line = SimulatedLine(1000, 0.0001)
    line.run(0.14)
    assert line.capacity.window > 1_000_000  # by rounds of 25 ms a quarter of that


def test_what_startup_ends_with_is_the_rate() -> None:
    line = SimulatedLine(1000, 0.0001)
    while line.capacity.phase is Phase.STARTUP:
        line.run(TICK_S)
        assert line.now < 101
    assert line.capacity.rate > 0.8 * line.rate  # not the mean, half of which is of before


def test_the_other_ends_socket_bounds_what_is_under_way() -> None:
    """What waits there is no queue by the kernel's time stamps, and its pace is no line's."""
    capacity, now, rate, trip_s = Capacity(), NOW, 300e6, 0.0002
    for _ in range(400):
        now += REPORT_S / 2
        capacity.refused(now)
        capacity.on_rtt(trip_s, now, now - trip_s)
        capacity.on_report(int(rate * (now - NOW)), now, 0.0001, 1000, 0, now)
        assert capacity.window <= SOCKET_BYTES + 8.01 * rate * trip_s
    assert capacity.phase is Phase.STEADY
    assert SOCKET_BYTES < capacity.window <= SOCKET_BYTES + 1.1 * rate * trip_s
    assert capacity.pace > 2 * rate


def test_the_short_queue_of_a_drain_is_no_reason_to_grow() -> None:
    line = SimulatedLine(20, 0.020)  # one that needs a drain
    line.run(4)
    for _ in range(60_000):
        line.run(TICK_S)
        if line.capacity._correction.drained:
            break
    assert line.capacity._correction.drained
    before = line.capacity._correction.value
    line.run(0.1)  # two rounds
    assert not line.capacity._correction.drained
    assert line.capacity._correction.value == before


@pytest.mark.parametrize("mbit", [4, 7, 16])
def test_what_a_shallow_buffer_drops_is_no_fault_of_the_lines(mbit: float) -> None:
    """The window gives way at once, and what it cost until then does not demote the line."""
    line = SimulatedLine(mbit, 0.010, buffer_s=0.005)
    worst = 0.0
    for _ in range(60):
        line.run(0.1)
        worst = max(worst, line.capacity.loss)
    assert worst < LOSS_MAX
    assert line.run(4) > 0.85 * line.rate


def test_what_no_smaller_window_would_save_is_counted() -> None:
    line = SimulatedLine(16, 0.020, loss=0.25)
    line.run(8)
    assert line.capacity.loss > LOSS_MAX


def test_heavy_loss_that_no_smaller_window_saves_becomes_the_lines_own() -> None:
    """And takes no more of its rate than itself."""
    shares = []
    for seed in range(3):
        line = SimulatedLine(50, 0.010, loss=0.08, seed=seed)
        line.run(3)
        shares.append(line.run(5) / (0.92 * line.rate))
    assert sum(shares) / 3 > 0.7, shares


def test_random_loss_does_not_shrink_the_window() -> None:
    """Though one sample of 70 has twice the loss by chance."""
    clean = SimulatedLine(16, 0.020)
    clean.run(8)
    windows, rates = [], []
    for seed in range(5):
        lossy = SimulatedLine(16, 0.020, loss=0.025, seed=seed)
        lossy.run(4)
        rates.append(lossy.run(4) / (0.975 * lossy.rate))
        windows.append(lossy.capacity.window)
    assert min(rates) >= 0.97
    assert min(windows) >= 0.9 * clean.capacity.window


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_rate_step_is_followed_within_a_second(factor: float) -> None:
    line = SimulatedLine(20, 0.015)
    line.run(4)
    line.rate *= factor
    line.run(1)
    assert line.run(1) >= 0.95 * line.rate
    assert line.capacity.rate == pytest.approx(line.rate, rel=0.05)


@pytest.mark.parametrize(("longer_s", "within_s"), [(0.010, 1), (0.030, 1.5), (0.100, 4)])
def test_a_longer_route_becomes_the_new_base(longer_s: float, within_s: float) -> None:
    """Soon: what it looks like until then, a queue that nothing shortens, takes nearly all of the rate."""
    line = SimulatedLine(16, 0.020)
    line.run(6)
    line.delay_s += longer_s
    line.run(within_s)
    assert line.run(2) >= 0.95 * line.rate


def test_a_line_that_became_much_slower_is_filled_again() -> None:
    line = SimulatedLine(5, 0.040)
    line.run(6)
    line.rate /= 5
    line.run(5)
    assert line.run(3) >= 0.95 * line.rate


def test_a_shallow_buffer_is_found_and_not_overrun() -> None:
    line = SimulatedLine(50, 0.010, buffer_s=0.006)
    line.run(4)
    assert line.capacity.phase is not Phase.STARTUP
    assert line.run(4) >= 0.9 * line.rate


@pytest.mark.parametrize(
    ("mbit", "buffer_s", "loss"),
    [(50, 0.003, 0), (50, 0.006, 0), (50, 0.010, 0), (50, 0.020, 0), (97, 0.002, 0.02), (9, 0.003, 0)],
)
def test_a_shallow_buffer_is_filled_to_the_lines_rate(mbit: float, buffer_s: float, loss: float) -> None:
    line = SimulatedLine(mbit, 0.010, buffer_s=buffer_s, loss=loss)
    line.run(3)
    assert line.run(6) >= 0.95 * (1 - loss) * line.rate


def test_a_line_that_probes_found_thin_begins_with_what_fills_it() -> None:
    """1.7 Mbit/s of 40 ms: the first window of any line would be 70 ms of it."""
    rate, capacity = 1.7e6 / 8, Capacity()
    capacity.on_rtt(0.040, NOW)
    capacity.begin_thin(rate)
    assert 0.040 * rate < capacity.window < 0.065 * rate
    capacity.begin_thin(rate / 100)
    assert capacity.window == WINDOW_MIN_BYTES
    capacity.begin_thin(inf)  # the probe had been late: the next one was not
    assert capacity.window == WINDOW_START_BYTES


def test_a_thin_lines_rate_is_known_until_it_shows_more() -> None:
    rate, capacity = 0.65e6 / 8, Capacity()
    capacity.on_rtt(0.002, NOW)
    assert capacity.known_rate == 0.0
    at_once = capacity.pace
    capacity.begin_thin(rate)
    assert capacity.known_rate == capacity.rate == rate
    assert capacity.pace == PACE_STARTUP * rate < at_once, "a buffer of two frames holds no more"
    for i in range(20):  # a flow that needs little of it, and was held back once
        capacity.on_report(i * 50, i * 0.01, 0.001, 1, 0, NOW + i * 0.01)
        if i == 17:
            capacity.refused(NOW + i * 0.01)
    assert capacity.phase is Phase.STARTUP
    assert capacity.known_rate == rate
    capacity.begin_thin(inf)
    assert capacity.known_rate == 0.0
    far = Capacity()
    far.on_rtt(0.400, NOW)
    far.begin_thin(rate)
    assert far.known_rate == rate, "more than a first window brings in a round trip"


def test_what_probes_took_for_a_thin_line_is_as_fast_as_it_is_soon() -> None:
    """One late probe, and 50 Mbit/s look like 0.2."""
    line = SimulatedLine(50, 0.020)
    line.capacity.on_rtt(0.040, line.now)
    line.capacity.begin_thin(0.2e6 / 8)
    assert line.capacity.window == WINDOW_MIN_BYTES
    line.run(0.5)
    assert line.run(0.1) > 0.9 * line.rate


def test_what_a_line_has_shown_counts_more_than_probes() -> None:
    line = SimulatedLine(50, 0.020)
    line.run(0.2)
    window, rate = line.capacity.window, line.capacity.rate
    line.capacity.begin_thin(1e6 / 8)
    assert (line.capacity.window, line.capacity.rate) == (window, rate)


@pytest.mark.parametrize("queue_s", [0.0, 0.002])  # too short to be told from jitter, and told
def test_the_burst_that_ends_startup_by_overflowing_a_buffer_tells_the_lines_rate(queue_s: float) -> None:
    """Over its round trip of 50 ms it brings 5 Mbit/s of 25."""
    rate, capacity = 25e6 / 8, Capacity()
    now, came = 100.0, 0

    def report(after_s: float, datagrams: int, lost: int, queue_s: float) -> None:
        nonlocal now, came
        now += after_s
        came += datagrams * DATAGRAM_BYTES
        capacity.on_rtt(0.050, now)
        capacity.on_report(came, now, 0.020 + queue_s, datagrams, lost, now)

    for _ in range(20):
        report(0.010, 0, 0, 0.0)
    capacity.refused(now)
    now += 0.050
    for _ in range(4):
        report(8 * DATAGRAM_BYTES / rate, 8, 6, queue_s)
    for _ in range(5):
        report(0.010, 0, 0, 0.0)
    assert capacity.phase is Phase.STEADY
    assert capacity.shallow
    assert capacity.rate == pytest.approx(rate, rel=0.1)


def test_a_buffer_that_held_much_as_startup_overflowed_it_is_no_shallow_one() -> None:
    """31 Mbit/s whose modem holds 16 ms: taken for a shallow one it was paced at 26."""
    line = SimulatedLine(31, 0.018, buffer_s=0.016)
    while line.capacity.phase is Phase.STARTUP:
        line.run(0.005)
    assert line.lost > 0
    assert not line.capacity.shallow
    line.run(1)
    assert line.run(3) > 0.95 * line.rate


def test_a_shallow_lines_window_covers_its_round_trip_whatever_the_queue_was_before() -> None:
    """And whatever it has lost a moment ago: growth is slow then."""
    line = SimulatedLine(31, 0.018, buffer_s=0.016)
    line.run(2)
    capacity = line.capacity
    capacity._correction.value = CORRECTION_MIN  # its queue was too long
    capacity._aim.begin_lowered()
    capacity._aim._deep_at = -inf
    capacity._limited = True
    assert capacity.shallow
    capacity._steady(0.0, line.rate, line.now)
    assert capacity._correction.value >= 1.0


def test_a_buffer_that_holds_more_after_all_has_its_queue_kept_short_again() -> None:
    """Where something was lost as by a shallow buffer (a burst, a policer), the pace follows the rate, but
    only until a queue stands."""
    line = SimulatedLine(20, 0.010, buffer_s=0.200)
    line.run(3)
    line.capacity._aim.lower()
    line.run(1)
    assert not line.capacity.shallow
    line.run(3)
    assert max(line.queues) < 0.020


def test_a_steady_window_leaves_no_faster_than_the_reports_give_room() -> None:
    line = SimulatedLine(50, 0.010)
    line.run(4)
    # A whole window in one smoothed round trip would be half as much again: what is under way includes what
    # came since the last report.
    assert line.rate <= line.capacity.pace <= 1.25 * line.rate


def test_a_sample_of_the_queue_weighs_by_its_age() -> None:
    often, seldom = Capacity(), Capacity()
    for capacity in (often, seldom):
        for i in range(100):
            capacity.on_report(i, i / 100, 0.040 if i else 0.0, 0, 0, i / 100)
        assert capacity.delays.queue_s > 0.015
    often.on_report(100, 1.0, 0.0, 0, 0, 1.0)
    seldom.on_report(100, 3.0, 0.0, 0, 0, 3.0)
    assert often.delays.queue_s > 0.010
    assert seldom.delays.queue_s == 0.0


def filled(rate: float, queue_s: float, told_of_at: float) -> Capacity:
    """In its steady phase, with round trips of 50 ms."""
    capacity = Capacity()
    capacity.phase = Phase.STEADY
    capacity.on_rtt(0.050, told_of_at + 0.050, told_of_at)
    capacity.carries.mean, capacity.delays.queue_s = rate, queue_s
    return capacity


@pytest.mark.parametrize(
    ("in_flight", "since_s", "queue_s"),
    [
        (50_000, 0.050, 0.020),  # as much has left as the line carried
        (90_000, 0.050, 0.060),
        (20_000, 0.050, 0.0),
        (0, 0.010, 0.010),
        (0, 1.0, 0.0),
        (90_000, 1.0, 0.060),  # nothing is heard of it: who knows whether it carries anything
    ],
)
def test_the_queue_is_what_was_told_and_what_left_since_less_what_was_carried(
    in_flight: int, since_s: float, queue_s: float
) -> None:
    capacity = filled(1e6, 0.020, NOW)
    assert capacity.queue_now_s(in_flight, NOW + since_s) == pytest.approx(queue_s)
    capacity.phase = Phase.STARTUP
    assert capacity.queue_now_s(90_000, NOW + since_s) == 0.020, "its rate is not known"


def test_a_queue_in_startup_is_foretold_by_what_probes_say_and_by_what_came() -> None:
    """1 Mbit/s of 0.2 s hold 25 kB: what leaves beyond that waits, long before a report says so."""
    capacity = Capacity()
    capacity.on_rtt(0.2, NOW, NOW)
    assert capacity.queue_now_s(50_000, NOW + 0.1) == 0.0, "its rate is not known"
    capacity.begin_thin(1e6 / 8)
    assert capacity.queue_now_s(25_000, NOW + 0.2) == pytest.approx(0.0)
    assert capacity.queue_now_s(50_000, NOW + 0.2) == pytest.approx(0.2)
    capacity.carries.brought(4e6 / 8, NOW)
    assert capacity.queue_now_s(50_000, NOW + 0.2) == 0.0, "probes were late: it has brought more"


def test_round_trips_count_anew_when_reports_come_by_another_line() -> None:
    capacity = filled(1e6, 0.0, NOW)
    capacity.on_rtt(0.100, NOW + 0.1)
    assert capacity.delays.base_rtt_s == 0.050
    capacity.reports_moved(NOW + 0.2)
    capacity.on_rtt(0.090, NOW + 0.3)
    assert capacity.delays.base_rtt_s == 0.090
    assert capacity.delays.srtt_s < 0.090, "not for the first time"
    capacity.phase = Phase.CONTENDED  # it would take others' queue for its own way
    capacity.reports_moved(NOW + 0.4)
    assert capacity.delays.base_rtt_s == 0.090


def test_long_report_intervals_count_for_more_than_short_ones() -> None:
    capacity, now = Capacity(), 100.0
    for i in range(400):
        now += 0.010 if i % 2 else 0.002
        capacity.on_report(i, now, None, 0, 0, now)
    assert capacity.report_s == pytest.approx((0.010**2 + 0.002**2) / 0.012, rel=0.1)


def test_the_correction_grows_only_while_something_is_held_back() -> None:
    line = SimulatedLine(50, 0.010)
    line.run(4)
    line.limit = 0.3 * line.rate  # the application sends no more
    line.run(3)
    line.limit = inf
    line.run(0.3)
    assert max(line.queues) < 0.025


@pytest.mark.parametrize("mbit", [10, 80])
def test_startup_does_not_fill_the_modem_of_a_long_line(mbit: float) -> None:
    """A round is 340 ms: who looks at the queue only then has four times as much in it. Slow start alone
    overshoots by as much as the line holds."""
    line = SimulatedLine(mbit, 0.170)
    most = 0.0
    while line.capacity.phase is Phase.STARTUP:
        line.run(0.05)
        most = max(most, *line.queues)
    assert line.capacity.window > 2 * line.delay_s * line.rate, "what a burst brought is all it carries"
    line.run(1.0)
    assert 0.01 < max(most, *line.queues) < 0.36


def test_what_startup_lost_is_not_held_against_the_line() -> None:
    """It has twice under way what the line holds before it can know; the loss is told when it is over."""
    line = SimulatedLine(30, 0.025, loss=0.005, buffer_s=0.060)
    line.run(1)
    assert line.lost > 0.1 * line.rate * line.buffer_s / DATAGRAM_BYTES
    assert line.run(2) >= 0.97 * (1 - line.loss) * line.rate
    assert line.capacity.loss < 0.03


def test_ends_that_are_later_than_the_line_is_long_do_not_keep_the_window_small() -> None:
    """Processors that others are busy with, too: what is under way must cover it, or nothing grows."""
    line = SimulatedLine(40, 0.0002, late_s=0.050)
    line.run(4)
    assert line.run(4) > 0.9 * line.rate


def test_a_few_acks_with_jitter_leave_the_window_as_it_was() -> None:
    """They are no reason to drain, nor to shrink: the next flow begins with that window."""
    line = SimulatedLine(10, 0.020)
    line.run(4)
    capacity, before = line.capacity, line.capacity.window
    for number in range(1000):
        now = line.now + number * 0.020
        delay = line.delay_s + (0.004, 0.015, 0.040)[number // 5 % 3]
        capacity.on_rtt(line.delay_s + delay, now)
        capacity.on_report(line.frame_bytes + 100 * number, now - line.delay_s, delay, 1, 0, now)
    assert capacity.window == pytest.approx(before, rel=0.1)


def test_a_line_that_returns_gets_half_of_what_it_did_whatever_was_reported_meanwhile() -> None:
    """What stood in the base station meanwhile arrives late, and is no queue any more."""
    line = SimulatedLine(16, 0.020)
    line.run(4)
    before = line.capacity.window
    capacity = line.capacity
    capacity.window, capacity.delays.queue_s = WINDOW_MIN_BYTES, 0.4
    capacity.resume(line.now + 1.0)
    assert capacity.window == pytest.approx(before / 2, rel=0.2)
    assert capacity.delays.queue_s == 0.0
    fresh = Capacity()
    fresh.resume(0.0)
    assert fresh.window == WINDOW_START_BYTES, "it has not carried yet"


@pytest.mark.parametrize(("apart_s", "jitters"), [(0.1, True), (3.0, False)])
def test_delays_that_probes_tell_of_seconds_apart_are_no_jitter(apart_s: float, jitters: bool) -> None:
    """They went through what others had queued there."""
    line = Capacity()
    for i in range(20):
        line.on_report(0, NOW + i * apart_s, 0.025 + 0.050 * (i % 2), 0, 0, NOW + i * apart_s)
    assert (line.queue_aim_s > Capacity().queue_aim_s) == jitters


@pytest.mark.parametrize(("share", "grows"), [(0.2, False), (0.35, True)])
def test_a_slow_start_widens_what_is_used_by_a_quarter(share: float, grows: bool) -> None:
    """Nothing was refused: the flow's own slow start is as fast, and is not to wait for ours."""
    line, trip_s = Capacity(), 0.1
    line.on_rtt(trip_s, 1000.0)
    came = 0.0
    for step in range(40):
        now = 1000.0 + step * trip_s / 10
        came += share * WINDOW_START_BYTES / 10
        line.on_report(int(came), now, 0.05, 1, 0, now)
    assert line.phase is Phase.STARTUP
    assert (line.window > WINDOW_START_BYTES) == grows


def beside_a_standing_queue(share: float, seconds: float) -> Capacity:
    """A new line in which others keep 0.2 s of queue, and of whose first window that share comes a trip."""
    line, trip_s = Capacity(), 0.250
    line.on_rtt(0.050, NOW - 8.0)
    line.on_report(0, NOW - 8.0, 0.025, 0, 0, NOW - 8.0)
    came, step_s = 0.0, 0.005
    for step in range(1, round(seconds / step_s)):
        now = NOW + step * step_s
        came += share * WINDOW_START_BYTES * step_s / trip_s
        line.on_rtt(trip_s, now)
        line.on_report(int(came), now, 0.225, 1, 0, now)
        if share == 1.0:
            line.refused(now)
    return line


def test_what_others_have_queued_does_not_end_the_startup_of_an_idle_line() -> None:
    """Over lines that a download beside the bond had filled, the next flow had 2 of 74 Mbit/s (kernel, 288
    and 388 ms): what probes brought was taken for the lines' rate."""
    line = beside_a_standing_queue(0.01, 20.0)
    assert line.phase is Phase.STARTUP
    assert line.window == WINDOW_START_BYTES


def test_a_queue_that_stays_ends_it_once_the_line_is_wanted() -> None:
    assert beside_a_standing_queue(1.0, 0.1).phase is Phase.STARTUP
    line = beside_a_standing_queue(1.0, 4.0)
    assert line.phase is not Phase.STARTUP
    assert line.window >= WINDOW_MIN_BYTES


def test_of_an_idle_line_the_probes_say_how_long_its_queue_is() -> None:
    line = filled(1e6, 0.0, NOW)
    line.on_report(1000, NOW, 0.025, 1, 0, NOW)
    line.idle_queue(0.8, NOW + 0.5)
    assert line.queue_now_s(0, NOW + 0.5) == 0.0, "a report has just said more"
    line.idle_queue(0.8, NOW + 3.0)
    assert line.queue_now_s(0, NOW + 3.0) == pytest.approx(0.8)
    assert line.queue_now_s(0, NOW + 3.5) == pytest.approx(0.3)


def test_what_is_queued_after_a_silence_is_not_the_base() -> None:
    line = filled(1e6, 0.0, NOW)
    line.on_report(1000, NOW, 0.025, 1, 0, NOW)
    for step in range(10):
        now = NOW + 20.0 + step * 0.05
        line.on_report(1000 + step, now, 0.625, 1, 0, now)
    assert line.delays.base_delay_s == 0.025
