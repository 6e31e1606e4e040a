"""One TCP flow through the bond against plain TCP on each of its lines: (a) twins, (b) the demo's lines."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from bench import meter
from bench.bonded import bonded
from bench.record import Bench, Figure, Outcome
from bondvpn.lab.measure import tcp
from bondvpn.lab.shape import CABLE, DSL, LTE, Line, line, twins
from bondvpn.lab.topology import Lab
from bondvpn.lab.tunnel import PEER_ADDRESS

OMIT_S = 2
SECONDS = 6

LTE_JITTERY = replace(
    LTE, up=LTE.up and LTE.up.changed(jitter_s=0.005), down=LTE.down and LTE.down.changed(jitter_s=0.005)
)
EQUAL_DELAYS = (
    line("dsl", up_mbit=1, down_mbit=16, delay_s=0.010),
    line("cable", up_mbit=5, down_mbit=50, delay_s=0.010),
    line("lte", up_mbit=10, down_mbit=30, delay_s=0.010),
)


@dataclass(frozen=True, slots=True)
class Case:
    """Lines, the flows to send over them one by one, and the share of the sum that each must reach."""

    name: str
    lines: Sequence[Line]
    directions: Sequence[str]
    congestions: Sequence[str]
    """Of the flow through the bond."""
    plain: str
    """Congestion control of the plain flows that make the sum."""
    at_least: float


# Plain cubic fills these lines' queues for good and so their rate to the last bit: bbr's sum is no higher.
TWINS = (Case("2 × 50 Mbit/s, 10 ms", twins(2), ("down", "up"), ("cubic", "bbr"), "cubic", 0.95),)
THREE = (
    Case(
        "16 + 50 + 30 Mbit/s, 15, 10, 40 ± 5 ms",
        (DSL, CABLE, LTE_JITTERY),
        ("down",),
        ("cubic",),
        "cubic",
        0.90,
    ),
    Case("16 + 50 + 30 Mbit/s, 10 ms each", EQUAL_DELAYS, ("down",), ("bbr",), "bbr", 0.90),
)


def measure_twins(runs: int) -> Outcome:
    return _measure(TWINS, runs)


def measure_three(runs: int) -> Outcome:
    return _measure(THREE, runs)


def _measure(cases: Sequence[Case], runs: int) -> Outcome:
    outcome = Outcome()
    for case in cases:
        sums, bonds, shares = _figures(outcome, case)
        with bonded(case.lines) as (lab, tunnel):
            for _ in range(runs):
                for direction in case.directions:
                    reverse = direction == "down"
                    with meter.metered(lab, {}) as used:
                        total = plain_sum(lab, case.plain, reverse)
                    sums[direction].add(total, used)
                    for congestion in case.congestions:
                        result, used = meter.metered_tcp(
                            lab,
                            meter.pids(tunnel),
                            PEER_ADDRESS,
                            SECONDS,
                            congestion=congestion,
                            reverse=reverse,
                            omit_s=OMIT_S,
                        )
                        bonds[direction, congestion].add(result.bits_per_second, used)
                        shares[direction, congestion].add(result.bits_per_second / total)
    return outcome


def _figures(
    outcome: Outcome, case: Case
) -> tuple[dict[str, Figure], dict[tuple[str, str], Figure], dict[tuple[str, str], Figure]]:
    """The sum of plain TCP by direction; the bond's goodput and share by direction and congestion control."""
    sums, bonds, shares = {}, {}, {}
    for direction in case.directions:
        name = f"{case.name}, {direction}"
        sums[direction] = outcome.figure(f"{name}: plain {case.plain}, sum of the lines", "bit/s")
        for congestion in case.congestions:
            flow = direction, congestion
            bonds[flow] = outcome.figure(f"{name}: one {congestion} flow through the bond", "bit/s")
            shares[flow] = outcome.figure(
                f"{name}: one {congestion} flow, share of the sum", "share", at_least=case.at_least
            )
    return sums, bonds, shares


def plain_sum(lab: Lab, congestion: str, reverse: bool) -> float:
    """The goodputs of one plain flow per line, added; all lines at once, each with its line to itself."""

    def alone(each: Line) -> float:
        return tcp(
            lab, lab.gateway(each.name), SECONDS, congestion=congestion, reverse=reverse, omit_s=OMIT_S
        ).bits_per_second

    with ThreadPoolExecutor(len(lab.lines)) as pool:
        return sum(pool.map(alone, lab.lines))


_METHOD = (
    f"One iperf3 flow of {SECONDS} s, the {OMIT_S} s of slow start before it left out, of plain TCP and of "
    "TCP through the bond alike, in turns. Goodput at the receiver. Plain TCP runs on all lines at once, one "
    "flow on each: the lines share nothing but the emulator, which so carries as much as it does for the "
    "bond. "
)
BENCHES = (
    Bench(
        "twins",
        "Two equal lines: the sum, by one flow",
        _METHOD + "The limit by overhead is 98.6 %.",
        measure_twins,
    ),
    Bench(
        "three-lines",
        "Three unequal lines: the sum, by one flow",
        _METHOD + "Speeds are configured; scheduler `weighted`.",
        measure_three,
    ),
)
