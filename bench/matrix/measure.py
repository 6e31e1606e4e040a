"""One scenario: plain TCP on every line alone, then the bond with each congestion control, beside a probe."""

import contextlib
import math
import time
from collections.abc import Sequence
from typing import Any

from bench import meter
from bench.bonded import bonded
from bench.flow import Flow
from bench.matrix.scenarios import Scenario
from bench.probe import Probe
from bench.sigma import benefit
from bench.states import describe
from bench.sums import CONGESTIONS
from bench.timeline import Moving, mean_worths
from bondvpn.lab import namespace
from bondvpn.lab.topology import Lab
from bondvpn.lab.tunnel import CLIENT_ADDRESS, Tunnel

OMIT_SHARE = 0.4  # of a flow's time: its start
PROBE_PER_S = 50
# 150 Mbit/s over a line of 400 ms and a queue as long again: what the kernel allows by itself is 4 to 6 MB.
BUFFERS = {"ipv4/tcp_rmem": "4096 131072 33554432", "ipv4/tcp_wmem": "4096 131072 33554432"}
DRAIN_WAIT_S = 10.0
START_WINDOW_S = 0.5
START_SHARE = 0.9


def measure(scenario: Scenario, seconds: float, turn: int) -> dict[str, Any]:
    """All that was measured, ready for JSON; rates in bit/s. `turn`: the scenario's number. Raises
    SystemFault when the bond does not come up."""
    omit_s = seconds * OMIT_SHARE
    worths = mean_worths(scenario.lines, scenario.steps, "down", omit_s, seconds)
    found: dict[str, Any] = {"worths": worths, "bond": {}}
    with bonded(scenario.lines, scheduler="adaptive", speeds=False) as (lab, tunnel):
        for where in ("gw", "srv"):
            namespace.sysctl(lab.namespace(where), BUFFERS)
        found["plain"] = _plain(lab, scenario, seconds, omit_s)
        # Who comes first meets lines that nothing is known of yet: they take turns.
        for congestion in CONGESTIONS if turn % 2 == 0 else CONGESTIONS[::-1]:
            drain(lab)
            found["bond"][congestion] = _through(lab, tunnel, scenario, congestion, seconds, omit_s) | {
                "links": describe(tunnel, "server"),
                "first": len(found["bond"]) == 0,
            }
    for result in found["bond"].values():
        result.update(figures(result["goodput"], worths, found["plain"]))
    return found


def figures(goodput: float, worths: Sequence[float], plain: Sequence[float]) -> dict[str, Any]:
    """Shares of both sums and of the best line, and the aggregation benefit over both."""
    return {
        "share": goodput / sum(worths),
        "of_best": goodput / max(worths),
        "benefit": benefit(goodput, worths),
        "plain_share": goodput / sum(plain) if sum(plain) else None,
        "plain_benefit": benefit(goodput, plain) if sum(plain) > max(plain) else None,
    }


def _plain(lab: Lab, scenario: Scenario, seconds: float, omit_s: float) -> list[float]:
    """Goodput of a cubic flow on each line; all at once, since they share nothing."""
    with contextlib.ExitStack() as stack:
        moving = stack.enter_context(Moving(lab, scenario.steps))
        flows = [stack.enter_context(Flow(lab, lab.address(each.name), "cubic")) for each in lab.lines]
        time.sleep(max(0.0, moving.began + seconds - time.monotonic()))
        return [flow.bits_per_second(moving.began + omit_s, moving.began + seconds) for flow in flows]


def _through(
    lab: Lab, tunnel: Tunnel, scenario: Scenario, congestion: str, seconds: float, omit_s: float
) -> dict[str, Any]:
    with (
        Probe(lab, PROBE_PER_S) as probe,
        meter.metered(lab, meter.pids(tunnel)) as used,
        Moving(lab, scenario.steps) as moving,
        Flow(lab, CLIENT_ADDRESS, congestion) as flow,
    ):
        began, ends = moving.began, moving.began + seconds
        time.sleep(max(0.0, ends - time.monotonic()))
        goodput = flow.bits_per_second(began + omit_s, ends)
        sent_again, broken = flow.sender.sent_again, flow.broken
    echoes = probe.echoes.within(began + omit_s, ends)
    p99 = echoes.quantile(0.99)
    return {
        "goodput": goodput,
        "start_s": start_s(flow.arrivals, began, goodput),
        "probe_p99_s": p99 if math.isfinite(p99) else None,
        "probe_lost": echoes.lost,
        "probe_sent": len(echoes.sent),
        "sent_again": sent_again,
        "broken": broken,
        "cpu_s": used,
    }


def start_s(arrivals: Sequence[tuple[float, int]], began: float, goodput: float) -> float | None:
    """Seconds from `began` until the flow brought 90 % of its later goodput over half a second; None when it
    never did."""
    wanted = START_SHARE * goodput / 8 * START_WINDOW_S
    inside = first = 0
    for at, size in arrivals:
        inside += size
        while arrivals[first][0] <= at - START_WINDOW_S:
            inside -= arrivals[first][1]
            first += 1
        if inside >= wanted:
            return at - began
    return None


def drain(lab: Lab) -> None:
    """Wait until the lines' queues are empty: what a flow left behind in one of 2 s would delay the next."""

    def empty() -> bool:
        lines = lab.counters()["lines"].values()
        return not any(way["queued_bytes"] for line in lines for way in line.values())

    meter.wait(empty, "the lines' queues are empty", DRAIN_WAIT_S)
