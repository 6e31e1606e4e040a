"""The old setup itself, on a kernel that has eql, beside bondvpn made from its files by `import-eql`."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.contenders import OURS, ratios
from bench.record import ROOT, UNITS, Bench, Figure, Outcome

MACHINE = ROOT / "netns-tests" / "vm" / "machine.py"
TESTS = "netns-tests/vm/test_eql.py"
OLD = "eql"
TIMEOUT_S = 1200.0  # of a run; a busy host takes ten minutes


def measure(runs: int) -> Outcome:
    outcome = Outcome()
    # -rP: both ends' logs, lest a slow round leave nothing to explain it by.
    pytest = [sys.executable, "-m", "pytest", "-q", "-rP", "-p", "no:cacheprovider", TESTS]
    with tempfile.TemporaryDirectory() as directory:
        machine = [sys.executable, str(MACHINE), "--results", directory, "--timeout", f"{TIMEOUT_S * runs:g}"]
        command = [*machine, "--", "env", f"BONDVPN_EQL_ROUNDS={runs}", *pytest]
        status = subprocess.run(command, stdout=sys.stderr, check=False).returncode
        told = Path(directory, "eql.json")
        found = json.loads(told.read_text()) if told.exists() else {"machine": "none", "settings": []}
    if status != 0:
        outcome.failures.append(f"{TESTS} in the virtual machine ended with status {status}")
    outcome.notes.append(f"the virtual machine: {found['machine']}")
    rows = [row for setting in found["settings"] for row in _rows(outcome, **setting)]
    outcome.table = "\n".join([f"| lines, Mbit/s | then | {OLD} | {OURS} | ratio |", "|---" * 5 + "|", *rows])
    return outcome


def _rows(outcome: Outcome, speeds: list[float], found: dict[str, dict[str, list[float]]]) -> Iterator[str]:
    """The figures of lines of these speeds, and their rows of the table."""
    lines = " + ".join(f"{mbit:g}" for mbit in speeds)
    for event, rates in found.items():
        title = f"{lines} Mbit/s, {event}"
        old, ours = (outcome.figure(f"{title}: {name}", "bit/s") for name in (OLD, OURS))
        ratio = outcome.figure(f"{title}: {OURS} / {OLD}", "times", at_least=1.0)
        for figure, name in ((old, OLD), (ours, OURS)):
            for rate in rates[name]:
                figure.add(rate)
        ratios(ratio, ours, old)
        cells = [_cell(figure) for figure in (old, ours, ratio)]
        yield f"| {' | '.join([lines, event, *cells])} |"


def _cell(figure: Figure) -> str:
    """The median and, in brackets, each run."""
    unit = UNITS[figure.unit][3]
    runs = ", ".join(figure.text(run).removesuffix(unit) for run in figure.runs)
    return f"**{figure.text(figure.median)}** ({runs})"


BENCH = Bench(
    "eql-vm",
    "The old setup: eql over two OpenVPN tunnels",
    "The files of such a setup (OpenVPN by static key, AES-256-CBC, tun; ifupdown's `interfaces`, "
    "`rt_tables`, an `up` script that enslaves at the lines' speeds) at work on Debian's own kernel, and "
    "bondvpn made from those very files by `bondvpn import-eql /etc`, in turns over the same lines: 15 ms"
    " and 50 packets of queue in netem. One cubic flow, up; the mean of 6 s with both lines, of 8 s from "
    "when line 1 falls silent, and of 15 s from when the server's processes are killed, to be started "
    "again 1 s later. What comes down (ACKs) takes line 2's tunnel at the old setup, since a kernel has "
    "one eql only: it loses none with line 1. In the virtual machine of `make test-vm`, whose clock "
    "counts its instructions, whatever the host does meanwhile.",
    measure,
    quick=False,
    shown_too="migrating-from-eql.md",
)
