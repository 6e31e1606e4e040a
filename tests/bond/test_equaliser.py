"""Delay equalisation: what is held, for how long, and what is left alone."""

import pytest

from bondvpn.bond.delayscale import FOLLOWED_MAX_S
from bondvpn.bond.equaliser import (
    LINE_KEEP_S,
    MARGIN_S,
    QUEUED_KEEP_S,
    SPREAD_MAX_S,
    SPREAD_MIN_S,
    Equaliser,
)
from bondvpn.bond.liveness import RttEstimator
from bondvpn.wire.sealed import TIME_UNIT_S, time_of

OFFSET_S = 987.654  # between the clocks


def round_trips(*seconds: float) -> RttEstimator:
    """Of a line's probes."""
    rtt = RttEstimator()
    for one in seconds:
        rtt.add(one)
    return rtt


SHORT = round_trips(0.020)


def heard(
    delays: dict[int, float], *, start: float = 50.0, seconds: float = 1.0, idle: frozenset[int] = frozenset()
) -> tuple[Equaliser, float]:
    """Each line brings a probe every 10 ms for so long; the `idle` ones carry no bulk."""
    equaliser = Equaliser()
    now = start
    while now < start + seconds:
        for link, delay in delays.items():
            equaliser.probed(link, time_of(now - delay + OFFSET_S), SHORT, now, carries=link not in idle)
        now += 0.010
    return equaliser, now


@pytest.mark.parametrize("start", [50.0, 1.0486, 3.0])
def test_a_chunk_waits_for_what_the_slowest_line_would_have_taken(start: float) -> None:
    """Whatever the clocks show, also across the wrap of the 16-bit time."""
    equaliser, now = heard({0: 0.010, 1: 0.060}, start=start)
    assert equaliser.spread_s == pytest.approx(0.050, abs=2 * TIME_UNIT_S)
    for age in (0.010, 0.030, 0.060):
        due = equaliser.release(time_of(now - age + OFFSET_S), now)
        assert due - now == pytest.approx(0.060 - age + MARGIN_S, abs=3 * TIME_UNIT_S)


def test_what_waited_long_enough_before_it_was_sent_is_not_held() -> None:
    equaliser, now = heard({0: 0.010, 1: 0.060})
    assert equaliser.release(time_of(now - 0.100 + OFFSET_S), now) == now


def test_nor_is_what_waited_for_most_of_a_clocks_turn() -> None:
    """The sender's clock has 16 bits, 1.05 s; on a slow line 0.9 s of them may pass in the queue."""
    equaliser, now = heard({0: 0.010, 1: 0.060})
    for age in (0.3, 0.6, 0.9):
        assert equaliser.release(time_of(now - age + OFFSET_S), now) == now


@pytest.mark.parametrize("queue_s", [0.3, 0.6, 0.75])
def test_a_full_modem_is_not_taken_for_a_quick_line(queue_s: float) -> None:
    equaliser, now = heard({0: 0.010, 1: 0.060})
    for _ in range(20):
        for link, delay in ((0, 0.010 + queue_s), (1, 0.060)):
            equaliser.probed(link, time_of(now - delay + OFFSET_S), SHORT, now, carries=True)
        now += 0.010
    assert equaliser.spread_s == pytest.approx(0.050, abs=2 * TIME_UNIT_S)


@pytest.mark.parametrize("queue_s", [0.3, 0.6, 0.9, 1.2, 1.7])
def test_a_queue_that_grows_is_not_taken_for_a_quick_line(queue_s: float) -> None:
    """Also where it is longer than the clock's turn: it grows from one datagram to the next."""
    equaliser, now = heard({0: 0.010, 1: 0.060})
    steps = 40
    for step in (*range(steps), *range(steps, -1, -1)):
        for link, delay in ((0, 0.010 + queue_s * step / steps), (1, 0.060)):
            equaliser.probed(link, time_of(now - delay + OFFSET_S), SHORT, now, carries=True)
        now += 0.030
        assert equaliser.spread_s == pytest.approx(0.050, abs=2 * TIME_UNIT_S)


