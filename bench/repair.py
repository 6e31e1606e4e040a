"""Lossy lines: what the flow inside still sees of it, and what the repair costs."""

import time
from collections.abc import Mapping

from bench import meter
from bench.contenders import ours
from bench.flow import Flow
from bench.packets import probe
from bench.record import Bench, Outcome
from bench.states import states
from bench.sums import CONGESTIONS, Row, adaptive, measure_rows
from bondvpn.lab.shape import twins
from bondvpn.lab.topology import Lab
from bondvpn.lab.tunnel import CLIENT_ADDRESS, Tunnel

MBIT = 50
LOSS = 0.01
UDP_PER_S = 5_000  # 57 of 100 Mbit/s
UDP_BYTES = 1400
WARM_UP_S = 3.0
UDP_SECONDS = 20.0  # 100,000 datagrams
RESIDUAL_MAX = 1e-5
TCP_SECONDS = 8.0
RESENT_MAX = 1.3


def residual(outcome: Outcome, runs: int) -> None:
    """UDP below the lines' sum, so that no queue loses anything."""
    title = f"2 × {MBIT} Mbit/s 10 ms, {LOSS:.0%} loss on each, {UDP_PER_S} datagrams a second"
    share = outcome.figure(f"{title}: lost inside, all runs", "per million", at_most=RESIDUAL_MAX)
    sent = outcome.figure(f"{title}: datagrams sent", "count")
    lost = 0
    with adaptive(twins(2, mbit=MBIT, loss=LOSS)) as (lab, tunnel):
        # Lines that nothing is known of yet make the queue overflow at first, which is no loss of theirs.
        probe(ours(lab, tunnel), UDP_BYTES, UDP_PER_S, WARM_UP_S)
        for _ in range(runs):
            with states(tunnel, "client"):
                result = probe(ours(lab, tunnel), UDP_BYTES, UDP_PER_S, UDP_SECONDS)
            sent.add(result.sent)
            lost += result.sent - result.received
    share.add(lost / sum(sent.runs))


def resent(outcome: Outcome, runs: int) -> None:
    """A flow that takes all it can get, so that nothing is repaired which would not have been lost."""
    for congestion in CONGESTIONS:
        title = f"2 × {MBIT} Mbit/s 10 ms, {LOSS:.0%} loss on each, {congestion}"
        times = outcome.figure(f"{title}: chunks sent again, of the frames lost", "times", at_most=RESENT_MAX)
        again = outcome.figure(f"{title}: segments the inner TCP sent again", "count")
        with adaptive(twins(2, mbit=MBIT, loss=LOSS)) as (lab, tunnel):
            for _ in range(runs):
                before = _resent(tunnel), _lost(lab)
                with Flow(lab, CLIENT_ADDRESS, congestion) as flow, states(tunnel, "server", flow):
                    time.sleep(TCP_SECONDS)
                    inner = flow.sender.sent_again
                    after = _resent(tunnel), _lost(lab)
                times.add((after[0] - before[0]) / (after[1] - before[1]))
                again.add(inner)


def _resent(tunnel: Tunnel) -> int:
    """Chunks that the server has sent again."""
    return sum(link["resent"] for link in meter.status(tunnel, "server")["tunnels"][0]["links"])


def _lost(lab: Lab) -> int:
    """Frames that the lines have lost downwards, by their loss and by their queues."""
    return sum(sum(line["down"]["refused"].values()) for line in lab.counters()["lines"].values())


ROWS: Mapping[str, Row] = {"residual": residual, "resent": resent}

BENCH = Bench(
    "repair",
    "Lossy lines: what is left of the loss",
    f"2 × {MBIT} Mbit/s, 10 ms, {LOSS:.0%} loss on each and in both directions; `adaptive`, no speed "
    f"configured. Upwards {UDP_SECONDS:g} s of UDP datagrams of {UDP_BYTES} bytes, evenly in time, of which "
    f"what the receiver misses was not repaired; downwards one TCP flow of {TCP_SECONDS:g} s, while the "
    "sender counts the chunks it sends again and the lines count what they lose.",
    lambda runs: measure_rows(ROWS, runs),
    quick=False,
)
