"""What the sending end has learned of its links, printed while a flow runs: for work on a case."""

import contextlib
import threading
import time
from collections.abc import Iterator

from bench import meter
from bench.flow import Flow
from bondvpn.lab.tunnel import Tunnel

EVERY_S = 0.5
_wanted = threading.Event()


def show() -> None:
    """From now on `states` prints."""
    _wanted.set()


@contextlib.contextmanager
def states(tunnel: Tunnel, end: str, *flows: Flow) -> Iterator[None]:
    """Print the state of the end's links and of the flows all along while the block runs, if `show` was
    called."""
    if not _wanted.is_set():
        yield
        return
    done = threading.Event()
    began = time.monotonic()

    def look() -> None:
        while not done.wait(EVERY_S):
            print(f"{time.monotonic() - began:5.1f} s", *(flow.sender for flow in flows))
            print("\n".join(describe(tunnel, end)), flush=True)

    watch = threading.Thread(target=look)
    watch.start()
    try:
        yield
    finally:
        done.set()
        watch.join()


def describe(tunnel: Tunnel, end: str) -> list[str]:
    """A line for the queue and one for each link."""
    lines = []
    for each in meter.status(tunnel, end).get("tunnels") or []:
        lines.append(f"    {end}: {each['queued_bytes'] / 1e3:.0f} kB queued, drops {each['drops']}")
        for link in each["links"]:
            lines.append(
                f"    {link['name']} {link['state']} {link['phase']} {(link['learned_bps'] or 0) / 1e6:.2f} "
                f"Mbit/s, in flight {link['in_flight_bytes'] / 1e3:.1f} of "
                f"{link['window_bytes'] / 1e3:.1f} kB, queue {link['queue_ms']} ms, "
                f"base RTT {link['base_rtt_ms']} ms, jitter {link['jitter_ms']} ms, lost {link['tx_lost']}, "
                f"resent {link['resent']} {link['reason']}"
            )
    return lines
