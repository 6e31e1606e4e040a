"""Lines whose rates change while one flow runs: the share of their mean sum that it gets."""

import functools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench import meter
from bench.flow import Flow
from bench.record import Bench, Outcome
from bench.states import states
from bench.sums import CONGESTIONS, Row, adaptive, measure_rows
from bench.timeline import Moving, Step, mean_worths, outages, wandering
from bondvpn.lab.shape import DSL, Line, line, twins
from bondvpn.lab.tunnel import CLIENT_ADDRESS

OMIT_S = 3.0
SECONDS = 10.0
OUTAGE_SECONDS = 20.0  # long enough for four gaps
# An LTE cell far away: a base station's buffer is deep, and what waits in it during a gap is not lost.
SLOW_LTE = line("lte", up_mbit=5, down_mbit=10, delay_s=0.040, queue_bytes=375_000, seed=3)
OUTAGES_PER_MINUTE = 12  # of LTE traces, between 12 and 47 times a minute above 100 ms
OUTAGE_LASTS_S = (0.1, 0.4)


@dataclass(frozen=True, slots=True)
class Case:
    """Lines, the plan of what happens to them, and the share of their mean Σ that a flow must reach."""

    title: str
    lines: Sequence[Line]
    steps: Sequence[Step]
    seconds: float
    at_least: float


_TWINS = twins(2)
CASES: Mapping[str, Case] = {
    "wandering": Case(
        "2 × 50 Mbit/s 10 ms, rates ± 30 % every second",
        _TWINS,
        wandering(_TWINS, 0.3, 1.0, OMIT_S + SECONDS, seed=4),
        SECONDS,
        0.92,
    ),
    "outages": Case(
        "16/1 15 ms + 10/5 40 ms, which stands still for 100 to 400 ms 12 times a minute",
        (DSL, SLOW_LTE),
        outages("lte", OUTAGES_PER_MINUTE, OUTAGE_LASTS_S, OMIT_S + OUTAGE_SECONDS, seed=5),
        OUTAGE_SECONDS,
        0.90,
    ),
}


def measure_case(case: Case, outcome: Outcome, runs: int) -> None:
    """A figure for each congestion control."""
    total = sum(mean_worths(case.lines, case.steps, "down", OMIT_S, OMIT_S + case.seconds))
    with adaptive(case.lines) as (lab, tunnel):
        for congestion in CONGESTIONS:
            figure = outcome.figure(
                f"{case.title}, {congestion}: share of the mean Σ", "share", at_least=case.at_least
            )
            for _ in range(runs):
                with (
                    meter.metered(lab, meter.pids(tunnel)) as used,
                    Moving(lab, case.steps) as moving,
                    Flow(lab, CLIENT_ADDRESS, congestion) as flow,
                    states(tunnel, "server", flow),
                ):
                    since, until = moving.began + OMIT_S, moving.began + OMIT_S + case.seconds
                    time.sleep(max(0.0, until - time.monotonic()))
                    got = flow.bits_per_second(since, until)
                figure.add(got / total, used)


ROWS: Mapping[str, Row] = {name: functools.partial(measure_case, case) for name, case in CASES.items()}

BENCH = Bench(
    "moving",
    "Lines that change while they are used",
    "One download through the bond (`adaptive`, no speed configured) while the emulated lines change "
    f"after a seeded plan; goodput from {OMIT_S:g} s on, over the mean of what the lines were "
    "worth meanwhile.",
    functools.partial(measure_rows, ROWS),
    plotted="share",
    quick=False,
)
