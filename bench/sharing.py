"""Several flows at once: another host's in the same modem, several bulk flows, a sparse one, a lossy line."""

import contextlib
import functools
import statistics
import time
from collections.abc import Mapping, Sequence

from bench import meter
from bench.flow import Flow
from bench.messages import Messages
from bench.probe import Probe
from bench.record import Bench, Outcome
from bench.sigma import TCP_SHARE, jain, worths
from bench.states import states
from bench.sums import CONGESTIONS, THREE, Row, adaptive, changed, measure_rows
from bondvpn.lab.shape import Line, twins
from bondvpn.lab.tunnel import CLIENT_ADDRESS, Tunnel

MBIT = 50
OMIT_S = 4.0
SECONDS = 6.0
KEEPS_MIN, KEEPS_MAX = 0.30, 0.70
OTHER_LINE_MIN = 0.95
BULK = ("cubic", "bbr", "cubic", "bbr")
BULK_SPACING_S = 3.0
BULK_SHARE_MIN = 0.95
JAIN_MIN = 0.85
PROBE_PER_S = 50
PROBE_ABOVE_MAX_S = 0.010
MESSAGE_FLOWS = 8
MESSAGE_BYTES = 8_000
MESSAGES_PER_S = 100  # 8 flows × 6.4 Mbit/s: half of what the lines carry, so that no queue delays them
LATE_S = 0.010  # a repaired loss costs a round trip, 20 ms, or more
SHARED_MAX = 0.05
TOGETHER_MAX = 0.05
TOGETHER = 0.5  # likelier by so much: the flows wait for each other, as those of one stream do


def competitor(outcome: Outcome, runs: int) -> None:
    """Another host downloads by one of two equal lines, through the same queue in the modem."""
    for congestion in CONGESTIONS:
        name = f"2 × {MBIT} Mbit/s, another host's cubic download on line a, bond with {congestion}"
        keeps = outcome.figure(
            f"{name}: the bond's share of line a", "share", at_least=KEEPS_MIN, at_most=KEEPS_MAX
        )
        other = outcome.figure(f"{name}: the bond's share of line b", "share", at_least=OTHER_LINE_MIN)
        plain = outcome.figure(f"{name}: a plain {congestion}'s share in the bond's place", "share")
        with adaptive(twins(2, mbit=MBIT)) as (lab, tunnel):
            for _ in range(runs):
                with (
                    Flow(lab, CLIENT_ADDRESS, congestion) as flow,
                    Flow(lab, lab.address("a"), "cubic") as foreign,
                    states(tunnel, "server", flow, foreign),
                ):
                    time.sleep(OMIT_S)
                    before, began = _received_bytes(tunnel), time.monotonic()
                    time.sleep(SECONDS)
                    after, took = _received_bytes(tunnel), time.monotonic() - began
                for figure, line in ((keeps, "a"), (other, "b")):
                    figure.add((after[line] - before[line]) * 8 / took / (MBIT * 1e6))
                with Flow(lab, lab.address("a"), congestion) as flow, Flow(lab, lab.address("a"), "cubic"):
                    began = time.monotonic()
                    time.sleep(OMIT_S + SECONDS)
                    rate = flow.bits_per_second(began + OMIT_S, began + OMIT_S + SECONDS)
                plain.add(rate / (MBIT * 1e6 * TCP_SHARE))


def _received_bytes(tunnel: Tunnel) -> dict[str, int]:
    """What the client's links have received, in Ethernet frame bytes."""
    return {link["name"]: link["rx_bytes"] for link in meter.status(tunnel, "client")["tunnels"][0]["links"]}


