"""What is recorded: figures against bounds, JSON, the document's sections and plots."""

import json
from pathlib import Path
from typing import Any

import pytest

from bench import record
from bench.record import Bench, Figure, Outcome, write

FACTS = {
    "command": "python -m bench x",
    "runs": 3,
    "date": "2026-01-01",
    "commit": "abc",
    "dirty": False,
    "kernel": "6.18",
    "cpu": "a CPU",
    "cores": 2,
    "load_before": 0.1,
    "python": "3.11",
    "cryptography": "50",
}


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(record, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(record, "PLOTS", tmp_path / "plots")
    monkeypatch.setattr(record, "DOCUMENT", tmp_path / "benchmarks.md")
    return tmp_path


def bench_of(outcome: Outcome, **more: Any) -> Bench:
    return Bench("x", "A title", "How.", lambda _runs: outcome, **more)


def outcome_of(*values: float, unit: str = "bit/s", **bounds: float) -> Outcome:
    outcome = Outcome()
    figure = outcome.figure("bondvpn, up", unit, **bounds)
    for value in values:
        figure.add(value, {"client": 2.0, "server": 1.0}, 0.5)
    return outcome


def test_a_figure_between_two_bounds_names_both() -> None:
    assert outcome_of(4e9, at_least=3e9, at_most=5e9).failed == []
    failed = outcome_of(6e9, at_least=3e9, at_most=5e9).failed
    assert failed == ["bondvpn, up: 6000.0 Mbit/s, must be ≥ 3000.0 Mbit/s, ≤ 5000.0 Mbit/s"]


def test_the_median_counts_and_is_held_to_its_bounds() -> None:
    assert outcome_of(3e9, 9e9, 1e9, at_least=3e9).failed == []
    assert outcome_of(1e9, 9e9, 2.9e9, at_least=3e9).failed == [
        "bondvpn, up: 2900.0 Mbit/s, must be ≥ 3000.0 Mbit/s"
    ]
    assert len(outcome_of(2e-4, unit="µs", at_most=1e-4).failed) == 1
    assert outcome_of(1e-4, unit="µs", at_most=1e-4).failed == []


def test_cost_per_gigabyte_is_of_each_process() -> None:
    assert outcome_of(1e9).figures[0].costs == [{"client": 4.0, "server": 2.0}]
    assert Figure("x", "s").costs == []


def test_what_is_written_has_every_run_and_the_circumstances(places: Path) -> None:
    outcome = outcome_of(1e9, 2e9)
    outcome.notes.append("a peer")
    write(bench_of(outcome), outcome, FACTS)
    written = json.loads((places / "results" / "x.json").read_text())
    assert written["figures"][0]["runs"] == [1e9, 2e9]
    assert written["figures"][0]["gigabytes"] == [0.5, 0.5]
    assert (written["commit"], written["kernel"], written["notes"]) == ("abc", "6.18", ["a peer"])
    document = (places / "benchmarks.md").read_text()
    row = next(line for line in document.splitlines() if line.startswith("| bondvpn, up"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[-2:] == ["client 2.00, server 1.00", "client 4.00, server 2.00"]
    assert len(document.splitlines()[7].split("|")) == len(row.split("|"))


def test_a_section_is_replaced_and_what_is_around_it_stays(places: Path) -> None:
    path = places / "benchmarks.md"
    path.write_text("# B\n\nbefore\n\n<!-- bench x: begin -->\nold\n<!-- bench x: end -->\n\nafter\n")
    write(bench_of(outcome_of(1e9)), outcome_of(1e9), FACTS)
    text = path.read_text()
    assert text.startswith("# B\n\nbefore\n\n<!-- bench x: begin -->\n## A title\n")
    assert text.endswith("<!-- bench x: end -->\n\nafter\n")
    assert "old" not in text
    assert "![" not in text


def test_a_plot_is_written_and_shown_where_there_is_one(places: Path) -> None:
    outcome = outcome_of(1e9, 2e9, 3e9, at_least=2.5e9)
    write(bench_of(outcome, plotted="bit/s"), outcome, FACTS)
    assert "![A title](plots/x.svg)" in (places / "benchmarks.md").read_text()
    assert "2000.0 Mbit/s" in (places / "plots" / "x.svg").read_text()


def test_a_failed_measurement_draws_no_plot_and_leaves_none_in_the_section(places: Path) -> None:
    good = outcome_of(1e9)
    write(bench_of(good, plotted="bit/s"), good, FACTS)
    failed = Outcome(failures=["nothing was measured: no iperf3"])
    write(bench_of(failed, plotted="bit/s"), failed, FACTS)
    text = (places / "benchmarks.md").read_text()
    assert "![" not in text
    assert "**Failed:** nothing was measured: no iperf3" in text
    assert not (places / "plots" / "x.svg").exists()


def test_a_bench_draws_its_own_plot(places: Path) -> None:
    outcome = outcome_of(1e9)
    outcome.drawing = "<svg/>"
    write(bench_of(outcome, plotted="bit/s"), outcome, FACTS)
    assert (places / "plots" / "x.svg").read_text() == "<svg/>"


def test_another_document_shows_the_table_where_it_has_the_markers(places: Path) -> None:
    other = places / "other.md"
    other.write_text("Before.\n<!-- bench x: begin -->\nold\n<!-- bench x: end -->\nAfter.\n")
    outcome = outcome_of(1e9)
    write(bench_of(outcome, shown_too="other.md"), outcome, FACTS)
    begun, rest = other.read_text().split("<!-- bench x: begin -->\n")
    table, ended = rest.split("\n<!-- bench x: end -->")
    assert (begun, ended) == ("Before.\n", "\nAfter.\n")
    assert "| bondvpn, up | **1000.0 Mbit/s** |" in table
    assert "How." not in table
    assert table in (places / "benchmarks.md").read_text()
