"""Rekey every second under load: inner TCP retransmissions, beside the same load without."""

import contextlib
import threading
from collections.abc import Iterator, Sequence

from bench import meter
from bench.bonded import PREFIX, bonded
from bench.record import Bench, Outcome
from bondvpn.lab.shape import Line, twins
from bondvpn.lab.tunnel import PEER_ADDRESS, Tunnel

SECONDS = 4
# Slow start overshoots the TAP's queue on slow lines and loses there, keys or not (measured: 130 to 300
# segments sent again, all within 1.6 s), which would drown what a change of keys loses.
OMIT_S = 2
REKEY_AFTER = "1s"
SAMPLE_S = 0.1
# Each takes a second and a handshake's round trip, and the first may be due late.
REKEYS_MIN = SECONDS + OMIT_S - 1
LOADS: dict[str, Sequence[Line]] = {"2 × 50 Mbit/s, 10 ms": twins(2), "unshaped": [Line("gbit")]}


def measure(runs: int) -> Outcome:
    outcome = Outcome()
    for name, lines in LOADS.items():
        rekeys = outcome.figure(f"{name}: rekeys in {SECONDS + OMIT_S} s", "count", at_least=REKEYS_MIN)
        without = outcome.figure(f"{name}: segments sent again, no rekey", "count")
        with_rekey = outcome.figure(f"{name}: segments sent again, rekey every second", "count")
        caused = outcome.figure(f"{name}: sent again because of rekeys", "count", at_most=0)
        with (
            bonded(lines, prefix=PREFIX) as (lab, tunnel),
            bonded(lines, prefix=f"{PREFIX}r", rekey_after=REKEY_AFTER) as (rekey_lab, rekey_tunnel),
        ):
            for _ in range(runs):
                result, used = meter.metered_tcp(
                    lab, meter.pids(tunnel), PEER_ADDRESS, SECONDS, congestion="cubic", omit_s=OMIT_S
                )
                without.add(result.retransmits, used)
                with _rekeys(rekey_tunnel) as seen:
                    result, used = meter.metered_tcp(
                        rekey_lab,
                        meter.pids(rekey_tunnel),
                        PEER_ADDRESS,
                        SECONDS,
                        congestion="cubic",
                        omit_s=OMIT_S,
                    )
                rekeys.add(seen[0])
                with_rekey.add(result.retransmits, used)
                caused.add(max(0, with_rekey.runs[-1] - without.runs[-1]))
    return outcome


@contextlib.contextmanager
def _rekeys(tunnel: Tunnel) -> Iterator[list[int]]:
    """Count new keys while the block runs, by the age of the last handshake; the list then holds it."""
    counted: list[int] = []
    done = threading.Event()

    def look() -> None:
        count, age_before = 0, float("inf")
        while not done.wait(SAMPLE_S):
            age = meter.status(tunnel, "client")["tunnels"][0]["handshake_age_s"]
            count += age < age_before != float("inf")
            age_before = age
        counted.append(count)

    watch = threading.Thread(target=look)
    watch.start()
    try:
        yield counted
    finally:
        done.set()
        watch.join()


BENCH = Bench(
    "rekey",
    "New keys every second under load",
    f"One upload (cubic) of {SECONDS} s after {OMIT_S} s of slow start left out (it overshoots the TAP's "
    f"queue with or without), through a tunnel with `rekey_after` of {REKEY_AFTER} and through one with the "
    "default of 120 s, in turns. That keys did change is counted at the running process.",
    measure,
)
