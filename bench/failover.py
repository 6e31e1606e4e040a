"""One of two lines dies silently during a transfer and comes back: silence, rate meanwhile, return."""

import time

from bench import meter
from bench.bonded import bonded
from bench.flow import Flow
from bench.record import Bench, Outcome
from bondvpn.lab.measure import tcp
from bondvpn.lab.shape import twins
from bondvpn.lab.tunnel import CLIENT_ADDRESS, Tunnel

MBIT = 50
RUN_UP_S = 3.0
DEAD_S = 4.0
RETURN_WAIT_S = 6.0
SILENCE_MAX_S = 1.0
SHARE_LEFT_MIN = 0.85
RETURN_MAX_S = 3.0
CARRIES_AGAIN = 0.25  # of the line's rate, over RETURN_WINDOW_S
RETURN_WINDOW_S = 0.2
SAMPLE_S = 0.02
REFERENCE_S = 3
REFERENCE_OMIT_S = 2


def measure(runs: int) -> Outcome:
    outcome = Outcome()
    silence = outcome.figure("longest silence at the receiver", "s", at_most=SILENCE_MAX_S)
    left = outcome.figure("plain TCP on the line that is left", "bit/s")
    rate = outcome.figure("through the bond, from 1 s after the death", "bit/s")
    share = outcome.figure("share of the line that is left", "share", at_least=SHARE_LEFT_MIN)
    back = outcome.figure("from restored to carrying 25 % of its rate", "s", at_most=RETURN_MAX_S)
    with bonded(twins(2, mbit=MBIT)) as (lab, tunnel):
        for run in range(runs):
            victim, survivor = ("a", "b") if run % 2 == 0 else ("b", "a")
            plain = tcp(
                lab,
                lab.gateway(survivor),
                REFERENCE_S,
                congestion="cubic",
                reverse=True,
                omit_s=REFERENCE_OMIT_S,
            ).bits_per_second
            left.add(plain)
            with meter.metered(lab, meter.pids(tunnel)) as used, Flow(lab, CLIENT_ADDRESS, "cubic") as flow:
                time.sleep(RUN_UP_S)
                lab.cut(victim)
                died = time.monotonic()
                time.sleep(DEAD_S)
                lab.restore(victim)
                restored = time.monotonic()
                back.add(_return_s(tunnel, victim, restored))
            silence.add(flow.longest_silence_s(died, restored), used)
            rate.add(flow.bits_per_second(died + 1, restored))
            share.add(rate.runs[-1] / plain)
            if flow.broken is not None:
                outcome.failures.append(f"run {run + 1}: the connection was lost: {flow.broken}")
            meter.settle(lab, tunnel)
    return outcome


def _return_s(tunnel: Tunnel, line: str, restored: float) -> float:
    """Seconds from `restored` until the line carries again; RETURN_WAIT_S when it does not."""
    client = tunnel.ends["client"].pid
    wanted_bytes = CARRIES_AGAIN * MBIT * 1e6 / 8 * RETURN_WINDOW_S
    samples = [(time.monotonic(), meter.received_bytes(client, line))]
    while (now := time.monotonic()) < restored + RETURN_WAIT_S:
        samples.append((now, meter.received_bytes(client, line)))
        while samples[0][0] < now - RETURN_WINDOW_S:
            samples.pop(0)
        if samples[-1][1] - samples[0][1] >= wanted_bytes:
            return now - restored
        time.sleep(SAMPLE_S)
    return RETURN_WAIT_S


BENCH = Bench(
    "failover",
    "A line dies silently during a transfer",
    f"2 × {MBIT} Mbit/s, 10 ms; one download (cubic) for {RUN_UP_S:.0f} s, then one line loses every frame "
    f"for {DEAD_S:.0f} s with its interface up, then carries again; the lines take turns. Silence is the "
    "longest time between two receive calls that brought bytes, on the one connection that must survive it "
    f"all. The line is back when it brings {CARRIES_AGAIN:.0%} of its rate over "
    f"{RETURN_WINDOW_S * 1e3:.0f} ms.",
    measure,
)
