"""What a bench found, held to its bounds and written down: bench/results/NAME.json and docs/benchmarks.md.

No figure in docs/benchmarks.md is typed by hand: each bench replaces what stands between its two markers.
"""

import json
import os
import platform
import re
import statistics
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results"
DOCUMENT = ROOT / "docs" / "benchmarks.md"
# What a figure depends on; a result file that has just been written does not make the tree dirty.
MEASURED = ("bondvpn", "bench/*.py", "constraints.txt", "pyproject.toml")

# Units by key: the one recorded in, and how it is shown: factor, format, unit.
UNITS: dict[str, tuple[str, float, str, str]] = {
    "share": ("1", 100, ".1f", " %"),
    "fine share": ("1", 100, ".2f", " %"),
    "times": ("1", 1, ".2f", " ×"),
    "count": ("1", 1, ".0f", ""),
    "bit/s": ("bit/s", 1e-6, ".1f", " Mbit/s"),
    "s": ("s", 1, ".2f", " s"),
    "ms": ("s", 1e3, ".2f", " ms"),
    "s/GB": ("s/GB", 1, ".2f", " s/GB"),
    "bytes": ("B", 1e-6, ".0f", " MB"),
}


@dataclass(slots=True)
class Figure:
    """One figure: a value per run, of which the median counts, and the bound it is held to."""

    name: str
    unit: str
    """A key of UNITS."""
    at_least: float | None = None
    at_most: float | None = None
    runs: list[float] = field(default_factory=list)
    cpu_s: list[dict[str, float]] = field(default_factory=list)
    """Per run, CPU seconds by process while it was measured; empty where another row has them."""

    def add(self, value: float, cpu_s: dict[str, float] | None = None) -> None:
        self.runs.append(value)
        if cpu_s is not None:
            self.cpu_s.append(cpu_s)

    @property
    def median(self) -> float:
        return statistics.median(self.runs)

    @property
    def holds(self) -> bool:
        return (self.at_least is None or self.median >= self.at_least) and (
            self.at_most is None or self.median <= self.at_most
        )

    @property
    def bound(self) -> str:
        if self.at_least is not None:
            return f"≥ {self.text(self.at_least)}"
        return f"≤ {self.text(self.at_most)}" if self.at_most is not None else ""

    def text(self, value: float) -> str:
        _, factor, form, unit = UNITS[self.unit]
        return f"{value * factor:{form}}{unit}"

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "unit": UNITS[self.unit][0],
            "median": self.median,
            "runs": self.runs,
            "at_least": self.at_least,
            "at_most": self.at_most,
            "holds": self.holds,
            "cpu_s": self.cpu_s,
        }


@dataclass(slots=True)
class Outcome:
    """What one bench found."""

    figures: list[Figure] = field(default_factory=list)
    table: str | None = None
    """A Markdown table of the bench's own, shown instead of the figures'."""
    notes: list[str] = field(default_factory=list)
    """Facts for the record: versions, command lines of peers, peers that were absent."""
    failures: list[str] = field(default_factory=list)
    """What failed besides figures out of their bounds."""

    def figure(
        self, name: str, unit: str, *, at_least: float | None = None, at_most: float | None = None
    ) -> Figure:
        """A new figure of this outcome, without runs yet."""
        made = Figure(name, unit, at_least, at_most)
        self.figures.append(made)
        return made

    @property
    def failed(self) -> list[str]:
        """One line per figure out of its bound, and the other failures."""
        lines = [
            f"{figure.name}: {figure.text(figure.median)}, must be {figure.bound}"
            for figure in self.figures
            if not figure.holds
        ]
        return lines + self.failures


@dataclass(frozen=True, slots=True)
class Bench:
    """A bench: `measure(runs)` does it all, set-up and clean-up included."""

    name: str
    title: str
    method: str
    """How it measures, in prose for docs/benchmarks.md."""
    measure: Callable[[int], Outcome]


def circumstances(command: str, runs: int) -> dict[str, Any]:
    """Where, when and of what the figures were taken."""
    cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    return {
        "command": command,
        "runs": runs,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _git("rev-parse", "--short=12", "HEAD") or "unknown",
        "dirty": bool(_git("status", "--porcelain", "--", *MEASURED)),
        "kernel": platform.release(),
        "cpu": next((row.split(":")[1].strip() for row in cpuinfo if row.startswith("model name")), "?"),
        "cores": os.cpu_count(),
        "load_before": os.getloadavg()[0],
        "python": platform.python_version(),
        "cryptography": version("cryptography"),
    }


def write(bench: Bench, outcome: Outcome, facts: dict[str, Any]) -> None:
    """Record the outcome in both places."""
    RESULTS.mkdir(exist_ok=True)
    record = {
        "bench": bench.name,
        **facts,
        "failed": outcome.failed,
        "notes": outcome.notes,
        "figures": [figure.as_dict() for figure in outcome.figures],
    }
    if outcome.table is not None:
        record["table"] = outcome.table.splitlines()
    text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
    (RESULTS / f"{bench.name}.json").write_text(text)
    _replace_section(bench.name, f"## {bench.title}\n\n{bench.method}\n\n{markdown(outcome, facts)}")


def markdown(outcome: Outcome, facts: dict[str, Any]) -> str:
    """The table, then notes, failures and circumstances."""
    parts = [outcome.table.strip() if outcome.table is not None else _table(outcome.figures)]
    if outcome.notes:
        parts.append("\n".join(f"- {note}" for note in outcome.notes))
    if outcome.failed:
        parts.append("\n".join(f"- **Failed:** {line}" for line in outcome.failed))
    parts.append(
        f"*{facts['date']}, commit {facts['commit']}{' with local changes' if facts['dirty'] else ''}; "
        f"Linux {facts['kernel']}, {facts['cores']} × {facts['cpu']}, Python {facts['python']}, "
        f"cryptography {facts['cryptography']}; `{facts['command']}`*"
    )
    return "\n\n".join(parts)


def _table(figures: list[Figure]) -> str:
    rows = ["| figure | median | each run | must be | CPU seconds |", "|---|---|---|---|---|"]
    for figure in figures:
        runs = ", ".join(figure.text(run).removesuffix(UNITS[figure.unit][3]) for run in figure.runs)
        rows.append(
            f"| {figure.name} | **{figure.text(figure.median)}** | {runs} | {figure.bound} "
            f"| {_median_cpu(figure.cpu_s)} |"
        )
    return "\n".join(rows)


def _median_cpu(runs: list[dict[str, float]]) -> str:
    if not runs:
        return ""
    return ", ".join(f"{name} {statistics.median(run[name] for run in runs):.2f}" for name in runs[0])


def _replace_section(name: str, text: str) -> None:
    """Put `text` between the markers of `name`; a section not there yet goes to the end."""
    begin, end = f"<!-- bench {name}: begin -->", f"<!-- bench {name}: end -->"
    section = f"{begin}\n{text}\n{end}"
    document = DOCUMENT.read_text() if DOCUMENT.exists() else "# Benchmarks\n"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    if pattern.search(document):
        document = pattern.sub(lambda _: section, document)
    else:
        document = f"{document.rstrip()}\n\n{section}\n"
    DOCUMENT.write_text(document)


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()
