"""One TCP flow over lines as they are: the share of their sum that it gets, without any speed configured."""

import contextlib
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from bench import meter
from bench.bonded import bonded
from bench.flow import Flow
from bench.record import Bench, Outcome
from bench.sigma import worths
from bench.states import states
from bondvpn.lab.shape import CABLE, DSL, LTE, Line, line, twins
from bondvpn.lab.topology import Lab
from bondvpn.lab.tunnel import CLIENT_ADDRESS, PEER_ADDRESS, Tunnel

OMIT_S = 2.5
SECONDS = 5.0
CONGESTIONS = ("cubic", "bbr")
FIRST_S = 1.0
FIRST_SHARE_MIN = 0.60
FINAL_AFTER_S = 4.0

Row = Callable[[Outcome, int], None]
"""Measures one row of the table of bounds, `runs` times, into the outcome."""


def changed(base: Line, **both: float) -> Line:
    """The line with both its directions changed."""
    return Line(base.name, base.up and base.up.changed(**both), base.down and base.down.changed(**both))


LTE_POOR = changed(LTE, jitter_s=0.008, loss=0.005)
THREE = (DSL, CABLE, LTE)


@dataclass(frozen=True, slots=True)
class Case:
    """Lines, and the share of Σ that one flow over them must reach."""

    title: str
    lines: Sequence[Line]
    at_least: float
    ways: Sequence[str] = ("down",)
    never_below_best: bool = False
    """Whether the best line alone is a bound too."""


_A, _B = twins(2)
CASES: Mapping[str, Case] = {
    "twins": Case("2 × 50 Mbit/s, 10 ms", (_A, _B), 0.97),
    "three": Case("16/1 15 ms + 50/5 10 ms + 30/10 40 ms", THREE, 0.96, ("down", "up")),
    "three-poor": Case(
        "16/1 15 ms + 50/5 10 ms + 30/10 40 ± 8 ms, 0.5 % loss", (DSL, CABLE, LTE_POOR), 0.96, ("down", "up")
    ),
    "fast-slow": Case(
        "100 Mbit/s 5 ms + 10 Mbit/s 50 ms",
        (
            line("fast", up_mbit=100, down_mbit=100, delay_s=0.005),
            line("slow", up_mbit=10, down_mbit=10, delay_s=0.050, seed=2),
        ),
        0.97,
        never_below_best=True,
    ),
    "near-far": Case("50 Mbit/s 10 ms + 50 Mbit/s 60 ms", (_A, changed(_B, delay_s=0.060)), 0.96),
    "one-lossy": Case("2 × 50 Mbit/s 10 ms, 1 % loss on one", (_A, changed(_B, loss=0.01)), 0.96),
    "shallow": Case("2 × 50 Mbit/s 10 ms, modem buffers of 6 ms", twins(2, queue_s=0.006), 0.90),
}


def way_addresses(way: str) -> str:
    """Where a flow through the tunnel goes, `way` "up" or "down"."""
    return CLIENT_ADDRESS if way == "down" else PEER_ADDRESS


def sender_end(way: str) -> str:
    """The end of the tunnel that sends."""
    return "server" if way == "down" else "client"


@contextlib.contextmanager
def adaptive(lines: Sequence[Line]) -> Iterator[tuple[Lab, Tunnel]]:
    """A bond that was told no speeds."""
    with bonded(lines, scheduler="adaptive", speeds=False) as made:
        yield made


def goodput(
    lab: Lab,
    tunnel: Tunnel,
    congestion: str,
    way: str = "down",
    *,
    omit_s: float = OMIT_S,
    seconds: float = SECONDS,
) -> float:
    """One flow through the bond; bit/s at the receiver after `omit_s`."""
    with Flow(lab, way_addresses(way), congestion, way) as flow:
        began = time.monotonic()
        with states(tunnel, sender_end(way), flow):
            time.sleep(omit_s + seconds)
        return flow.bits_per_second(began + omit_s, began + omit_s + seconds)


def measure_case(case: Case, outcome: Outcome, runs: int) -> None:
    """A figure for each direction and congestion control."""
    figures = {}
    for way in case.ways:
        for congestion in CONGESTIONS:
            name = f"{case.title}, {way}, {congestion}"
            alone = worths(case.lines, way)
            floor = max(case.at_least, max(alone) / sum(alone) if case.never_below_best else 0.0)
            figures[way, congestion] = outcome.figure(f"{name}: share of Σ", "share", at_least=floor)
    with adaptive(case.lines) as (lab, tunnel):
        for _ in range(runs):
            for (way, congestion), figure in figures.items():
                with meter.metered(lab, meter.pids(tunnel)) as used:
                    got = goodput(lab, tunnel, congestion, way)
                figure.add(got / sum(worths(case.lines, way)), used)


def first_second(outcome: Outcome, runs: int) -> None:
    """The first flow of a tunnel that has just come up knows nothing of its lines."""
    for congestion in CONGESTIONS:
        figure = outcome.figure(
            f"{CASES['three'].title}, {congestion}: the first flow's first second, of its final rate",
            "share",
            at_least=FIRST_SHARE_MIN,
        )
        for _ in range(runs):
            with (
                adaptive(THREE) as (lab, tunnel),
                Flow(lab, CLIENT_ADDRESS, congestion) as flow,
                states(tunnel, "server", flow),
            ):
                began = time.monotonic()
                ends = began + FINAL_AFTER_S + 3.0
                time.sleep(ends - began)
                final = flow.bits_per_second(began + FINAL_AFTER_S, ends)
                figure.add(flow.bits_per_second(began, began + FIRST_S) / final)


ROWS: Mapping[str, Row] = {
    **{name: functools.partial(measure_case, case) for name, case in CASES.items()},
    "first-second": first_second,
}


def measure_rows(rows: Mapping[str, Row], runs: int) -> Outcome:
    """All of them, one after the other."""
    outcome = Outcome()
    for row in rows.values():
        row(outcome, runs)
    return outcome


BENCH = Bench(
    "sums",
    "The sum of the lines, whatever the lines",
    f"One flow through the bond (scheduler `adaptive`, no speed configured), {SECONDS:g} s after the "
    f"{OMIT_S:g} s of its start; goodput at the receiver. Σ is what plain TCP gets from the lines with their "
    "loss taken away: rate × 1448/1514 × (1 − loss) of each. The limit by overhead is 0.988.",
    functools.partial(measure_rows, ROWS),
    plotted="share",
    quick=False,
)
