"""One unshaped line: how much the hot path carries, beside its peers in the same namespaces."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from bench.bonded import bonded
from bench.contenders import OURS, Contender, against, against_fastest, carry, ours, ratios
from bench.peers import OpenVpn, WireGuardGo
from bench.record import Bench, Figure, Outcome
from bondvpn.lab.shape import Line

OMIT_S = 1
SECONDS = 3
LINE = Line("gbit")
TIMES_OPENVPN_MIN = 4.0
COST_OF_OPENVPN_MAX = 0.25
OPENVPN = "OpenVPN tap"


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of traffic."""

    name: str
    way: str
    """"up", "down" or "both"."""
    flows: int
    at_least_bps: float
    headline: bool = False
    """Held to the peers' figures as well."""


ONE_FLOW = (Case("up", "up", 1, 2.8e9, headline=True), Case("down", "down", 1, 2.8e9, headline=True))
MANY = (
    Case("8 flows up", "up", 8, 2.5e9),
    Case("8 flows down", "down", 8, 2.5e9),
    Case("one up and one down at once, sum", "both", 1, 2.5e9),
)


@contextlib.contextmanager
def session(outcome: Outcome) -> Iterator[list[Contender]]:
    """bondvpn and its peers over one unshaped line."""
    with bonded([LINE]) as (lab, tunnel):
        peers = [OpenVpn(lab, LINE.name, "tap"), OpenVpn(lab, LINE.name, "tun"), WireGuardGo(lab, LINE.name)]
        with against(lab, peers, outcome) as others:
            yield [ours(lab, tunnel), *others]


def measure_one(runs: int) -> Outcome:
    return _measure(ONE_FLOW, runs)


def measure_many(runs: int) -> Outcome:
    return _measure(MANY, runs)


def _measure(cases: tuple[Case, ...], runs: int) -> Outcome:
    outcome = Outcome()
    rates: dict[tuple[str, str], Figure] = {}
    costs: dict[tuple[str, str], Figure] = {}
    with session(outcome) as contenders:
        for case in cases:
            for contender in contenders:
                bound = case.at_least_bps if contender.name == OURS else None
                key = contender.name, case.name
                rates[key] = outcome.figure(f"{contender.name}, {case.name}", "bit/s", at_least=bound)
        for name, case_name in rates:
            costs[name, case_name] = outcome.figure(f"{name}, {case_name}: CPU per GB, both ends", "s/GB")
        for _ in range(runs):
            for case in cases:
                for contender in contenders:
                    carried = carry(contender, case.way, SECONDS, omit_s=OMIT_S, parallel=case.flows)
                    key = contender.name, case.name
                    rates[key].add(carried.bits_per_second, carried.cpu_s, carried.gigabytes)
                    costs[key].add(carried.tunnel_cost)
    for case in cases:
        _compare(outcome, case, rates, costs)
    return outcome


def _compare(
    outcome: Outcome,
    case: Case,
    rates: dict[tuple[str, str], Figure],
    costs: dict[tuple[str, str], Figure],
) -> None:
    """Ratios of bondvpn to those peers that are present."""
    mine = OURS, case.name
    others = [rate for (name, case_name), rate in rates.items() if case_name == case.name and name != OURS]
    if (theirs := (OPENVPN, case.name)) in rates:
        faster = outcome.figure(
            f"{OURS} / {OPENVPN}, {case.name}", "times", at_least=TIMES_OPENVPN_MIN if case.headline else None
        )
        ratios(faster, rates[mine], rates[theirs])
        cheaper = outcome.figure(
            f"{OURS} / {OPENVPN}, {case.name}: CPU per GB", "times", at_most=COST_OF_OPENVPN_MAX
        )
        ratios(cheaper, costs[mine], costs[theirs])
    if others:
        fastest = outcome.figure(
            f"{OURS} / fastest peer, {case.name}", "times", at_least=1.0 if case.headline else None
        )
        against_fastest(fastest, rates[mine], others)


_METHOD = (
    f"iperf3 (cubic) for {SECONDS} s after {OMIT_S} s left out, over a veth pair without any shaping; both "
    "tunnel ends and both iperf3 share this machine's cores. All tunnels are up all the time and are "
    "measured in turns, so a ratio is of two runs seconds apart."
)
BENCHES = (
    Bench("gigabit", "One unshaped line: one TCP flow", _METHOD, measure_one, plotted="bit/s"),
    Bench(
        "gigabit-many",
        "One unshaped line: 8 flows, and both directions",
        _METHOD,
        measure_many,
        plotted="bit/s",
        quick=False,
    ),
)
