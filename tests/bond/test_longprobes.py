"""Thin lines, told by probes of two lengths."""

from math import inf

import pytest

from bondvpn.bond.longprobes import LATE_S, SENT_KEPT, TRAIN_PROBES, LongProbes

LONG_BYTES = 1514


def answered(rate: float, late_s: float = 0.0, nbytes: int = LONG_BYTES, rtt_s: float = 0.040) -> LongProbes:
    """By a line of `rate` bytes a second whose short probes take `rtt_s`."""
    probes = LongProbes()
    take(probes, nbytes, rtt_s + nbytes / rate + late_s)
    return probes


def take(probes: LongProbes, nbytes: int, took_s: float, short_s: float = inf) -> None:
    """One more probe, and the short one before it, by default without an answer."""
    probes.sent(3, [7], 100.0)
    if short_s < inf:
        probes.short_answered(3, 100.0 + short_s)
    probes.answered(7, nbytes, 100.0 + took_s)


@pytest.mark.parametrize("mbit", [0.1, 1.7, 5])
def test_a_thin_lines_rate_beside_a_late_wake_up(mbit: float) -> None:
    rate = mbit * 1e6 / 8
    assert answered(rate, late_s=LATE_S).rate(0.040) == pytest.approx(rate)
    assert answered(rate).rate(0.040) > rate


@pytest.mark.parametrize("mbit", [10, 1000])
def test_a_fast_lines_is_not_told(mbit: float) -> None:
    assert answered(mbit * 1e6 / 8).rate(0.040) == inf


def test_nothing_is_known_before_probes_of_both_lengths_were_answered() -> None:
    assert LongProbes().rate(0.040) == inf
    assert answered(1e5).rate(0.0) == inf


def test_the_quickest_answer_of_the_longest_counts() -> None:
    """A late one makes a line look thinner."""
    probes = answered(1e6, nbytes=1294, late_s=0.100)
    take(probes, LONG_BYTES, 0.200)
    take(probes, LONG_BYTES, 0.040 + LATE_S + LONG_BYTES / 2e5)
    take(probes, LONG_BYTES, 0.300)
    take(probes, 1294, 0.041)
    assert probes.rate(0.040) == pytest.approx(2e5)


@pytest.mark.parametrize("mbit", [0.5, 4])
def test_a_queue_of_others_is_no_part_of_it(mbit: float) -> None:
    """Both of a pair meet it, and it was not there when the shortest round trip was seen."""
    rate, probes = mbit * 1e6 / 8, LongProbes()
    take(probes, LONG_BYTES, 0.120 + LATE_S + LONG_BYTES / rate, 0.120)
    assert probes.rate(0.040) == pytest.approx(rate)


def test_a_queue_of_others_does_not_make_a_fast_line_thin() -> None:
    probes = LongProbes()
    take(probes, LONG_BYTES, 0.120 + LONG_BYTES * 8 / 50e6, 0.120)
    assert probes.rate(0.040) == inf


def test_a_fast_line_with_a_thin_way_back_is_not_taken_for_a_thin_one() -> None:
    """There each answer takes 20 ms."""
    probes = LongProbes()
    take(probes, LONG_BYTES, 0.041, 0.021)
    assert probes.rate(0.040) == inf


def test_one_answer_alone_from_the_middle_of_a_train_says_nothing() -> None:
    assert train({3: 0.200}).rate(0.040) == inf


def test_a_pair_of_which_the_short_one_was_lost_tells_by_its_round_trip() -> None:
    probes = LongProbes()
    probes.sent(3, [7], 100.0)
    probes.short_answered(2, 100.041)  # another one
    probes.answered(7, LONG_BYTES, 100.0 + 0.040 + LATE_S + LONG_BYTES / 1e5)
    assert probes.rate(0.040) == pytest.approx(1e5)


def test_an_answer_after_seconds_does_not_make_a_thin_line_fast() -> None:
    """Others fill it. The time in a probe has 16 bits, 1.05 s: by that it would have taken 0.05."""
    probes = answered(1e5, late_s=LATE_S)
    take(probes, LONG_BYTES, 1.1)
    assert probes.rate(0.040) == pytest.approx(1e5)


def test_an_answer_that_nobody_waits_for_says_nothing() -> None:
    probes = LongProbes()
    probes.answered(0, LONG_BYTES, 100.06)
    assert probes.rate(0.040) == inf
    for number in range(0, SENT_KEPT + 2, 2):
        probes.sent(number, [number + 1], 100.0)
    probes.answered(1, LONG_BYTES, 100.06)
    assert probes.rate(0.040) == inf
    probes.answered(3, LONG_BYTES, 100.06)
    assert probes.rate(0.040) < inf


def train(answers_s: dict[int, float]) -> LongProbes:
    """Answers after so many seconds, by place in the train; 0 is the short one."""
    probes = LongProbes()
    probes.sent(0, list(range(1, TRAIN_PROBES + 1)), 100.0)
    for place, after_s in answers_s.items():
        if place:
            probes.answered(place, LONG_BYTES, 100.0 + after_s)
        else:
            probes.short_answered(0, 100.0 + after_s)
    return probes


def test_an_uplink_that_grants_little_at_first_is_not_taken_for_a_thin_one() -> None:
    """A single pair is: LTE's modem asks for more only with the first packet."""
    pair = LongProbes()
    take(pair, LONG_BYTES, 0.058, 0.042)
    assert pair.rate(0.040) < 1e6 / 8
    assert train({0: 0.042, 1: 0.058, 2: 0.059, 3: 0.060, 4: 0.061}).rate(0.040) == inf


@pytest.mark.parametrize("lost", [set(), {0}, {2}, {1, 3}])
def test_a_thin_line_looks_thin_by_a_train_too(lost: set[int]) -> None:
    rate, queue_s = 0.5e6 / 8, 0.080
    answers = {i: 0.040 + queue_s + i * (LONG_BYTES / rate + LATE_S) for i in range(TRAIN_PROBES + 1)}
    probes = train({place: at for place, at in answers.items() if place not in lost})
    assert probes.rate(0.040) == pytest.approx(rate)


def test_two_answers_that_one_late_wake_up_reads_do_not_make_a_thin_line_fast() -> None:
    takes_s = LONG_BYTES / (0.5e6 / 8)
    answers = {i: 0.040 + i * takes_s for i in range(TRAIN_PROBES + 1)}
    answers[2] = answers[3]
    assert train(answers).rate(0.040) < 2e6 / 8


def test_a_train_is_asked_for_once() -> None:
    probes = LongProbes()
    assert [probes.ask_again() for _ in range(3)] == [True, False, False]
