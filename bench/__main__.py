"""Run benches, hold their figures to their bounds and write them down. Needs root and two idle cores.

    python -m bench [NAME ...] [--full] [--runs N] [--memory-seconds S] [--no-record] [--list]

Without names: the quick ones, by 3 runs each; with --full all of them, by 5. Exit status 1, and a line for
each on standard error, when a figure is out of its bound.
"""

import argparse
import os
import shlex
import sys
import time

from bench import (
    bonding,
    cuts,
    emulator,
    eql,
    eqlvm,
    failover,
    gigabit,
    growth,
    idle,
    latency,
    memory,
    moving,
    packets,
    pieces,
    rekey,
    repair,
    sharing,
    steps,
    sums,
    threelines,
    uplinks,
    workers,
)
from bench.record import Bench, Outcome, circumstances, markdown, write
from bondvpn.errors import BondvpnError

QUICK_RUNS, FULL_RUNS = 3, 5
MEMORY_S = 600.0
MEMORY_MIN_S = 30.0  # its ten snapshots alone take longer than less


def benches(memory_s: float) -> dict[str, Bench]:
    """All of them by name, in the order they run; `memory_s`: how long the memory bench takes."""
    listed = (
        *bonding.BENCHES,
        *(module.BENCH for module in (sums, moving, sharing, cuts, repair, eql, eqlvm, uplinks)),
        *gigabit.BENCHES,
        threelines.BENCH,
        packets.BENCH,
        latency.BENCH,
        steps.BENCH,
        growth.BENCH,
        workers.BENCH,
        pieces.BENCH,
        memory.bench(memory_s),
        failover.BENCH,
        rekey.BENCH,
        idle.BENCH,
        emulator.BENCH,
    )
    return {bench.name: bench for bench in listed}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="see --list")
    parser.add_argument("--full", action="store_true", help="all benches, 5 runs each")
    parser.add_argument("--runs", type=int, help="of which the median counts")
    parser.add_argument(
        "--memory-seconds", type=float, default=MEMORY_S, help="length of the memory bench (default: 600)"
    )
    parser.add_argument(
        "--no-record", action="store_true", help="print only; leave results and docs as they are"
    )
    parser.add_argument("--list", action="store_true", help="name the benches and end")
    arguments = parser.parse_args()
    by_name = benches(arguments.memory_seconds)
    if arguments.list:
        for bench in by_name.values():
            print(f"{bench.name:16} {'quick' if bench.quick else 'full'}   {bench.title}")
        return 0
    if unknown := [name for name in arguments.names if name not in by_name]:
        parser.error(f"no bench {', '.join(unknown)} (there are: {', '.join(by_name)})")
    runs = arguments.runs if arguments.runs is not None else FULL_RUNS if arguments.full else QUICK_RUNS
    if runs < 1:
        parser.error("--runs: 1 or more")
    if arguments.memory_seconds < MEMORY_MIN_S:
        parser.error(f"--memory-seconds: {MEMORY_MIN_S:g} or more")
    if os.geteuid() != 0:
        parser.error("needs root, for network namespaces")
    failed = []
    for bench in by_name.values():
        if bench.name in arguments.names or (not arguments.names and (bench.quick or arguments.full)):
            failed += _run(bench, runs, record=not arguments.no_record)
    for line in failed:
        print(f"FAILED {line}", file=sys.stderr)
    return 1 if failed else 0


def _run(bench: Bench, runs: int, *, record: bool) -> list[str]:
    """The lines of what failed."""
    started = time.monotonic()
    command = ["python", "-m", "bench", bench.name, "--runs", str(runs), *bench.options]
    facts = circumstances(shlex.join(command), runs)
    try:
        outcome = bench.measure(runs)
    except BondvpnError as error:
        # The figures of the others are still wanted, and this one must not keep those of an older run.
        outcome = Outcome(failures=[f"nothing was measured: {error}"])
    if record:
        write(bench, outcome, facts)
    print(
        f"## {bench.title}\n\n{markdown(outcome, facts)}\n\n({time.monotonic() - started:.0f} s)\n",
        flush=True,
    )
    return [f"{bench.name}: {line}" for line in outcome.failed]


if __name__ == "__main__":
    sys.exit(main())