@pytest.mark.parametrize("queue_s", [0.75, 0.9, 1.1])
def test_nor_is_one_that_somebody_else_has_put_there(queue_s: float) -> None:
    """Out of silence only the round trip of a probe tells so long a queue from a shorter route."""
    equaliser, now = heard({0: 0.010, 1: 0.060})
    full = round_trips(0.020, 0.020 + queue_s)
    for _ in range(4):
        now += 1.0
        for link, rtt, delay in ((0, full, 0.010 + queue_s), (1, SHORT, 0.060)):
            equaliser.probed(link, time_of(now - delay + OFFSET_S), rtt, now, carries=True)
    assert equaliser.spread_s == pytest.approx(0.050, abs=2 * TIME_UNIT_S)


@pytest.mark.parametrize(("seconds", "kept"), [(20, True), (QUEUED_KEEP_S + 12, False)])
def test_a_queue_of_others_is_no_longer_route_before_it_has_stayed_too_long(
    seconds: float, kept: bool
) -> None:
    equaliser, now = heard({0: 0.010, 1: 0.060})
    full = round_trips(0.020, 0.120)
    for _ in range(round(seconds)):
        now += 1.0
        for link, rtt, delay in ((0, SHORT, 0.010), (1, full, 0.160)):
            equaliser.probed(link, time_of(now - delay + OFFSET_S), rtt, now, carries=True)
    assert equaliser.spread_s == pytest.approx(0.050 if kept else 0.150, abs=2 * TIME_UNIT_S)


def test_a_queue_that_is_lost_as_a_whole_misleads_for_seconds_only() -> None:
    equaliser, now = heard({0: 0.010, 1: 0.060})
    bases = equaliser._bases
    end = now + FOLLOWED_MAX_S + 7.0
    for queue_s in (0.2, 0.4, 0.6, 0.7):
        equaliser.note(0, time_of(now - 0.010 - queue_s + OFFSET_S), SHORT, now)
        now += 0.1
    while now < end:
        equaliser.note(0, time_of(now - 0.010 + OFFSET_S), SHORT, now)
        equaliser.note(1, time_of(now - 0.060 + OFFSET_S), SHORT, now)
        now += 0.050
    assert bases[1].value - bases[0].value == pytest.approx(0.050 / TIME_UNIT_S, abs=2)


def test_queues_that_come_and_go_leave_what_a_delay_is_measured_by() -> None:
    """Else it walks up with them, a little each time, until the line itself lies below what can be told."""
    equaliser, now = heard({0: 0.010, 1: 0.060})
    for step in range(4000):
        for link, delay in ((0, 0.010 + step % 16 * 0.015), (1, 0.060)):
            equaliser.probed(link, time_of(now - delay + OFFSET_S), SHORT, now, carries=True)
        now += 0.030
        assert equaliser.spread_s == pytest.approx(0.050, abs=2 * TIME_UNIT_S)


def test_clocks_may_drift_apart_for_days() -> None:
    equaliser, now = heard({0: 0.010, 1: 0.060})
    for turn in range(4000):  # 200 ppm: more than the clock's turn
        now += 2.0
        for link, delay in ((0, 0.010), (1, 0.060)):
            drifted = OFFSET_S - turn * 0.0004
            equaliser.probed(link, time_of(now - delay + drifted), SHORT, now, carries=True)
        assert equaliser.spread_s == pytest.approx(0.050, abs=0.003)


