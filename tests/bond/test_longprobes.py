"""Thin lines, told by probes of two lengths."""

from math import inf

import pytest

from bondvpn.bond.longprobes import LongProbes

SHORT_BYTES, LONG_BYTES = 83, 1514


def answered(rate: float, late_s: float = 0.0, nbytes: int = LONG_BYTES, rtt_s: float = 0.040) -> LongProbes:
    """By a line of `rate` bytes a second whose short probes take `rtt_s`."""
    probes = LongProbes()
    probes.answered(nbytes, rtt_s + (nbytes - SHORT_BYTES) / rate + late_s)
    return probes


@pytest.mark.parametrize("mbit", [0.1, 1.7, 5])
def test_a_thin_lines_rate(mbit: float) -> None:
    rate = mbit * 1e6 / 8
    assert answered(rate).rate(SHORT_BYTES, 0.040) == pytest.approx(rate)


@pytest.mark.parametrize("mbit", [10, 1000])
def test_a_fast_lines_is_not_told(mbit: float) -> None:
    assert answered(mbit * 1e6 / 8).rate(SHORT_BYTES, 0.040) == inf


def test_nothing_is_known_before_probes_of_both_lengths_were_answered() -> None:
    assert LongProbes().rate(SHORT_BYTES, 0.040) == inf
    assert answered(1e5).rate(SHORT_BYTES, 0.0) == inf


def test_the_quickest_answer_of_the_longest_counts() -> None:
    """A late one makes a line look thinner."""
    probes = answered(1e6, nbytes=1294, late_s=0.100)
    probes.answered(LONG_BYTES, 0.200)
    probes.answered(LONG_BYTES, 0.040 + (LONG_BYTES - SHORT_BYTES) / 2e5)
    probes.answered(LONG_BYTES, 0.300)
    probes.answered(1294, 0.041)
    assert probes.rate(SHORT_BYTES, 0.040) == pytest.approx(2e5)