def bulk(outcome: Outcome, runs: int) -> None:
    """Four downloads start one after the other."""
    lines = twins(2, mbit=MBIT)
    name = f"2 × {MBIT} Mbit/s, downloads {', '.join(BULK)}, started {BULK_SPACING_S:g} s apart"
    share = outcome.figure(f"{name}: their sum, share of Σ", "share", at_least=BULK_SHARE_MIN)
    fairness = outcome.figure(f"{name}: Jain's index", "times", at_least=JAIN_MIN)
    with adaptive(lines) as (lab, tunnel):
        for _ in range(runs):
            with contextlib.ExitStack() as stack:
                flows = []
                for congestion in BULK:
                    flows.append(stack.enter_context(Flow(lab, CLIENT_ADDRESS, congestion)))
                    time.sleep(BULK_SPACING_S)
                began = time.monotonic()
                with states(tunnel, "server", *flows):
                    time.sleep(SECONDS)
                rates = [flow.bits_per_second(began, began + SECONDS) for flow in flows]
            share.add(sum(rates) / sum(worths(lines, "down")))
            fairness.add(jain(rates))


def probe(outcome: Outcome, runs: int) -> None:
    """A sparse flow beside one that takes all it can get."""
    cases: dict[str, Sequence[Line]] = {"2 × 50 Mbit/s 10 ms": twins(2), "16 + 50 + 30 Mbit/s": THREE}
    for title, lines in cases.items():
        fastest = min(2 * line.down.delay_s for line in lines if line.down is not None)
        figures = {
            congestion: outcome.figure(
                f"{title}, {PROBE_PER_S} datagrams a second beside a {congestion} download: round trip, p99",
                "ms",
                at_most=fastest + PROBE_ABOVE_MAX_S,
            )
            for congestion in CONGESTIONS
        }
        lost = outcome.figure(f"{title}: of them lost, all runs", "count", at_most=0)
        missing = 0
        with adaptive(lines) as (lab, tunnel):
            for congestion, figure in figures.items():
                for _ in range(runs):
                    with Probe(lab, PROBE_PER_S) as sparse, Flow(lab, CLIENT_ADDRESS, congestion) as flow:
                        time.sleep(2)
                        since = time.monotonic()
                        with states(tunnel, "server", flow):
                            time.sleep(SECONDS)
                    echoes = sparse.echoes.within(since, since + SECONDS)
                    figure.add(echoes.quantile(0.99))
                    missing += echoes.lost
        lost.add(missing)


def gaps(outcome: Outcome, runs: int) -> None:
    """Of flows over a lossy line, does one wait for what another lost?"""
    a, b = twins(2, mbit=MBIT)
    name = f"{MESSAGE_FLOWS} flows over 2 × {MBIT} Mbit/s, 1 % loss on one"
    late = outcome.figure(f"{name}: messages late by {LATE_S * 1e3:g} ms or more", "share")
    shared = outcome.figure(
        f"{name}: how much likelier one is late when another flow's of the same moment is, median pair",
        "share",
        at_most=SHARED_MAX,
    )
    together = outcome.figure(f"{name}: pairs that wait for each other", "share", at_most=TOGETHER_MAX)
    with adaptive((a, changed(b, loss=0.01))) as (lab, _):
        for _ in range(runs):
            with Messages(lab, CLIENT_ADDRESS, MESSAGE_FLOWS, MESSAGE_BYTES, MESSAGES_PER_S) as messages:
                time.sleep(2 + SECONDS)
            delays = messages.delays(omit=2 * MESSAGES_PER_S)
            late.add(delays.late_share(LATE_S))
            pairs = delays.shared_lateness(LATE_S) or [0.0]
            shared.add(statistics.median(pairs))
            together.add(sum(pair > TOGETHER for pair in pairs) / len(pairs))


ROWS: Mapping[str, Row] = {"competitor": competitor, "bulk": bulk, "probe": probe, "gaps": gaps}

BENCH = Bench(
    "sharing",
    "Several flows at once",
    f"Downloads through the bond (`adaptive`, no speed configured). The other host's flow is plain TCP over "
    f"line a, started together with the bond's; shares of a line are in Ethernet frame bytes over "
    f"{SECONDS:g} s. The sparse flow is UDP, echoed. Of the {MESSAGE_FLOWS} flows each sends "
    f"{MESSAGE_BYTES / 1000:g} kB every {1000 / MESSAGES_PER_S:g} ms, all at the same moments, and notes "
    "when each message is complete: if a gap in one flow held up another, messages would be late together. "
    "Each has one of the 16 streams to itself, so no pair should.",
    functools.partial(measure_rows, ROWS),
    quick=False,
)
