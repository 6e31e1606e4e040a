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

from bench import plot

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "bench" / "results"
DOCUMENT = ROOT / "docs" / "benchmarks.md"
PLOTS = ROOT / "docs" / "plots"
# What a figure depends on: it is of the last commit to these, whatever the docs said since. A result file
# that has just been written does not make the tree dirty.
MEASURED = ("bondvpn", "bench/*.py", "constraints.txt", "pyproject.toml")

# Units by key: the one recorded in, and how it is shown: factor, format, unit.
UNITS: dict[str, tuple[str, float, str, str]] = {
    "share": ("1", 100, ".1f", " %"),
    "fine share": ("1", 100, ".2f", " %"),
    "per million": ("1", 1e6, ".1f", " per million"),
    "times": ("1", 1, ".2f", " ×"),
    "count": ("1", 1, ".0f", ""),
    "bit/s": ("bit/s", 1e-6, ".1f", " Mbit/s"),
    "s": ("s", 1, ".2f", " s"),
    "ms": ("s", 1e3, ".2f", " ms"),
    "µs": ("s", 1e6, ".0f", " µs"),
    "fine µs": ("s", 1e6, ".3f", " µs"),
    "s/GB": ("s/GB", 1, ".2f", " s/GB"),
    "packet/s": ("1/s", 1, ",.0f", " packets/s"),
    "bytes": ("B", 1e-6, ".0f", " MB"),
    "few bytes": ("B", 1e-3, ".0f", " kB"),
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
    gigabytes: list[float] = field(default_factory=list)
    """Per run, what was carried in those CPU seconds; empty where nobody counted."""

    def add(
        self, value: float, cpu_s: dict[str, float] | None = None, gigabytes: float | None = None
    ) -> None:
        self.runs.append(value)
        if cpu_s is not None:
            self.cpu_s.append(cpu_s)
        if gigabytes is not None:
            self.gigabytes.append(gigabytes)

    @property
    def median(self) -> float:
        return statistics.median(self.runs)

    @property
    def costs(self) -> list[dict[str, float]]:
        """Per run, CPU seconds per GB by process; empty where nobody counted the gigabytes."""
        return [
            {name: used / carried for name, used in cpu_s.items()}
            for cpu_s, carried in zip(self.cpu_s, self.gigabytes, strict=False)
            if carried
        ]

    @property
    def holds(self) -> bool:
        return (self.at_least is None or self.median >= self.at_least) and (
            self.at_most is None or self.median <= self.at_most
        )

    @property
    def bound(self) -> str:
        ends = (("≥", self.at_least), ("≤", self.at_most))
        return ", ".join(f"{sign} {self.text(end)}" for sign, end in ends if end is not None)

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
            "gigabytes": self.gigabytes,
        }


@dataclass(slots=True)
class Outcome:
    """What one bench found."""

    figures: list[Figure] = field(default_factory=list)
    table: str | None = None
    """A Markdown table of the bench's own, shown instead of the figures'."""
    drawing: str | None = None
    """An SVG of the bench's own, in place of the bars of `Bench.plotted`."""
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
    plotted: str | None = None
    """Figures of this unit are drawn as bars."""
    quick: bool = True
    """Whether `make bench` runs it; `make bench-full` runs them all."""
    options: tuple[str, ...] = ()
    """Of the command line, needed to measure the same again."""
    shown_too: str | None = None
    """Another document in docs/ that has the table, between the same markers."""


def circumstances(command: str, runs: int) -> dict[str, Any]:
    """Where, when and of what the figures were taken."""
    cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    return {
        "command": command,
        "runs": runs,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _git("log", "-1", "--format=%h", "--abbrev=12", "--", *MEASURED) or "unknown",
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
    found = markdown(outcome, facts)
    parts = [f"## {bench.title}", bench.method, found]
    place = PLOTS / f"{bench.name}.svg"
    place.unlink(missing_ok=True)
    if (drawing := drawn(bench, outcome)) is not None:
        PLOTS.mkdir(exist_ok=True)
        place.write_text(drawing)
        parts.insert(2, f"![{bench.title}]({PLOTS.name}/{place.name})")
    _replace_section(DOCUMENT, bench.name, "\n\n".join(parts))
    if bench.shown_too is not None:
        _replace_section(DOCUMENT.with_name(bench.shown_too), bench.name, found)


def drawn(bench: Bench, outcome: Outcome) -> str | None:
    """The SVG that shows the outcome; None where there is nothing to draw."""
    if outcome.drawing is not None:
        return outcome.drawing
    figures = [figure for figure in outcome.figures if figure.unit == bench.plotted and figure.runs]
    if not figures:
        return None
    rows = [
        plot.Bar(
            figure.name,
            figure.median,
            min(figure.runs),
            max(figure.runs),
            figure.at_least if figure.at_least is not None else figure.at_most,
            figure.name.partition(",")[0],
        )
        for figure in figures
    ]
    return plot.bars(bench.title, rows, figures[0].text)


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
    heads = ["figure", "median", "each run", "must be", "CPU seconds"]
    if with_costs := any(figure.gigabytes for figure in figures):
        heads.append("the same per GB")
    rows = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for figure in figures:
        runs = ", ".join(figure.text(run).removesuffix(UNITS[figure.unit][3]) for run in figure.runs)
        cells = [
            figure.name,
            f"**{figure.text(figure.median)}**",
            runs,
            figure.bound,
            _by_process(figure.cpu_s),
        ]
        if with_costs:
            cells.append(_by_process(figure.costs))
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _by_process(runs: list[dict[str, float]]) -> str:
    """The medians of the runs by name."""
    if not runs:
        return ""
    return ", ".join(f"{name} {statistics.median(run[name] for run in runs):.2f}" for name in runs[0])


def _replace_section(place: Path, name: str, text: str) -> None:
    """Put `text` between the markers of `name` there; a section not there yet goes to the end."""
    begin, end = f"<!-- bench {name}: begin -->", f"<!-- bench {name}: end -->"
    section = f"{begin}\n{text}\n{end}"
    document = place.read_text() if place.exists() else "# Benchmarks\n"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    if pattern.search(document):
        document = pattern.sub(lambda _: section, document)
    else:
        document = f"{document.rstrip()}\n\n{section}\n"
    place.write_text(document)


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()
