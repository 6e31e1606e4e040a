"""The hot path's pieces by themselves: pytest-benchmark's times as costs per datagram."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.record import ROOT, Bench, Figure, Outcome
from bondvpn.errors import SystemFault

HERE = Path(__file__).parent
TAIL_LINES = 30


def measure(runs: int) -> Outcome:
    outcome = Outcome()
    figures: dict[tuple[str, str, int], Figure] = {}
    for _ in range(runs):
        for piece, by, value, cost_s in _costs():
            key = piece, by, value
            if key not in figures:
                figures[key] = outcome.figure(f"{piece}, {by} {value}", "fine µs")
            figures[key].add(cost_s)
    outcome.table = table(figures)
    return outcome


def _costs() -> list[tuple[str, str, int, float]]:
    """One run of pytest: piece, what it grows with, how much of it, median seconds per datagram."""
    with tempfile.TemporaryDirectory(prefix="bondvpn-bench-pieces-") as place:
        report = Path(place, "report.json")
        words = ["-q", "-p", "no:cacheprovider", "--benchmark-enable", "--benchmark-disable-gc"]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", str(HERE), *words, f"--benchmark-json={report}"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            tail = "\n".join(done.stdout.splitlines()[-TAIL_LINES:])
            raise SystemFault(f"pytest ended with status {done.returncode}\n{tail}\n{done.stderr}")
        measured: list[dict[str, Any]] = json.loads(report.read_text())["benchmarks"]
    costs = []
    for each in measured:
        facts = each["extra_info"]
        ((by, value),) = facts["at"].items()
        costs.append((facts["piece"], by, value, each["stats"]["median"] / facts["datagrams"]))
    return costs


def table(figures: dict[tuple[str, str, int], Figure]) -> str:
    """A table for each thing that costs grow with; costs in µs per datagram."""
    parts = []
    for by in dict.fromkeys(by for _, by, _ in figures):
        values = sorted({value for _, its, value in figures if its == by})
        heads = [f"µs per datagram by {by}", *[str(value) for value in values], f"{values[-1]} / {values[0]}"]
        rows = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
        for piece in dict.fromkeys(piece for piece, its, _ in figures if its == by):
            costs = [figures[piece, by, value].median for value in values]
            cells = [piece, *[f"{cost * 1e6:.3f}" for cost in costs], f"{costs[-1] / costs[0]:.2f} ×"]
            rows.append(f"| {' | '.join(cells)} |")
        parts.append("\n".join(rows))
    return "\n\n".join(parts)


BENCH = Bench(
    "pieces",
    "The hot path's pieces by themselves",
    "pytest-benchmark (`bench/pieces/`), the median of its rounds divided by the datagrams of a round, "
    "each of 1,428 bytes of payload; no kernel network takes part. Links are those that take turns; depth "
    "is how many chunks wait behind a gap, bytes what one call seals.",
    measure,
    quick=False,
)
