"""The demo's arithmetic, and that every promise can be broken."""

import dataclasses
import itertools
import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bondvpn.ui import demo_verdict
from bondvpn.ui.demo_verdict import Figures, Timeline, as_dict, evaluate, judge, longest_silence, mean

ALONE = {"dsl": 15.3e6, "cable": 47.8e6, "lte": 28.7e6}
GOOD = Figures(
    ALONE,
    "lte",
    bonded=89e6,
    steady_s=4.7,
    gone_s=5.0,
    silence_s=0.4,
    while_cut=61e6,
    again_s=0.8,
    after=88e6,
)
# 4 s of slow start, 2 s steady, 2 s of which the first 0.3 are silent, 1 s until used again, 2 s after.
INTERVALS = [10e6] * 40 + [89e6] * 20 + [0.0] * 3 + [30e6] * 7 + [60e6] * 20 + [88e6] * 20
WHEN = Timeline(steady_from=4.0, cut=6.0, restored=8.0, again=9.0, end=11.0)


def test_the_figures_of_a_transfer() -> None:
    figures = evaluate(ALONE, "lte", INTERVALS, 0.1, WHEN)
    assert figures.total == pytest.approx(91.8e6)
    assert figures.bonded == pytest.approx(89e6)  # neither slow start nor the cut's edge
    assert figures.steady_s == pytest.approx(1.8)
    assert figures.share == pytest.approx(89 / 91.8)
    assert figures.silence_s == pytest.approx(0.5)
    assert figures.gone_s == pytest.approx(2.0)
    assert figures.while_cut == pytest.approx(60e6)  # neither TCP's recovery nor the return
    assert figures.rest == pytest.approx(63.1e6)
    assert figures.again_s == pytest.approx(1.0)
    assert figures.after == pytest.approx(88e6)
    assert judge(figures).ok


def test_silence_in_slow_start_is_not_the_bonds() -> None:
    figures = evaluate(ALONE, "lte", [0.0] * 30 + INTERVALS[30:], 0.1, WHEN)
    assert figures.silence_s == pytest.approx(0.5)


def test_a_line_that_stays_away_is_seen() -> None:
    figures = evaluate(ALONE, "lte", INTERVALS, 0.1, dataclasses.replace(WHEN, again=None))
    assert figures.again_s is None
    assert figures.after > 0
    assert not judge(figures).ok


def test_the_verdict_in_words() -> None:
    verdict = judge(GOOD)
    assert verdict.ok
    assert verdict.text == (
        "One TCP connection got 89.0 Mbit/s out of lines that alone give 15.3 + 47.8 + 28.7 = 91.8: 96.9%. "
        "The LTE line was pulled for 5.0 s: no connection was lost, the longest silence was under 0.4 s, "
        "the others gave 61.0 of 63.1 Mbit/s meanwhile, and it was back in use 0.8 s after it returned."
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bonded": 0.899 * 91.8e6}, "89.9% of the sum, at least 90% was due"),
        ({"silence_s": 1.0}, "silent for up to 1.0 s, less than 1 s was due"),
        ({"while_cut": 0.84 * 63.1e6}, "84.0% of the lines but LTE, at least 85% was due"),
        ({"again_s": 3.1}, "LTE was not used again within 3 s"),
        ({"again_s": None}, "LTE was not used again within 3 s"),
        ({"after": 0.0}, "nothing was delivered after the line's return"),
        ({"fault": "iperf3: reset"}, "the TCP connection through the bond was lost: iperf3: reset"),
    ],
)
def test_each_promise_can_be_broken_alone(change: dict[str, Any], words: str) -> None:
    verdict = judge(dataclasses.replace(GOOD, **change))
    assert not verdict.ok
    assert verdict.reasons == [words]
    assert words in verdict.text
    assert "not good: " in verdict.text.lower()


@pytest.mark.parametrize(
    "change",
    [
        {"bonded": demo_verdict.SHARE_MIN * 91.8e6 + 1},
        {"silence_s": 0.9},
        {"while_cut": demo_verdict.CUT_SHARE_MIN * 63.1e6 + 1},
        {"again_s": 3.0},
    ],
)
def test_just_enough_is_good(change: dict[str, Any]) -> None:
    assert judge(dataclasses.replace(GOOD, **change)).ok


def test_json_has_null_for_what_was_not_measured() -> None:
    whole = as_dict(GOOD, judge(GOOD))
    assert whole["share"] == pytest.approx(0.9695)
    assert whole["pulled"]["used_again_s"] == 0.8
    assert not whole["connection_lost"]
    lost = Figures(ALONE, "lte", fault="gone")
    broken = as_dict(lost, judge(lost))
    assert broken.keys() == whole.keys()
    assert broken["connection_lost"]
    assert broken["ok"] is False
    assert broken["bonded_mbit"] is broken["share"] is broken["pulled"]["longest_silence_s"] is None
    json.dumps([whole, broken], allow_nan=False)


@settings(deadline=None)
@given(st.lists(st.booleans(), max_size=60))
def test_no_true_silence_is_longer_than_its_bound(delivered: list[bool]) -> None:
    # Worst case: what an interval holds came at its start, or at its end.
    rates = [1e6 if some else 0.0 for some in delivered]
    marks = [place for place, some in enumerate(delivered) if some]
    for before, after in itertools.pairwise(marks):
        assert (after + 1 - before) * 0.1 <= longest_silence(rates, 0.1) + 1e-9
    assert longest_silence(rates, 0.1) <= (len(rates) + 2) * 0.1 + 1e-9


@settings(deadline=None)
@given(
    st.lists(st.floats(0, 1e9), min_size=1, max_size=50),
    st.floats(0, 6),
    st.floats(0, 6),
    st.floats(0.05, 0.2),
)
def test_a_mean_lies_between_its_extremes(rates: list[float], start: float, end: float, step: float) -> None:
    value = mean(rates, step, start, end)
    assert value == 0 or min(rates) * (1 - 1e-9) <= value <= max(rates) * (1 + 1e-9)
    assert math.isfinite(value)


def test_a_mean_takes_whole_intervals_only() -> None:
    rates = [1.0, 2.0, 3.0, 4.0]
    assert mean(rates, 0.1, 0.1, 0.3) == 2.5
    assert mean(rates, 0.1, 0.05, 0.35) == 2.5
    assert mean(rates, 0.1, 0.3, 9.0) == 4.0
    assert mean(rates, 0.1, 0.31, 0.35) == 0.0
