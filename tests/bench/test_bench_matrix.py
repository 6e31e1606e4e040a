"""The matrix: the design fills the space, scenarios stay in their ranges, what is done is not repeated."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.matrix import __main__ as program
from bench.matrix import report, store
from bench.matrix.design import latin_hypercube, spread, wsp
from bench.matrix.measure import figures, start_s
from bench.matrix.scenarios import SETS, SUM_MAX_MBIT, scenarios
from bondvpn.errors import ConfigError


def nearest(points: Any) -> float:
    """The smallest distance between two of the points."""
    between = np.linalg.norm(points[:, None] - points[None], axis=2)
    return float(between[~np.eye(len(points), dtype=bool)].min())


def test_a_latin_hypercube_has_a_point_in_every_slice() -> None:
    points = latin_hypercube(50, 3, np.random.default_rng(1))
    for dimension in points.T:
        assert sorted((dimension * 50).astype(int)) == list(range(50))


def test_wsp_keeps_no_two_points_nearer_than_the_distance() -> None:
    candidates = latin_hypercube(500, 4, np.random.default_rng(2))
    kept = wsp(candidates, 0.4)
    assert 10 < len(kept) < 200
    assert nearest(candidates[kept]) >= 0.4
    # And none could be added: each candidate is near one that was kept.
    away = np.linalg.norm(candidates[:, None] - candidates[kept][None], axis=2).min(axis=1)
    assert (away < 0.4).all()


def test_spread_points_lie_farther_apart_than_random_ones() -> None:
    chosen = spread(40, 4, 1, lambda _: True)
    assert chosen.shape == (40, 4)
    draw = np.random.default_rng(3)
    assert nearest(chosen) > 1.3 * max(nearest(draw.random((40, 4))) for _ in range(20))


def test_spread_takes_only_allowed_points_and_says_when_they_are_too_few() -> None:
    chosen = spread(30, 2, 1, lambda point: bool(point.sum() <= 1))
    assert (chosen.sum(axis=1) <= 1).all()
    with pytest.raises(ValueError, match="allowed"):
        spread(30, 2, 1, lambda point: bool(point[0] > 0.99))


def test_a_seed_gives_its_design() -> None:
    assert (spread(20, 3, 1, lambda _: True) == spread(20, 3, 1, lambda _: True)).all()
    assert (spread(20, 3, 1, lambda _: True) != spread(20, 3, 2, lambda _: True)).any()


@pytest.mark.parametrize("name", SETS)
def test_scenarios_stay_in_the_ranges_of_their_set(name: str) -> None:
    ranges = SETS[name].ranges
    for scenario in scenarios(name):
        shapes = [each.down for each in scenario.lines if each.down is not None]
        assert len(shapes) == len(scenario.lines) >= 2
        rates = [shape.rate_bps / 1e6 for shape in shapes if shape.rate_bps is not None]
        assert sum(rates) <= SUM_MAX_MBIT
        for shape, rate in zip(shapes, rates, strict=True):
            assert ranges.rate_mbit[0] <= rate <= ranges.rate_mbit[1]
            assert ranges.round_trip_s[0] <= 2 * shape.delay_s <= ranges.round_trip_s[1] + 1e-9
            assert ranges.loss[0] <= shape.loss <= ranges.loss[1]


@pytest.mark.parametrize("name", ["low", "low-loss", "high", "high-loss"])
def test_the_large_sets_have_forty_scenarios_and_reach_all_corners(name: str) -> None:
    ranges = SETS[name].ranges
    of_two = [scenario for scenario in scenarios(name) if len(scenario.lines) == 2]
    assert len(of_two) >= 40
    rates = [each.down.rate_bps / 1e6 for scenario in of_two for each in scenario.lines if each.down]
    assert min(rates) < 10
    assert max(rates) > 90
    delays = [2 * each.down.delay_s for scenario in of_two for each in scenario.lines if each.down]
    assert max(delays) > 0.9 * ranges.round_trip_s[1]
    assert {len(scenario.lines) for scenario in scenarios(name)} == {2, 3, 4}


def test_names_are_unique_and_a_set_is_the_same_each_time() -> None:
    everything = [scenario for name in SETS for scenario in scenarios(name)]
    assert len({scenario.name for scenario in everything}) == len(everything)
    assert scenarios("low-loss") == scenarios("low-loss")
    rates = [[each.down.rate_bps for each in s.lines if each.down] for s in scenarios("low")]
    assert rates != [[each.down.rate_bps for each in s.lines if each.down] for s in scenarios("low-loss")]


def test_an_unknown_set_names_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"middle.*low, low-loss"):
        scenarios("middle")


def test_changing_sets_have_something_that_changes() -> None:
    assert all(scenario.steps for name in ("steps-30", "steps-50", "outages") for scenario in scenarios(name))
    assert all(each.down and each.down.jitter_s for s in scenarios("jitter") for each in s.lines)
    assert all(s.lines[0].down and s.lines[0].down.policer_bps for s in scenarios("policer"))
    assert any(step.cut for scenario in scenarios("handover") for step in scenario.steps)


def test_figures_of_a_flow() -> None:
    found = figures(60e6, [50e6, 30e6], [40e6, 10e6])
    assert found["share"] == pytest.approx(0.75)
    assert found["of_best"] == pytest.approx(1.2)
    assert found["benefit"] == pytest.approx(1 / 3)
    assert found["plain_share"] == pytest.approx(1.2)
    assert found["plain_benefit"] == pytest.approx(2.0)


def test_lines_that_gave_plain_tcp_nothing_are_no_yardstick() -> None:
    found = figures(60e6, [50e6, 30e6], [0.0, 0.0])
    assert found["plain_share"] is None
    assert found["plain_benefit"] is None


def test_the_start_ends_when_half_a_second_brought_ninety_percent() -> None:
    # 1 kB every 10 ms for a second, then 2 kB.
    arrivals = [(10 + i * 0.01, 1000 if i < 100 else 2000) for i in range(300)]
    # 90 % of 2 kB in 10 ms: 90 kB in half a second, so 40 of the larger ones are needed.
    assert start_s(arrivals, 10.0, 200_000 * 8) == pytest.approx(1.4, abs=0.021)
    assert start_s(arrivals, 10.0, 400_000 * 8) is None


def record_of(name: str, commit: str = "abc", **more: Any) -> dict[str, Any]:
    return {
        "scenario": name,
        "set": "low",
        "commit": commit,
        "dirty": False,
        "date": at(0),
        "seconds": 8.0,
        "whole": True,
    } | more


def at(hour: int) -> str:
    """When a run began, as records have it."""
    return f"2026-11-28T{hour:02}:00:00+00:00"


def test_what_this_commit_measured_cleanly_is_done(tmp_path: Path) -> None:
    path = tmp_path / "results" / "matrix.jsonl"
    for record in (
        record_of("one"),
        record_of("other-commit", "def"),
        record_of("local-changes", dirty=True),
        record_of("failed", error="no echo"),
        record_of("short", seconds=3.0, whole=False),
    ):
        store.append(record, path)
    assert store.done("abc", None, path) == {"one"}
    assert store.done("abc", 3.0, path) == {"short"}
    assert store.done("xyz", None, path) == set()


def test_the_report_names_the_commits_at_which_it_was_measured() -> None:
    records = [record_of("one"), record_of("two", "def"), record_of("three")]
    assert store.measured_at(records) == {"commit": "abc, def", "dirty": False}
    assert store.measured_at([*records, record_of("four", dirty=True)])["dirty"]


def test_a_line_cut_short_is_left_out_and_what_follows_it_is_not(tmp_path: Path) -> None:
    path = tmp_path / "matrix.jsonl"
    path.write_text(json.dumps(record_of("one")) + "\n" + json.dumps(record_of("two"))[:20])
    store.append(record_of("three"), path)
    assert [record["scenario"] for record in store.records(path)] == ["one", "three"]


def kept(path: Path, *records: dict[str, Any]) -> Path:
    """A file with the records."""
    for record in records:
        store.append(record, path)
    return path


def commits_of(path: Path) -> tuple[dict[str, str], dict[str, str]]:
    """The commits of the latest and of the left out, by the scenario's name."""
    found, left_out = store.latest(path)
    return (
        {name: record["commit"] for name, record in found.items()},
        {record["scenario"]: record["commit"] for record in left_out},
    )


