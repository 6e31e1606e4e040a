"""Rekey every second under load: inner TCP retransmissions, beside the same load without."""

import contextlib
import threading
from collections.abc import Iterator, Sequence

from bench import meter
from bench.bonded import PREFIX, bonded
from bench.record import Bench, Outcome
from bondvpn.lab.shape import Line, twins
from bondvpn.lab.tunnel import PEER_ADDRESS, Tunnel

SECONDS = 6
REKEY_AFTER = "1s"
SAMPLE_S = 0.1
REKEYS_MIN = SECONDS - 2  # each takes a second and a handshake's round trip, and the first may be due late
# Lines and offered load. A flow that takes all it can get fills the tunnel's queue and loses there now and
# then, keys or not; one bounded below the lines' sum loses nothing: what is sent again is the keys' doing.
LOADS: dict[str, tuple[Sequence[Line], float]] = {
    "70 of 2 × 50 Mbit/s": (twins(2), 70e6),
    "500 Mbit/s on an unshaped line": ([Line("gbit")], 500e6),
}


def measure(runs: int) -> Outcome:
    outcome = Outcome()
    for name, (lines, load_bps) in LOADS.items():
        rekeys = outcome.figure(f"{name}: rekeys in {SECONDS} s", "count", at_least=REKEYS_MIN)
        again = outcome.figure(f"{name}: segments sent again, all runs together", "count", at_most=0)
        sent_again = 0
        with bonded(lines, prefix=PREFIX, rekey_after=REKEY_AFTER) as (lab, tunnel):
            for _ in range(runs):
                with _rekeys(tunnel) as seen:
                    result, used = meter.metered_tcp(
                        lab,
                        meter.pids(tunnel),
                        PEER_ADDRESS,
                        SECONDS,
                        congestion="cubic",
                        omit_s=0,
                        at_most_bps=load_bps,
                    )
                rekeys.add(seen[0])
                sent_again += result.retransmits
        again.add(sent_again, used)
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
    f"One upload (cubic) of {SECONDS} s, slow start included, bounded below what the lines carry, through a "
    f"tunnel with `rekey_after` of {REKEY_AFTER}. That keys did change is counted at the running process.",
    measure,
)
