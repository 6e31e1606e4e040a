"""What a tunnel that is idle but for one ping at a time adds to the round trip."""

import contextlib
import statistics

from bench import plot
from bench.contenders import OURS, Contender, against
from bench.gigabit import LINE, session
from bench.peers import Relay
from bench.record import Bench, Figure, Outcome
from bondvpn.errors import SystemFault
from bondvpn.lab.measure import ping
from bondvpn.lab.topology import Lab

PINGS = 1000
INTERVAL_S = 0.005
BLOCK = 250  # then the next one's turn
MEDIAN_MAX_S = 200e-6
P99_MAX_S = 600e-6
SHOWN_MAX_S = 1e-3
BARE = "no tunnel"


def measure(runs: int) -> Outcome:
    outcome = Outcome()
    curves: dict[str, list[float]] = {}
    with contextlib.ExitStack() as stack:
        contenders = stack.enter_context(session(outcome))
        lab = contenders[0].lab
        contenders += stack.enter_context(against(lab, [Relay(lab, LINE.name)], outcome))
        bare = outcome.figure(f"{BARE}: round trip, median", "µs")
        bare_p99 = outcome.figure(f"{BARE}: round trip, p99", "µs")
        figures = {each.name: _figures(outcome, each) for each in contenders}
        for _ in range(runs):
            trips = _trips(lab, contenders)
            middle = statistics.median(trips[BARE])
            bare.add(middle)
            bare_p99.add(p99(trips[BARE]))
            for name, (median, highest) in figures.items():
                added = [trip - middle for trip in trips[name]]
                curves.setdefault(name, []).extend(added)
                median.add(statistics.median(added))
                highest.add(p99(added))
    outcome.drawing = plot.steps(
        "Round trip added by the tunnel, share of pings up to",
        {name: [(x * 1e6, y) for x, y in plot.ecdf(added)] for name, added in curves.items()},
        x_label="µs",
        y_label="share",
        x_max=SHOWN_MAX_S * 1e6,
        y_max=1.0,
    )
    return outcome


def p99(values: list[float]) -> float:
    """99 of 100 are not above it."""
    return sorted(values)[-(-len(values) * 99 // 100) - 1]


def _figures(outcome: Outcome, contender: Contender) -> tuple[Figure, Figure]:
    bounds = (MEDIAN_MAX_S, P99_MAX_S) if contender.name == OURS else (None, None)
    return (
        outcome.figure(f"{contender.name}: added, median", "µs", at_most=bounds[0]),
        outcome.figure(f"{contender.name}: added, p99", "µs", at_most=bounds[1]),
    )


def _trips(lab: Lab, contenders: list[Contender]) -> dict[str, list[float]]:
    """Round trips in seconds by name, PINGS of each in blocks by turns. Raises SystemFault when one is
    lost."""
    addresses = {BARE: lab.gateway(LINE.name)} | {each.name: each.address for each in contenders}
    trips: dict[str, list[float]] = {name: [] for name in addresses}
    for _ in range(PINGS // BLOCK):
        for name, address in addresses.items():
            block = ping(lab, address, count=BLOCK, interval_s=INTERVAL_S)
            if len(block) < BLOCK:
                raise SystemFault(f"{name}: {BLOCK - len(block)} of {BLOCK} pings were lost on an idle line")
            trips[name] += block
    return trips


BENCH = Bench(
    "latency",
    "Round trip added, idle",
    f"{PINGS} pings of 56 bytes a run, one every {INTERVAL_S * 1e3:g} ms, in blocks of {BLOCK} by turns "
    "over the bare line and through each tunnel; from just before the send call to the kernel's stamp of "
    "the reply. What is added is each round trip through the tunnel less the median over the bare line. "
    "The bare relay (`bench/relay.py`) is no tunnel: two system calls and one AEAD call a frame in "
    "Python, which is what any tunnel in Python starts from.",
    measure,
    quick=False,
)
