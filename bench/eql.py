"""What eql was for: two equal DSL lines whose speeds are given, beside two OpenVPN tunnels in round robin."""

from collections.abc import Mapping

from bench.bonded import bonded
from bench.contenders import against, carry, ours, ratios
from bench.peers import Bundle
from bench.record import Bench, Figure, Outcome
from bench.sums import CONGESTIONS, Row, measure_rows
from bondvpn.lab.shape import line

OMIT_S = 2
SECONDS = 5
WAYS = ("down", "up")
# (up, down) in Mbit/s: the DSL of design.md's example, and of the demo
SPEEDS = ((0.5, 6.0), (1.0, 16.0))
DELAY_S = 0.015


def eql(outcome: Outcome, runs: int) -> None:
    for up, down in SPEEDS:
        lines = [
            line(name, up_mbit=up, down_mbit=down, delay_s=DELAY_S, seed=seed)
            for seed, name in enumerate(("a", "b"), 1)
        ]
        with (
            bonded(lines, scheduler="weighted", speeds=True) as (lab, tunnel),
            against(lab, [Bundle(lab, "a", "b")], outcome) as peers,
        ):
            contenders = [ours(lab, tunnel), *peers]
            for way in WAYS:
                for congestion in CONGESTIONS:
                    title = f"2 × {down:g}/{up:g} Mbit/s, {way}, {congestion}"
                    rates: list[Figure] = []
                    for each in contenders:
                        figure = outcome.figure(f"{title}: {each.name}", "bit/s")
                        rates.append(figure)
                    for _ in range(runs):
                        for each, figure in zip(contenders, rates, strict=True):
                            carried = carry(each, way, SECONDS, omit_s=OMIT_S, congestion=congestion)
                            figure.add(carried.bits_per_second, carried.cpu_s, carried.gigabytes)
                    for figure in rates[1:]:
                        ratio = outcome.figure(
                            f"{title}: bondvpn / {contenders[1].name}", "times", at_least=1.0
                        )
                        ratios(ratio, rates[0], figure)


ROWS: Mapping[str, Row] = {"eql": eql}

BENCH = Bench(
    "eql",
    "Two equal DSL lines, speeds given",
    f"eql's own case: scheduler `weighted`, speeds configured, {DELAY_S * 1e3:g} ms; one iperf3 flow of "
    f"{SECONDS} s after {OMIT_S} s left out. Beside it two OpenVPN tunnels, a line each, that take packets "
    "in turns, as eql did; in turns on the same lines.",
    lambda runs: measure_rows(ROWS, runs),
    quick=False,
)