@pytest.mark.parametrize("drift", [-100e-6, 100e-6])
def test_also_while_no_round_trip_is_as_short_as_the_shortest(drift: float) -> None:
    """At night it was 25 ms shorter: the clocks are followed by day all the same."""
    equaliser, now = heard({0: 0.010, 1: 0.060})
    rtt = round_trips(0.020, 0.045)
    for turn in range(20_000):  # 11 h, four turns of the clock
        now += 2.0
        for link, delay in ((0, 0.030), (1, 0.060)):
            drifted = OFFSET_S - turn * 2.0 * drift
            equaliser.probed(
                link, time_of(now - delay + drifted), rtt if link == 0 else SHORT, now, carries=True
            )
        if turn > 10:
            assert equaliser.spread_s == pytest.approx(0.030, abs=0.003)


def test_a_queue_that_others_keep_for_an_hour_is_no_drift() -> None:
    equaliser, now = heard({0: 0.010, 1: 0.060})
    full = round_trips(0.020, 0.420)
    for turn in range(1900):
        now += 2.0
        queue_s, rtt = (0.4, full) if turn < 1800 else (0.0, SHORT)
        equaliser.probed(0, time_of(now - 0.010 - queue_s + OFFSET_S), rtt, now, carries=True)
        equaliser.probed(1, time_of(now - 0.060 + OFFSET_S), SHORT, now, carries=True)
    assert equaliser.spread_s == pytest.approx(0.050, abs=0.001)


def test_a_line_that_was_full_when_the_session_began_is_known_once_it_is_not() -> None:
    """Its shortest round trip falls, and by how much."""
    equaliser = Equaliser()
    now = 50.0
    rtt = round_trips(0.470)
    for step in range(400):
        queue_s = 0.45 if step < 20 else 0.0
        rtt.add(0.020 + queue_s)
        equaliser.probed(0, time_of(now - 0.010 - queue_s + OFFSET_S), rtt, now, carries=True)
        equaliser.probed(1, time_of(now - 0.060 + OFFSET_S), SHORT, now, carries=True)
        now += 0.300
    assert equaliser.spread_s == pytest.approx(0.050, abs=0.001)


def test_round_trips_that_count_anew_leave_the_anchor() -> None:
    """A link that is bound anew has no round trip yet."""
    long, unknown = round_trips(0.400), RttEstimator()
    equaliser, now = Equaliser(), 50.0
    for step in range(300):
        queue_s, rtt = (0.0, long) if step < 100 else (0.6 * (step > 200), unknown)
        for link, delay in ((0, 0.200 + queue_s), (1, 0.250)):
            equaliser.probed(link, time_of(now - delay + OFFSET_S), rtt, now, carries=True)
        now += 0.300
        if step:
            assert -0.001 < equaliser.spread_s < 0.051 or queue_s
    bases = equaliser._bases
    assert bases[1].value - bases[0].value == pytest.approx((0.050 - 0.6) / TIME_UNIT_S, abs=100)


def test_lines_of_nearly_one_delay_are_left_alone() -> None:
    equaliser, now = heard({0: 0.010, 1: 0.010 + 0.8 * SPREAD_MIN_S})
    assert equaliser.spread_s == 0.0
    assert equaliser.release(time_of(now - 0.010 + OFFSET_S), now) == now


def test_nobody_waits_for_a_satellite() -> None:
    equaliser, now = heard({0: 0.010, 1: 0.400})
    due = equaliser.release(time_of(now - 0.010 + OFFSET_S), now)
    assert due - now == pytest.approx(SPREAD_MAX_S + MARGIN_S, abs=3 * TIME_UNIT_S)


def test_nor_for_a_line_that_carries_no_bulk() -> None:
    equaliser, now = heard({0: 0.010, 1: 0.060}, idle=frozenset((1,)))
    assert equaliser.spread_s == 0.0
    assert equaliser.release(time_of(now - 0.010 + OFFSET_S), now) == now


def test_nor_for_a_line_of_which_nothing_is_heard() -> None:
    equaliser, now = heard({0: 0.010, 1: 0.060})
    end = now + LINE_KEEP_S + 0.1
    while now < end:
        equaliser.note(0, time_of(now - 0.010 + OFFSET_S), SHORT, now)
        now += 0.1
    assert equaliser.spread_s == 0.0
