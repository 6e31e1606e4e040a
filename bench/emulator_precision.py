"""How precise the link emulator is, and what it costs: real traffic in namespaces, printed as Markdown.

    python bench/emulator_precision.py [--seconds 6]

    <prefix>-gw === line a, line b, ..., probe === <prefix>-wire [one emulator] === <prefix>-srv

Per case all lines but `probe` are saturated downwards at once, first by one cubic flow each, then by UDP at
1.3 times the line's rate. `probe` carries one small datagram every 20 ms: its delays, less the nominal delay
and its own sending time, are the emulator's error. Needs root, iperf3 and two idle cores.
"""

import argparse
import contextlib
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bondvpn.lab.measure import cpu_share, one_way_delays, tcp, udp
from bondvpn.lab.shape import DEMO, Line, line, twins
from bondvpn.lab.topology import Lab

CASES: dict[str, Sequence[Line]] = {
    "16 + 50 + 30": DEMO,
    "2 × 50": twins(2),
    "3 × 50": twins(3),
}
PROBE = line("probe", up_mbit=100, down_mbit=100, delay_s=0.010)
PROBE_BYTES = 64
PROBE_FRAME_BYTES = PROBE_BYTES + 42  # UDP 8, IPv4 20, Ethernet 14
PROBE_INTERVAL_S = 0.02
TCP_SHARE = 1448 / 1514  # of a full frame, with timestamps
UDP_SHARE = 1472 / 1514
OMIT_S = 2


@dataclass(frozen=True)
class Load:
    """What one kind of traffic showed."""

    rates: list[float]
    """Per line: goodput over what the line's rate allows."""
    errors_s: list[float]
    frames_per_s: float
    cpu: float


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--seconds", type=float, default=6, help="length of each measurement")
    seconds = arguments.parse_args().seconds
    print(f"{machine()}; {seconds:g} s each\n")
    print("| lines, Mbit/s | traffic | rate / nominal, per line | delay error, ms: median (p1 … p99, max) "
          "| frames/s | emulator, share of a core |")  # fmt: skip
    print("|---|---|---|---|---|---|")
    for name, lines in CASES.items():
        with Lab([*lines, PROBE], prefix="bvbench") as lab:
            report(name, "none", measure(lab, [], None, seconds))
            report(name, "TCP cubic", measure(lab, lines, saturate_tcp, seconds))
            report(name, "UDP × 1.3", measure(lab, lines, saturate_udp, seconds))


def measure(
    lab: Lab, lines: Sequence[Line], saturate: Callable[[Lab, Line, float], float] | None, seconds: float
) -> Load:
    """Saturate the lines at once, and probe while they are."""
    with ThreadPoolExecutor(max_workers=8) as pool:
        flows = [pool.submit(saturate, lab, each, seconds) for each in lines] if saturate else []
        if flows:
            time.sleep(OMIT_S)
        before, started = frames(lab), time.monotonic()
        with cpu_share(lab) as cpu, undisturbed():
            delays = one_way_delays(
                lab,
                PROBE.name,
                "down",
                count=round((seconds - 0.5) / (PROBE_INTERVAL_S + 0.011)),
                interval_s=PROBE_INTERVAL_S,
                payload_bytes=PROBE_BYTES,
            )
        carried = (frames(lab) - before) / (time.monotonic() - started)
        shape = PROBE.down
        nominal_s = shape.delay_s + PROBE_FRAME_BYTES * 8 / shape.rate_bps if shape and shape.rate_bps else 0
        return Load(
            rates=[flow.result() for flow in flows],
            errors_s=[delay - nominal_s for delay in delays],
            frames_per_s=carried,
            cpu=cpu[0],
        )


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Let the calling thread go before all others, the emulator too: a probe that waits for a processor
    between its stamp and its send call would count as the line's delay."""
    os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(2))
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def saturate_tcp(lab: Lab, each: Line, seconds: float) -> float:
    result = tcp(lab, lab.gateway(each.name), seconds, congestion="cubic", reverse=True, omit_s=OMIT_S)
    return result.bits_per_second / (down_bps(each) * TCP_SHARE)


def saturate_udp(lab: Lab, each: Line, seconds: float) -> float:
    offered = 1.3 * down_bps(each) * UDP_SHARE
    result = udp(lab, lab.gateway(each.name), seconds + OMIT_S, bits_per_second=offered, reverse=True)
    return result.bits_per_second / (down_bps(each) * UDP_SHARE)


def down_bps(each: Line) -> float:
    if each.down is None or each.down.rate_bps is None:
        raise ValueError(f"line {each.name} has no rate to hold it to")
    return each.down.rate_bps


def frames(lab: Lab) -> int:
    return sum(way["frames_out"] for pair in lab.counters()["lines"].values() for way in pair.values())


def report(case: str, traffic: str, load: Load) -> None:
    errors = sorted(error * 1e3 for error in load.errors_s)
    spread = f"{statistics.median(errors):+.2f} ({at(errors, 0.01):+.2f} … {at(errors, 0.99):+.2f}, "
    spread += f"{errors[-1]:+.2f})"
    rates = ", ".join(f"{rate:.4f}" for rate in load.rates) or "–"
    print(
        f"| {case} | {traffic} | {rates} | {spread} | {load.frames_per_s:.0f} | {load.cpu:.3f} |", flush=True
    )


def at(ordered: list[Any], share: float) -> Any:
    return ordered[round(share * (len(ordered) - 1))]


def machine() -> str:
    """Kernel, processor and commit, as every recorded figure names them."""
    cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((row.split(":")[1].strip() for row in cpuinfo if row.startswith("model name")), "?")
    cores = sum(row.startswith("processor") for row in cpuinfo)
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    ).stdout.strip()
    return (
        f"Linux {platform.release()}, {cores} × {model}, Python {platform.python_version()}, commit {commit}"
    )


if __name__ == "__main__":
    main()
