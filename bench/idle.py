"""What a tunnel that carries nothing costs."""

import contextlib
import time

from bench import meter
from bench.bonded import PREFIX, bonded
from bench.record import Bench, Outcome
from bondvpn.lab.shape import twins

SECONDS = 30
CORE_SHARE_MAX = 0.005
RESIDENT_BYTES_MAX = 90e6


def measure(runs: int) -> Outcome:
    outcome = Outcome()
    ends = ("client", "server")
    shares = {
        end: outcome.figure(f"{end}: share of a core", "fine share", at_most=CORE_SHARE_MAX) for end in ends
    }
    resident = {
        end: outcome.figure(f"{end}: resident memory", "bytes", at_most=RESIDENT_BYTES_MAX) for end in ends
    }
    with contextlib.ExitStack() as stack:
        tunnels = [stack.enter_context(bonded(twins(2), prefix=f"{PREFIX}{run}"))[1] for run in range(runs)]
        before = [
            {end: meter.cpu_s(process.pid) for end, process in tunnel.ends.items()} for tunnel in tunnels
        ]
        started = time.monotonic()
        time.sleep(SECONDS)
        for tunnel, used_before in zip(tunnels, before, strict=True):
            lasted_s = time.monotonic() - started
            for end, process in tunnel.ends.items():
                used_s = meter.cpu_s(process.pid) - used_before[end]
                shares[end].add(used_s / lasted_s, {end: used_s})
                resident[end].add(meter.resident_bytes(process.pid))
    return outcome


BENCH = Bench(
    "idle",
    "Idle",
    f"A tunnel over two lines, up and carrying nothing for {SECONDS} s. The runs are tunnels of their own, "
    "side by side.",
    measure,
)