def test_the_newest_record_of_a_scenario_counts(tmp_path: Path) -> None:
    path = tmp_path / "matrix.jsonl"
    assert store.latest(path) == ({}, [])
    kept(path, record_of("one", seconds=3.0), record_of("one", seconds=8.0))  # of one run: the later line
    assert store.latest(path)[0]["one"]["seconds"] == 8.0
    kept(path, record_of("two", date=at(2), seconds=8.0), record_of("two", date=at(1), seconds=3.0))
    assert store.latest(path)[0]["two"]["seconds"] == 8.0


def test_a_set_is_of_the_commit_of_its_newest_record(tmp_path: Path) -> None:
    path = kept(
        tmp_path / "matrix.jsonl",
        record_of("low-2-00", "new", date=at(2)),
        record_of("low-2-00", "old", date=at(1)),
        record_of("low-3-00", "older", date=at(0)),
        record_of("low-3-00", "old", date=at(1)),
        record_of("high-2-00", "old", date=at(1), set="high"),
    )
    assert commits_of(path) == ({"low-2-00": "new", "high-2-00": "old"}, {"low-3-00": "old"})


def test_what_was_measured_at_the_sets_commit_before_another_was_tried_counts(tmp_path: Path) -> None:
    path = kept(
        tmp_path / "matrix.jsonl",
        record_of("one", "this", date=at(0)),
        record_of("one", "tried", date=at(1)),
        record_of("two", "this", date=at(2)),
    )
    assert commits_of(path) == ({"one": "this", "two": "this"}, {})


