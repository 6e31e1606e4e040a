"""One scenario, from the command line: see --help.

python tests/sim/explore.py 8:10 4:40:0.5:8 --cc cubic bbr --seconds 30 --seed 1
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1] / "support"), str(Path(__file__).parents[2])]

from scenario import Scenario, variations  # noqa: E402
from simresult import Result, as_dict  # noqa: E402
from simulation import simulate, simulate_plain  # noqa: E402
from virtualnet import World  # noqa: E402

from bondvpn.lab import shape  # noqa: E402
from bondvpn.lab.shape import Shape  # noqa: E402

LINE = """DOWN[/UP]:DELAY[:LOSS[:JITTER[:QUEUE[:BURST]]]]: Mbit/s, ms one way, %%, ms, ms (or bytes: 9000b),
mean length of a run of losses. UP is DOWN if left out. Example: 16/1:15 or 30/10:40:0.5:8"""
EVENT = "TIME:LINE:WHAT, WHAT one of cut, restore, rate=MBIT, up=MBIT, delay=MS, loss=PERCENT, jitter=MS"


VARY = """LINE:rate:PERCENT:PERIOD: every PERIOD s another rate within ± PERCENT, both directions;
LINE:gap:MS:PERIOD: about every PERIOD s nothing leaves the line for MS and then all of it (LTE);
LINE:delay:MS:PERIOD: every PERIOD s another delay, up to MS more (satellite)"""


def line_of(text: str, number: int, seed: int) -> shape.Line:
    """A line as LINE describes it."""
    fields = [*text.split(":"), "", "", "", "", ""][:6]
    rates = [float(rate) * 1e6 for rate in fields[0].split("/")]
    both: dict[str, Any] = {"delay_s": float(fields[1] or 0) / 1e3, "loss": float(fields[2] or 0) / 100}
    both["jitter_s"] = float(fields[3] or 0) / 1e3
    if fields[4].endswith("b"):
        both["queue_bytes"] = int(fields[4][:-1])
    elif fields[4]:
        both["queue_s"] = float(fields[4]) / 1e3
    if fields[5]:
        both["loss_burst"] = float(fields[5])
    base = 1000 * seed + 2 * number
    return shape.Line(
        f"line{number}",
        up=Shape(rate_bps=rates[-1], seed=base, **both),
        down=Shape(rate_bps=rates[0], seed=base + 1, **both),
    )


def event_of(text: str) -> tuple[float, Callable[[World], None]]:
    """An event as EVENT describes it."""
    at, number, what = text.split(":")
    name, _, value = what.partition("=")

    def happen(world: World) -> None:
        line = world.lines[int(number)]
        if name in {"cut", "restore"}:
            line.up = name == "restore"
        elif name in {"rate", "up"}:
            world.reshape(line, to_server=name == "up", rate_bps=float(value) * 1e6)
        else:
            changes = {
                "delay": {"delay_s": float(value) / 1e3},
                "loss": {"loss": float(value) / 100},
                "jitter": {"jitter_s": float(value) / 1e3},
            }[name]
            for to_server in (True, False):
                world.reshape(line, to_server=to_server, **changes)

    return float(at), happen


def cross_of(text: str | None) -> tuple[int, str] | None:
    if text is None:
        return None
    number, _, cc = text.partition(":")
    return int(number), cc or "cubic"


def variation_of(text: str, lines: list[shape.Line], seconds: float, seed: int) -> list[Any]:
    """Events as VARY describes them."""
    number, kind, amount, period = text.split(":")
    return variations(
        int(number),
        lines[int(number)],
        kind,
        amount=float(amount) / (100 if kind == "rate" else 1e3),
        period_s=float(period),
        seconds=seconds,
        seed=seed,
    )


def table(result: Result) -> str:
    """For people."""

    def ms(values: list[float]) -> str:
        return " ".join(f"{value * 1e3:.0f}" for value in values)

    rows = [
        f"goodput {result.goodput_bps / 1e6:.2f} Mbit/s, {result.share:.3f} of the sum, EAB {result.eab:.3f}",
        f"90 % after {result.to_90_s if result.to_90_s is None else round(result.to_90_s, 2)} s, "
        f"first second {result.first_second_share:.2f}, longest silence {result.silence_s * 1e3:.0f} ms",
        f"retransmitted {result.retransmitted}, recoveries {result.recoveries} ({result.undone} undone), "
        f"timeouts {result.timeouts}, dropped by the TAP's queue {result.tap_drops}",
        f"lines: carried {' '.join(f'{one:.3f}' for one in result.carried)}, "
        f"used {' '.join(f'{one:.3f}' for one in result.used)}, "
        f"queue p99 {ms(result.queue_p99_s)} ms, lost {result.lost}, overflowed {result.overflowed}",
        f"reorder hold p50 {result.hold_p50_s * 1e3:.1f} ms, p99 {result.hold_p99_s * 1e3:.1f} ms",
    ]
    if result.probe_p50_s is not None:
        rows.append(
            f"probe RTT p50 {result.probe_p50_s * 1e3:.1f} ms, p99 {result.probe_p99_s * 1e3:.1f} ms, "
            f"lost {result.probe_lost}, longest silence {result.probe_silence_s * 1e3:.0f} ms"
        )
    if len(result.flows_bps) > 1:
        each = " ".join(f"{rate / 1e6:.2f}" for rate in result.flows_bps)
        rows.append(f"flows {each} Mbit/s, Jain {result.jain:.3f}")
    if result.cross_bps:
        rows.append(f"the other host got {result.cross_bps / 1e6:.2f} Mbit/s")
    if result.drops:
        rows.append(f"drops {result.drops}")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("lines", nargs="+", metavar="LINE", help=LINE)
    parser.add_argument("--cc", nargs="+", default=["cubic"], help="cubic, reno, bbr; cubic+bbr: two flows")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--skip", type=float, default=3.0, help="seconds at the start that do not count")
    parser.add_argument("--seed", nargs="+", type=int, default=[1])
    parser.add_argument("--up", action="store_true", help="upload")
    parser.add_argument("--flows", type=int, default=1)
    parser.add_argument("--stagger", type=float, default=0.0, help="seconds between the flows' starts")
    parser.add_argument("--cross", metavar="LINE[:CC]", help="another host downloads over that line")
    parser.add_argument("--scheduler", default="weighted")
    parser.add_argument("--learn", action="store_true", help="no speeds configured")
    parser.add_argument("--probe", type=float, default=50.0, metavar="HZ")
    parser.add_argument("--dscp", type=int, default=0, help="of the probe; 46 is EF")
    parser.add_argument("--at", nargs="+", default=[], metavar="EVENT", help=EVENT)
    parser.add_argument("--vary", nargs="+", default=[], metavar="VARY", help=VARY)
    parser.add_argument("--plain", action="store_true", help="plain TCP over each line alone")
    parser.add_argument("--kernel", action="store_true", help="kernel TCP in namespaces instead (as root)")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--trace", type=Path, help="JSON lines, one each 50 ms")
    options = parser.parse_args()
    for cc in options.cc:
        for seed in options.seed:
            run(options, cc, seed)


def run(options: argparse.Namespace, cc: str, seed: int) -> None:
    lines = [line_of(text, i, seed) for i, text in enumerate(options.lines)]
    scenario = Scenario(
        lines,
        cc=cc,
        seconds=options.seconds,
        skip_s=options.skip,
        seed=seed,
        upload=options.up,
        flows=options.flows,
        scheduler=options.scheduler,
        speeds=not options.learn,
        probe_hz=options.probe,
        probe_dscp=options.dscp,
        stagger_s=options.stagger,
        cross=cross_of(options.cross),
        events=[event_of(text) for text in options.at]
        + [event for text in options.vary for event in variation_of(text, lines, options.seconds, seed)],
    )
    if options.kernel:
        compare(options, scenario)
        return
    for label, result, took in results(options, scenario):
        if options.json:
            print(json.dumps({"what": label, "cc": cc, "seed": seed, **as_dict(result)}))
        else:
            print(f"-- {label}, {cc}, seed {seed} ({options.seconds / took:.0f} x real time)")
            print(table(result), flush=True)


def compare(options: argparse.Namespace, scenario: Scenario) -> None:
    """Goodput and retransmissions by the kernel, beside what the simulator says of the same."""
    import kernel

    if scenario.events:
        raise SystemExit("--kernel takes no events")
    scenario.probe_hz = 0.0
    labels = options.lines if options.plain else [" ".join(options.lines)]
    measured = kernel.measure(scenario, plain=options.plain)
    for label, real, (_, simulated, _) in zip(labels, measured, results(options, scenario), strict=True):
        print(
            f"{'plain' if options.plain else 'bond'} {label}, {scenario.cc}: "
            f"kernel {real.bits_per_second / 1e6:.2f} Mbit/s, {real.retransmits} sent again; "
            f"simulated {simulated.goodput_bps / 1e6:.2f} Mbit/s, {simulated.retransmitted}",
            flush=True,
        )


def results(options: argparse.Namespace, scenario: Scenario) -> Any:
    if options.plain:
        for line, text in zip(scenario.lines, options.lines, strict=True):
            scenario.lines = [line]
            began = time.perf_counter()
            result = simulate_plain(scenario)
            yield f"plain TCP on {text}", result, time.perf_counter() - began
        return
    began = time.perf_counter()
    if options.trace is None:
        result = simulate(scenario)
    else:
        with options.trace.open("w") as trace:
            result = simulate(scenario, trace)
    yield "bond of " + " ".join(options.lines), result, time.perf_counter() - began


if __name__ == "__main__":
    main()
