"""What a lane remembers of what came, between two reports."""

import pytest

from bondvpn.bond.arrivals import (
    PROBE_REPORTED_S,
    REPORT_TRAIN,
    SPOKEN_FOR_MIN,
    SPOKEN_FOR_REPORTS,
    TRAIN_DATAGRAMS,
    Arrivals,
)
from bondvpn.wire.sealed import TIME_UNIT_S

NOW = 1000.0


def units(seconds: float) -> int:
    return int(seconds / TIME_UNIT_S) & 0xFFFF


def test_bytes_and_the_moment_of_the_last_arrival_are_kept() -> None:
    arrivals = Arrivals()
    arrivals.came(0, 3, 4500, NOW)
    arrivals.came(3, 1, 100, NOW + 1)
    assert (arrivals.frame_bytes, arrivals.at) == (4600, NOW + 1)
    arrivals.take(3)
    assert arrivals.frame_bytes == 4600


@pytest.mark.parametrize(
    ("runs", "gap"),
    [
        ([(0, 3), (3, 2)], False),
        ([(0, 3), (4, 2)], True),
        ([(1, 3)], True),
        ([(0, 8), (2, 1), (8, 1)], False),  # late, and on as before
    ],
)
def test_a_gap_is_seen_when_something_came_behind_it(runs: list[tuple[int, int]], gap: bool) -> None:
    arrivals = Arrivals()
    for first, count in runs:
        arrivals.came(first, count, 100, NOW)
    assert arrivals.gap is gap
    arrivals.take(8)
    assert not arrivals.gap


def test_the_smallest_delay_since_the_last_report_is_told_once() -> None:
    arrivals = Arrivals()
    for delay_s in (0.030, 0.020, 0.025):
        arrivals.data(1, units(NOW), NOW + delay_s)
    delay, _ = arrivals.take(2)
    assert delay is not None
    assert delay * TIME_UNIT_S == pytest.approx(0.020, abs=2 * TIME_UNIT_S)
    assert arrivals.take(2)[0] is None
    arrivals.data(1, units(NOW), NOW + 0.040)
    delay, _ = arrivals.take(3)
    assert delay is not None
    assert delay * TIME_UNIT_S == pytest.approx(0.040, abs=2 * TIME_UNIT_S)


def test_of_what_nobody_asked_about_the_last_is_told() -> None:
    """Probes of an idle line: the smallest of a minute says nothing of what its queue is now."""
    arrivals = Arrivals()
    for step, delay_s in enumerate((0.020, 0.420)):
        sent = NOW + step
        arrivals.probe(units(sent), sent + delay_s)
    delay, _ = arrivals.take(2)
    assert delay is not None
    assert delay * TIME_UNIT_S == pytest.approx(0.420, abs=2 * TIME_UNIT_S)


@pytest.mark.parametrize("queued_s", [0.2, 0.6, 0.94, 1.04])
@pytest.mark.parametrize("data", [False, True])
def test_what_arrives_right_behind_somebody_elses_queue_is_least_late(queued_s: float, data: bool) -> None:
    """Modulo 1.05 s the probe that stood in it looks quicker than what found the line empty: it would be the
    base for ten seconds, by which the line has a queue of up to 0.25 s whatever it does."""
    arrivals = Arrivals()
    arrivals.probe(units(NOW), NOW + 0.15 + queued_s)
    note = arrivals.data if data else lambda _, sent, now: arrivals.probe(sent, now)
    note(1, units(NOW + queued_s - 0.1), NOW + 0.15 + queued_s + 0.001)
    delay, _ = arrivals.take(2)
    assert delay is not None
    assert delay * TIME_UNIT_S == pytest.approx(0.251, abs=2 * TIME_UNIT_S)


def test_data_after_a_silence_is_not_compared_with_older_probes() -> None:
    """That one left 1.3 s later cannot be told from 0.25."""
    arrivals = Arrivals()
    arrivals.data(1, units(NOW - 5), NOW - 5 + 0.15)
    arrivals.take(0)
    arrivals.probe(units(NOW), NOW + 0.15 + 1.0)
    arrivals.data(1, units(NOW + 1.3), NOW + 1.3 + 0.15)
    delay, _ = arrivals.take(2)
    assert delay is not None
    assert delay * TIME_UNIT_S == pytest.approx(0.15, abs=2 * TIME_UNIT_S)


def test_the_smallest_delay_is_found_over_the_wrap() -> None:
    """The clocks of the two ends were never compared: delays lie anywhere."""
    arrivals = Arrivals()
    for delay in (2, 65_534, 1):
        arrivals.data(1, int(NOW / TIME_UNIT_S) - delay & 0xFFFF, NOW)
    assert arrivals.take(2)[0] == 65_534


def test_a_probe_asks_for_a_report_only_for_a_while_after_data() -> None:
    arrivals = Arrivals()
    arrivals.probe(units(NOW), NOW)
    assert arrivals.news == 0
    assert arrivals.worth_telling, "its delay, with a report that leaves anyway"
    arrivals.data(2, units(NOW), NOW)
    arrivals.probe(units(NOW), NOW + 0.9 * PROBE_REPORTED_S)
    assert arrivals.news == 3
    arrivals.take(3)
    assert not arrivals.worth_telling
    arrivals.probe(units(NOW), NOW + 1.1 * PROBE_REPORTED_S)
    assert arrivals.news == 0


def test_several_reports_speak_for_each_counter() -> None:
    arrivals = Arrivals()
    tops = [1000 * i for i in range(1, 10)]
    spoken = [range(top - arrivals.take(top)[1] + 1, top + 1) for top in tops]
    for counter in range(3000, 4000, 37):
        assert sum(counter in one for one in spoken) == SPOKEN_FOR_REPORTS


def test_a_slow_line_is_spoken_of_at_some_length_all_the_same() -> None:
    arrivals = Arrivals()
    for top in range(20):
        assert arrivals.take(top)[1] == SPOKEN_FOR_MIN


def test_the_first_reports_speak_for_the_first_counter_too() -> None:
    """Or the first datagram under new keys would count as lost."""
    arrivals = Arrivals()
    highest = SPOKEN_FOR_MIN + 10
    for _ in range(SPOKEN_FOR_REPORTS):
        assert arrivals.take(highest)[1] == highest + 1
    assert arrivals.take(highest)[1] == SPOKEN_FOR_MIN


def test_a_new_lane_is_told_of_train_by_train() -> None:
    arrivals = Arrivals()
    for number in range(TRAIN_DATAGRAMS // REPORT_TRAIN - 1):
        arrivals.data(REPORT_TRAIN - 1, units(NOW), NOW)
        assert not arrivals.train
        arrivals.data(1, units(NOW), NOW)
        assert arrivals.train
        arrivals.take(REPORT_TRAIN * number)
    arrivals.data(REPORT_TRAIN, units(NOW), NOW)
    assert not arrivals.train, "it is new no more"
