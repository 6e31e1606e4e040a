"""Measure scenarios that were not measured of this program, then write what they say, each set at one commit.

    python -m bench.matrix [--set NAME ...] [--only SCENARIO ...] [--limit N] [--seconds S]
    python -m bench.matrix --list | --report

Exit status 1 when a bound is broken or a scenario failed. Needs root and two idle cores.
"""

import argparse
import os
import shlex
import sys
import time

from bench.matrix import report, store
from bench.matrix.measure import measure
from bench.matrix.scenarios import SETS, Scenario, scenarios
from bench.record import circumstances, markdown, write
from bondvpn.errors import BondvpnError


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.matrix", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--set", nargs="+", metavar="NAME", choices=SETS, help=f"of: {', '.join(SETS)}")
    parser.add_argument("--only", nargs="+", metavar="SCENARIO", help="these, measured before or not")
    parser.add_argument("--limit", type=int, help="measure so many, in turns from the sets, and stop")
    parser.add_argument("--seconds", type=float, help="of each flow (default: as the set has it)")
    parser.add_argument("--list", action="store_true", help="show the scenarios and end")
    parser.add_argument("--report", action="store_true", help="measure nothing, write the report anew")
    parser.add_argument("--no-record", action="store_true", help="print only")
    arguments = parser.parse_args()
    if arguments.seconds is not None and arguments.seconds < 2:
        parser.error("--seconds: 2 or more")
    wanted = _in_turns(arguments.set or list(SETS))
    if arguments.list:
        for name, scenario in wanted:
            print(f"{name:10} {scenario.name:16} {scenario.seconds:3.0f} s  {scenario.text}")
        return 0
    if arguments.only:
        names = {scenario.name for _, scenario in wanted}
        if unknown := [name for name in arguments.only if name not in names]:
            parser.error(f"no scenario {', '.join(unknown)} (see --list)")
    facts = circumstances(shlex.join(["python", "-m", "bench.matrix", *sys.argv[1:]]), 1)
    failed = []
    if not arguments.report:
        if os.geteuid() != 0:
            parser.error("needs root, for network namespaces")
        for name, scenario in _left(wanted, arguments, facts["commit"], facts["dirty"]):
            failed += _measure(name, scenario, arguments, facts)
    found, left_out = store.latest()
    outcome = report.outcome(found, left_out)
    facts |= store.measured_at(found.values())
    if not arguments.no_record:
        write(report.bench(outcome), outcome, facts)
    print(markdown(outcome, facts))
    for line in (*outcome.failed, *failed):
        print(f"FAILED {line}", file=sys.stderr)
    return 1 if outcome.failed or failed else 0


def _in_turns(names: list[str]) -> list[tuple[str, Scenario]]:
    """(set, scenario): one of each set, then the next of each."""
    rows = [[(name, scenario) for scenario in scenarios(name)] for name in names]
    longest = max(len(row) for row in rows)
    return [row[i] for i in range(longest) for row in rows if i < len(row)]


def _left(
    wanted: list[tuple[str, Scenario]], arguments: argparse.Namespace, commit: str, dirty: bool
) -> list[tuple[str, Scenario]]:
    if arguments.only:
        return [pair for pair in wanted if pair[1].name in arguments.only]
    # What was measured with local changes says nothing of these.
    done = set() if dirty else store.done(commit, arguments.seconds)
    return [pair for pair in wanted if pair[1].name not in done][: arguments.limit]


def _measure(
    name: str, scenario: Scenario, arguments: argparse.Namespace, facts: dict[str, object]
) -> list[str]:
    """Measure, print and keep it; what failed."""
    seconds = arguments.seconds or scenario.seconds
    began = time.monotonic()
    record: store.Record = {
        "scenario": scenario.name,
        "set": name,
        "lines": scenario.text,
        "round_trip_s": min(2 * each.down.delay_s for each in scenario.lines if each.down is not None),
        "seconds": seconds,
        "whole": seconds == scenario.seconds,
        **{key: facts[key] for key in ("commit", "dirty", "date", "kernel", "cpu")},
    }
    failed = []
    try:
        record |= measure(scenario, seconds, int(scenario.name[-2:]))
    except (BondvpnError, OSError) as error:
        record["error"] = str(error)
        failed.append(f"{scenario.name}: {error}")
    print(f"{scenario.name} ({time.monotonic() - began:.0f} s): {scenario.text}", file=sys.stderr)
    for congestion, result in record.get("bond", {}).items():
        p99 = result["probe_p99_s"]
        print(
            f"    {congestion}: G {result['goodput'] / 1e6:.2f} Mbit/s, {result['share']:.3f} Σ, "
            f"EAB {result['benefit']:.2f}, best line × {result['of_best']:.2f}, "
            f"plain sum × {result['plain_share'] or 0:.2f}, "
            f"p99 {p99 * 1e3 if p99 is not None else float('inf'):.0f} ms, "
            f"lost {result['probe_lost']}/{result['probe_sent']}, again {result['sent_again']}",
            file=sys.stderr,
        )
    if not arguments.no_record:
        store.append(record)
    return failed


if __name__ == "__main__":
    sys.exit(main())
