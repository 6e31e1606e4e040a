"""Thin lines, told by probes of two lengths."""

from math import inf

import pytest

from bondvpn.bond.longprobes import LATE_S, SENT_KEPT, LongProbes

SHORT_BYTES, LONG_BYTES = 83, 1514


def answered(rate: float, late_s: float = 0.0, nbytes: int = LONG_BYTES, rtt_s: float = 0.040) -> LongProbes:
    """By a line of `rate` bytes a second whose short probes take `rtt_s`."""
    probes = LongProbes()
    take(probes, nbytes, rtt_s + (nbytes - SHORT_BYTES) / rate + late_s)
    return probes


def take(probes: LongProbes, nbytes: int, took_s: float) -> None:
    """One more probe."""
    probes.sent(7, 100.0)
    probes.answered(7, nbytes, 100.0 + took_s)


@pytest.mark.parametrize("mbit", [0.1, 1.7, 5])
def test_a_thin_lines_rate_beside_a_late_wake_up(mbit: float) -> None:
    rate = mbit * 1e6 / 8
    assert answered(rate, late_s=LATE_S).rate(SHORT_BYTES, 0.040) == pytest.approx(rate)
    assert answered(rate).rate(SHORT_BYTES, 0.040) > rate


@pytest.mark.parametrize("mbit", [10, 1000])
def test_a_fast_lines_is_not_told(mbit: float) -> None:
    assert answered(mbit * 1e6 / 8).rate(SHORT_BYTES, 0.040) == inf


def test_nothing_is_known_before_probes_of_both_lengths_were_answered() -> None:
    assert LongProbes().rate(SHORT_BYTES, 0.040) == inf
    assert answered(1e5).rate(SHORT_BYTES, 0.0) == inf


def test_the_quickest_answer_of_the_longest_counts() -> None:
    """A late one makes a line look thinner."""
    probes = answered(1e6, nbytes=1294, late_s=0.100)
    take(probes, LONG_BYTES, 0.200)
    take(probes, LONG_BYTES, 0.040 + LATE_S + (LONG_BYTES - SHORT_BYTES) / 2e5)
    take(probes, LONG_BYTES, 0.300)
    take(probes, 1294, 0.041)
    assert probes.rate(SHORT_BYTES, 0.040) == pytest.approx(2e5)


def test_an_answer_after_seconds_does_not_make_a_thin_line_fast() -> None:
    """Others fill it. The time in a probe has 16 bits, 1.05 s: by that it would have taken 0.05."""
    probes = answered(1e5, late_s=LATE_S)
    take(probes, LONG_BYTES, 1.1)
    assert probes.rate(SHORT_BYTES, 0.040) == pytest.approx(1e5)


def test_an_answer_that_nobody_waits_for_says_nothing() -> None:
    probes = LongProbes()
    probes.answered(0, LONG_BYTES, 100.06)
    assert probes.rate(SHORT_BYTES, 0.040) == inf
    for number in range(SENT_KEPT + 1):
        probes.sent(number, 100.0)
    probes.answered(0, LONG_BYTES, 100.06)
    assert probes.rate(SHORT_BYTES, 0.040) == inf
    probes.answered(1, LONG_BYTES, 100.06)
    assert probes.rate(SHORT_BYTES, 0.040) < inf
