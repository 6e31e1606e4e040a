"""Run benches, hold their figures to their bounds and write them down. Needs root and two idle cores.

    python -m bench [NAME ...] [--runs 3] [--no-record]

Exit status 1, and a line for each on standard error, when a figure is out of its bound.
"""

import argparse
import os
import shlex
import sys
import time

from bench import bonding, emulator, failover, gigabit, idle, rekey
from bench.record import Bench, Outcome, circumstances, markdown, write
from bondvpn.errors import BondvpnError

BENCHES: tuple[Bench, ...] = (
    *bonding.BENCHES,
    gigabit.BENCH,
    failover.BENCH,
    rekey.BENCH,
    idle.BENCH,
    emulator.BENCH,
)


def main() -> int:
    by_name = {bench.name: bench for bench in BENCHES}
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"all, or of: {', '.join(by_name)}")
    parser.add_argument("--runs", type=int, default=3, help="of which the median counts")
    parser.add_argument(
        "--no-record", action="store_true", help="print only; leave results and docs as they are"
    )
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.names if name not in by_name]:
        parser.error(f"no bench {', '.join(unknown)} (there are: {', '.join(by_name)})")
    if arguments.runs < 1:
        parser.error("--runs: 1 or more")
    if os.geteuid() != 0:
        parser.error("needs root, for network namespaces")
    failed = []
    for name in arguments.names or by_name:
        failed += _run(by_name[name], arguments.runs, record=not arguments.no_record)
    for line in failed:
        print(f"FAILED {line}", file=sys.stderr)
    return 1 if failed else 0


def _run(bench: Bench, runs: int, *, record: bool) -> list[str]:
    """The lines of what failed."""
    started = time.monotonic()
    facts = circumstances(shlex.join(["python", "-m", "bench", bench.name, "--runs", str(runs)]), runs)
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
