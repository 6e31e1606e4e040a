"""One of two steady lines is cut silently while a flow and a probe run, and comes back."""

import time
from collections.abc import Mapping
from pathlib import Path

from bench import meter
from bench.flow import Flow
from bench.probe import Probe
from bench.record import Bench, Figure, Outcome
from bench.states import states
from bench.sums import CONGESTIONS, Row, adaptive, measure_rows
from bondvpn.lab.shape import twins
from bondvpn.lab.tunnel import CLIENT_ADDRESS, Tunnel

MBIT = 50
RUN_UP_S = 4.0
DEAD_S = 3.0
RETURN_WAIT_S = 5.0
SILENCE_MAX_S = 0.200
PROBE_PER_S = 100
IN_USE_MAX_S, FULL_MAX_S = 1.0, 3.0
IN_USE_BYTES = 10 * 1514  # in RETURN_WINDOW_S: more than probes of the line are
FULL = 0.90
RETURN_WINDOW_S = 0.2
SAMPLE_S = 0.02


def cut(outcome: Outcome, runs: int) -> None:
    """Both ends of the line stay up; the lines take turns."""
    for congestion in CONGESTIONS:
        name = f"2 × {MBIT} Mbit/s 10 ms, one cut, {congestion}"
        silence = outcome.figure(f"{name}: longest silence of the flow", "ms", at_most=SILENCE_MAX_S)
        timeouts = outcome.figure(f"{name}: retransmission timeouts inside, all runs", "count", at_most=0)
        frames = outcome.figure(f"{name}: frames lost inside, all runs", "count", at_most=0)
        probe_silence = outcome.figure(f"{name}: longest silence of the probe", "ms", at_most=SILENCE_MAX_S)
        probe_lost = outcome.figure(f"{name}: the probe's datagrams lost, all runs", "count", at_most=0)
        used = outcome.figure(f"{name}: from restored to in use", "s", at_most=IN_USE_MAX_S)
        full = outcome.figure(f"{name}: from restored to {FULL:.0%} of its rate", "s", at_most=FULL_MAX_S)
        counted = [0, 0, 0]
        with adaptive(twins(2, mbit=MBIT)) as (lab, tunnel):
            for run in range(runs):
                victim = "ab"[run % 2]
                with (
                    Probe(lab, PROBE_PER_S) as probe,
                    Flow(lab, CLIENT_ADDRESS, congestion) as flow,
                    states(tunnel, "server", flow),
                ):
                    time.sleep(RUN_UP_S)
                    before = _counts(tunnel)
                    lab.cut(victim)
                    died = time.monotonic()
                    time.sleep(DEAD_S)
                    lab.restore(victim)
                    restored = time.monotonic()
                    _await_return(tunnel, victim, restored, used, full)
                    counted[:2] = [
                        total + after - earlier
                        for total, after, earlier in zip(counted, _counts(tunnel), before, strict=False)
                    ]
                    ended = time.monotonic()
                silence.add(flow.longest_silence_s(died, restored))
                probe_silence.add(probe.echoes.longest_silence_s(died, restored))
                counted[2] += probe.echoes.within(died - 0.5, ended).lost
                if flow.broken is not None:
                    outcome.failures.append(f"{name}, run {run + 1}: the connection was lost: {flow.broken}")
                meter.settle(lab, tunnel)
        for figure, count in zip((timeouts, frames, probe_lost), counted, strict=True):
            figure.add(count)


def _counts(tunnel: Tunnel) -> tuple[int, int]:
    """TCP's retransmission timeouts at the sending end, and frames that both ends gave up."""
    lost = 0
    for end in tunnel.ends:
        lost += meter.status(tunnel, end)["tunnels"][0]["drops"].get("frame", 0)
    return tcp_timeouts(tunnel.ends["server"].pid), lost


def tcp_timeouts(pid: int) -> int:
    """Retransmission timeouts of all TCP in the namespace of a process (TcpExtTCPTimeouts)."""
    rows = [row.split() for row in Path(f"/proc/{pid}/net/netstat").read_text().splitlines()]
    heads, values = (row for row in rows if row[0] == "TcpExt:")
    return int(values[heads.index("TCPTimeouts")])


def _await_return(tunnel: Tunnel, line: str, restored: float, used: Figure, full: Figure) -> None:
    """Add the seconds from `restored` until the line is in use and at its rate; RETURN_WAIT_S for never."""
    client = tunnel.ends["client"].pid
    wanted = [(used, IN_USE_BYTES), (full, FULL * MBIT * 1e6 / 8 * RETURN_WINDOW_S)]
    samples = [(time.monotonic(), meter.received_bytes(client, line))]
    while wanted and (now := time.monotonic()) < restored + RETURN_WAIT_S:
        samples.append((now, meter.received_bytes(client, line)))
        while samples[0][0] < now - RETURN_WINDOW_S:
            samples.pop(0)
        while wanted and samples[-1][1] - samples[0][1] >= wanted[0][1]:
            wanted.pop(0)[0].add(now - restored)
        time.sleep(SAMPLE_S)
    for figure, _ in wanted:
        figure.add(RETURN_WAIT_S)


ROWS: Mapping[str, Row] = {"cut": cut}

BENCH = Bench(
    "cut",
    "A line is cut silently and comes back",
    f"2 × {MBIT} Mbit/s, 10 ms, `adaptive`, no speed configured. One download for {RUN_UP_S:g} s beside a "
    f"UDP probe of {PROBE_PER_S} datagrams a second, echoed; then one line loses every frame for "
    f"{DEAD_S:g} s with its interfaces up, then carries again; the lines take turns. Silence is the longest "
    "time between two arrivals while the line is dead. Timeouts are the sending kernel's TcpExtTCPTimeouts; "
    "frames lost are those that either end of the tunnel gave up. In use is 10 full frames, and at its "
    f"rate 90 % of it, over {RETURN_WINDOW_S * 1e3:.0f} ms.",
    lambda runs: measure_rows(ROWS, runs),
    quick=False,
)
