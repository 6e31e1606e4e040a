"""One TCP flow over three unshaped lines: what bonding itself costs, and the memory it takes."""

import contextlib
import threading
from collections.abc import Iterator, Mapping

from bench import meter
from bench.bonded import PREFIX, bonded
from bench.contenders import Contender, against, carry, ours, ratios
from bench.peers import Bundle
from bench.record import Bench, Figure, Outcome
from bondvpn.lab.shape import Line

OMIT_S = 1
SECONDS = 3
LINES = (Line("a"), Line("b"), Line("c"))
SPEED = "10gbit"  # told to `weighted`, which shares by it; more than one core seals
SCHEDULERS = {"weighted": SPEED, "adaptive": None}
BPS_MIN = 2.4e9
RESIDENT_BYTES_MAX = 120e6
SAMPLE_S = 0.1
ENDS = ("client", "server")
WAYS = ("up", "down")


def measure(runs: int) -> Outcome:
    outcome = Outcome()
    with contextlib.ExitStack() as stack:
        mine: list[Contender] = []
        for scheduler, speed in SCHEDULERS.items():
            settings = {"scheduler": scheduler, "unshaped_speed": speed}
            lab, tunnel = stack.enter_context(bonded(LINES, prefix=f"{PREFIX}{scheduler[0]}", **settings))
            mine.append(ours(lab, tunnel, f"bondvpn {scheduler}"))
        lab = mine[0].lab
        bundle = stack.enter_context(against(lab, [Bundle(lab, LINES[0].name, LINES[1].name)], outcome))
        rates = {
            (each.name, way): outcome.figure(
                f"{each.name}, {way}", "bit/s", at_least=BPS_MIN if each in mine else None
            )
            for way in WAYS
            for each in (*mine, *bundle)
        }
        resident = {
            (each.name, end): outcome.figure(
                f"{each.name}: resident memory under load, {end}", "bytes", at_most=RESIDENT_BYTES_MAX
            )
            for each in mine
            for end in ENDS
        }
        for _ in range(runs):
            for each in (*mine, *bundle):
                _measure_one(each, rates, resident)
    for each in bundle:
        for way in WAYS:
            times = outcome.figure(f"{mine[0].name} / {each.name}, {way}", "times")
            ratios(times, rates[mine[0].name, way], rates[each.name, way])
    return outcome


def _measure_one(
    contender: Contender,
    rates: dict[tuple[str, str], Figure],
    resident: dict[tuple[str, str], Figure],
) -> None:
    with peak_resident(contender.processes) as peak:
        for way in WAYS:
            carried = carry(contender, way, SECONDS, omit_s=OMIT_S)
            rates[contender.name, way].add(carried.bits_per_second, carried.cpu_s, carried.gigabytes)
    for end in ENDS:
        if (contender.name, end) in resident:
            resident[contender.name, end].add(peak[end])


@contextlib.contextmanager
def peak_resident(processes: Mapping[str, int]) -> Iterator[dict[str, int]]:
    """Look at the resident memory of the processes all along; the dictionary has the most of each, bytes."""
    peak = {name: meter.resident_bytes(pid) for name, pid in processes.items()}
    done = threading.Event()

    def look() -> None:
        while not done.wait(SAMPLE_S):
            for name, pid in processes.items():
                peak[name] = max(peak[name], meter.resident_bytes(pid))

    watch = threading.Thread(target=look)
    watch.start()
    try:
        yield peak
    finally:
        done.set()
        watch.join()


BENCH = Bench(
    "three-unshaped",
    "Three unshaped lines: one TCP flow",
    f"One iperf3 flow (cubic) of {SECONDS} s after {OMIT_S} s left out, over three veth pairs without "
    f"shaping; `weighted` is told {SPEED} for each line, `adaptive` no speed at all. The peer bundles two "
    "OpenVPN tunnels, a line each, packet by packet as eql did. Resident memory is the most seen while "
    "both flows ran, all of it counted: interpreter and shared libraries too.",
    measure,
    plotted="bit/s",
    quick=False,
)
