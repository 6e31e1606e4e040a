"""The matrix (bench.matrix) on a virtual clock: one flow with each congestion control over each scenario.

python tests/sim/matrix.py --set low high-loss --results /tmp/matrix.jsonl
python tests/sim/matrix.py --only low-2-07 --cc bbr --trace /tmp/low-2-07.jsonl

For exploring: kernel TCP in namespaces (python -m bench.matrix) is the truth. Goodput leaves out the same
start as there. What `--results` has already is not simulated again, so a run cut short goes on.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1] / "support"), str(Path(__file__).parents[2])]

from scenario import Scenario as Simulated  # noqa: E402
from simresult import as_dict  # noqa: E402
from simulation import simulate  # noqa: E402
from virtualnet import World  # noqa: E402

from bench.matrix import scenarios  # noqa: E402
from bench.matrix.measure import OMIT_SHARE  # noqa: E402
from bench.matrix.scenarios import BEST_SHARE, SETS, Scenario  # noqa: E402
from bench.sigma import benefit  # noqa: E402
from bench.timeline import OUTAGE_BPS, Step, mean_worths  # noqa: E402
from bondvpn.lab import shape  # noqa: E402

WINDOW_BYTES = 16_000_000  # half of what bench.matrix.measure allows is payload
PROCESSES = 2


def simulated(scenario: Scenario, cc: str, trace: Path | None = None) -> dict[str, Any]:
    """What became of the scenario's flow: as in bench.matrix, and `Result`'s figures."""
    omit_s = scenario.seconds * OMIT_SHARE
    asked = Simulated(
        scenario.lines,
        cc=cc,
        seconds=scenario.seconds,
        skip_s=omit_s,
        scheduler="adaptive",
        speeds=False,
        window_bytes=WINDOW_BYTES,
        events=[(step.at_s, _event(scenario.lines, step)) for step in scenario.steps],
    )
    if trace is None:
        result = simulate(asked)
    else:
        with trace.open("w") as out:
            result = simulate(asked, out)
    worths = mean_worths(scenario.lines, scenario.steps, "down", omit_s, scenario.seconds)
    goodput = result.goodput_bps
    return {
        **as_dict(result),
        "share": goodput / sum(worths),
        "of_best": goodput / max(worths),
        "benefit": benefit(goodput, worths),
    }


def _event(lines: Sequence[shape.Line], step: Step) -> Any:
    number = [line.name for line in lines].index(step.line)

    def happen(world: World) -> None:
        line = world.lines[number]
        if step.cut is not None:
            line.up = not step.cut
        for to_server, plain in ((True, lines[number].up), (False, lines[number].down)):
            assert plain is not None
            changes: dict[str, float] = {}
            if step.rate is not None and plain.rate_bps is not None:
                changes["rate_bps"] = max(plain.rate_bps * step.rate, OUTAGE_BPS)
            if step.delay_s is not None:
                changes["delay_s"] = step.delay_s
            if changes:
                world.reshape(line, to_server=to_server, **changes)

    return happen


def _one(name: str, scenario: Scenario, cc: str, trace: Path | None) -> dict[str, Any]:
    began = time.perf_counter()
    facts = {"scenario": scenario.name, "set": name, "cc": cc, "lines": scenario.text}
    try:
        found = simulated(scenario, cc, trace)
    except AssertionError as error:  # the tunnel did not come up
        found = {"error": str(error)}
    return {**facts, **found, "took_s": round(time.perf_counter() - began, 1)}


def told(found: dict[str, Any]) -> str:
    """A row for people."""
    head = f"{found['scenario']:12} {found['cc']:5}"
    if "error" in found:
        return f"{head} {found['error']}"
    return (
        f"{head} G/Σ {found['share']:.3f}  G/best {found['of_best']:.3f}  EAB {found['benefit']:6.3f}  "
        f"used {' '.join(f'{one:.2f}' for one in found['used'])}  rtx {found['retransmitted']}  "
        f"rto {found['timeouts']}  over {' '.join(map(str, found['overflowed']))}  | {found['lines']}"
    )


def summary(found: Sequence[dict[str, Any]]) -> Iterator[str]:
    """How many of each set hold the set's bounds."""
    for name, each in SETS.items():
        bounds = each.bounds or scenarios.LOW
        for cc in ("cubic", "bbr"):
            rows = [row for row in found if row["set"] == name and row["cc"] == cc and "error" not in row]
            if not rows:
                continue
            share = sum(row["share"] >= bounds.sum_share for row in rows) / len(rows)
            benefit = sum(row["benefit"] > 0 for row in rows) / len(rows)
            best = sum(row["of_best"] >= BEST_SHARE for row in rows) / len(rows)
            mean = sum(row["share"] for row in rows) / len(rows)
            yield (
                f"{name:10} {cc:5} {len(rows):3} scenarios: G >= {bounds.sum_share:g} Σ {share:4.0%}, "
                f"EAB > 0 {benefit:4.0%}, G >= {BEST_SHARE:g} × best {best:4.0%}, mean G/Σ {mean:.3f}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--set", nargs="+", choices=SETS, default=list(SETS), metavar="NAME")
    parser.add_argument("--only", nargs="+", metavar="SCENARIO")
    parser.add_argument("--cc", nargs="+", choices=("cubic", "bbr"), default=["cubic", "bbr"])
    parser.add_argument("--limit", type=int, help="simulate so many and stop")
    parser.add_argument("--within", type=float, default=150.0, help="seconds: begin none later")
    parser.add_argument("--results", type=Path, help="JSON lines: read, and added to")
    parser.add_argument("--worst", type=int, default=0, help="show so many of the worst of each set")
    parser.add_argument("--trace", type=Path, help="JSON lines, one each 50 ms; with --only ONE --cc ONE")
    options = parser.parse_args()
    wanted = [
        (name, scenario, cc)
        for name in options.set
        for scenario in scenarios.scenarios(name)
        for cc in options.cc
        if not options.only or scenario.name in options.only
    ]
    if options.trace is not None:
        if len(wanted) != 1:
            parser.error("--trace: one scenario and one --cc")
        print(told(_one(*wanted[0], options.trace)))
        return
    found: list[dict[str, Any]] = []
    if options.results is not None and options.results.exists():
        found = [json.loads(row) for row in options.results.read_text().splitlines()]
    done = {(row["scenario"], row["cc"]) for row in found}
    left = [each for each in wanted if (each[1].name, each[2]) not in done][: options.limit]
    for row in _simulate(left, options.within):
        print(told(row), flush=True)
        found.append(row)
        if options.results is not None:
            with options.results.open("a") as out:
                out.write(json.dumps(row) + "\n")
    chosen = {(scenario.name, cc) for _, scenario, cc in wanted}
    found = [row for row in found if (row["scenario"], row["cc"]) in chosen]
    for name in options.set if options.worst else ():
        rows = sorted((row for row in found if row["set"] == name), key=lambda row: row.get("share", 0.0))
        print(*map(told, rows[: options.worst]), sep="\n")
    print(*summary(found), f"{len(chosen) - len(found)} left", sep="\n")


def _simulate(left: Sequence[tuple[str, Scenario, str]], within_s: float) -> Iterator[dict[str, Any]]:
    """Their rows as they are done; the steps of a scenario's plan are no matter for pickle."""
    ends = time.monotonic() + within_s
    with ProcessPoolExecutor(PROCESSES) as pool:
        waiting = list(left)[::-1]
        running: list[Any] = []
        while waiting or running:
            while waiting and len(running) < PROCESSES and time.monotonic() < ends:
                running.append(pool.submit(_one, *waiting.pop(), None))
            if not running:
                return
            finished = [task for task in running if task.done()]
            if not finished:
                time.sleep(0.02)
            for task in finished:
                running.remove(task)
                yield task.result()


if __name__ == "__main__":
    main()