def test_a_scenario_that_failed_at_the_newest_commit_counts(tmp_path: Path) -> None:
    path = kept(
        tmp_path / "matrix.jsonl",
        record_of("one", "old"),
        record_of("one", "new", date=at(1), error="no echo"),
    )
    found, left_out = store.latest(path)
    assert report.outcome(found, left_out).failed == ["one: no echo"]
    assert left_out == []


def test_the_program_says_of_which_commits_the_report_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = kept(
        tmp_path / "matrix.jsonl",
        measured("low-2-00", 0.98) | {"commit": "c97030516d96", "date": at(1)},
        measured("low-3-00", 0.98) | {"commit": "8373821e1774", "dirty": True},
    )
    latest = store.latest(path)
    monkeypatch.setattr(store, "latest", lambda: latest)
    monkeypatch.setattr(sys, "argv", ["bench.matrix", "--report", "--no-record"])
    assert program.main() == 0
    printed = capsys.readouterr().out
    assert "of low at 8373821" in printed
    assert ", commit c97030516d96; " in printed


def measured(
    name: str, share: float, of: str = "low", plain: tuple[float, float] = (50e6, 50e6)
) -> dict[str, Any]:
    alone = [50e6, 50e6]
    result = figures(share * sum(alone), alone, alone) | {
        "goodput": share * sum(alone),
        "start_s": 1.0,
        "probe_p99_s": 0.030,
        "cpu_s": {"client": 2.0, "server": 2.0},
    }
    bond = {"cubic": result, "bbr": result}
    return record_of(name, set=of, lines="a + b", round_trip_s=0.02, plain=list(plain), bond=bond)


def test_a_set_is_held_to_its_bounds() -> None:
    good = {f"low-{i}": measured(f"low-{i}", 0.98) for i in range(40)}
    assert report.outcome(good).failed == []
    harmed = good | {"low-0": measured("low-0", 0.45)}  # below the best line: one is too many
    failed = report.outcome(harmed).failed
    assert any("low, cubic: scenarios with G ≥ 0.97 × best line" in line for line in failed)
    assert not any("Σ" in line for line in failed)
    weak = good | {f"low-{i}": measured(f"low-{i}", 0.94) for i in range(7)}  # 82.5 % are above 0.95
    assert any("G ≥ 0.95 Σ" in line for line in report.outcome(weak).failed)


def test_sets_without_bounds_fail_nothing_but_what_was_not_measured() -> None:
    found = {"steps-30-2-00": measured("steps-30-2-00", 0.1, "steps-30")}
    assert report.outcome(found).failed == []
    found["thin-2-00"] = record_of("thin-2-00", set="thin", error="no echo")
    assert report.outcome(found).failed == ["thin-2-00: no echo"]


def test_the_report_shows_each_set_and_flow_and_draws_the_benefit() -> None:
    outcome = report.outcome({"low-0": measured("low-0", 0.98), "high-0": measured("high-0", 0.9, "high")})
    assert outcome.table is not None
    assert [row.split("|")[1:3] for row in outcome.table.splitlines()[2:]] == [
        [" low ", " cubic "],
        [" low ", " bbr "],
        [" high ", " cubic "],
        [" high ", " bbr "],
    ]
    assert outcome.drawing is not None
    assert "high, bbr" in outcome.drawing
    assert outcome.notes[0].startswith("among the worst: high-0")


def test_the_report_names_the_commit_of_each_set_and_counts_what_it_leaves_out() -> None:
    found = {
        "low-0": measured("low-0", 0.98) | {"commit": "c97030516d96"},
        "high-0": measured("high-0", 0.98, "high") | {"commit": "8373821e1774"},
    }
    left_out = [record_of(f"low-{i}", "8373821e1774") for i in range(1, 4)]
    left_out.append(record_of("low-4", "3ea8fd8e98b5"))
    outcome = report.outcome(found, left_out)
    assert outcome.table is not None
    rows = [row.split("|") for row in outcome.table.splitlines()]
    assert {len(row) for row in rows} == {len(rows[0])}
    assert [row[3:5] for row in rows[2:]] == [[" 1 ", " c970305 "]] * 2 + [[" 1 ", " 8373821 "]] * 2
    assert outcome.notes[0] == (
        "scenarios left out, last measured at other commits: 3 of low at 8373821, 1 of low at 3ea8fd8"
    )
    assert all(note.startswith("among the worst") for note in report.outcome(found).notes)


def test_the_report_compares_with_plain_tcp_on_the_best_line() -> None:
    found = {
        "low-0": measured("low-0", 0.4, plain=(41e6, 9e6)),
        "low-1": measured("low-1", 0.4, plain=(39e6, 9e6)),
        "low-2": measured("low-2", 0.4, plain=(0.0, 0.0)),  # no yardstick
    }
    table = report.outcome(found).table
    assert table is not None
    assert table.splitlines()[2].split("|")[10] == " 50% 100% "
    assert report.outcome({"low-2": found["low-2"]}).table is not None
