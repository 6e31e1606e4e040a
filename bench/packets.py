"""UDP packets one by one, without the sender's offload: the highest rate at next to no loss."""

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench import meter
from bench.contenders import OURS, Contender, ratios
from bench.gigabit import LINE, OPENVPN, session
from bench.record import Bench, Figure, Outcome
from bench.search import FINE, TRIES, highest
from bondvpn.errors import SystemFault
from bondvpn.lab.topology import Lab

SCRIPT = Path(__file__).with_name("udpload.py")
SECONDS = 0.8
DRAIN_S = 0.1
LOSS_MAX = 0.005
SENT_SHARE_MIN = 0.8  # of what was asked for: a source further behind offers no even rate
START_PACKETS_PER_S = 40_000
RESUME = 0.75  # of the last run's figure, where the next run's search starts
BARE = "no tunnel"
# Payload bytes: what each is shown in, and bondvpn's least multiple of OpenVPN's rate.
SIZES = {1300: ("bit/s", 2.0), 200: ("packet/s", 2.5)}

_ports = iter(range(7001, 65_000))


@dataclass(frozen=True, slots=True)
class Probe:
    """One trial at one rate."""

    asked_per_s: float
    sent: int
    received: int
    lasted_s: float
    cpu_s: dict[str, float]

    @property
    def passed(self) -> bool:
        return (
            self.sent >= SENT_SHARE_MIN * self.asked_per_s * self.lasted_s
            and self.received >= (1 - LOSS_MAX) * self.sent
        )

    @property
    def packets_per_s(self) -> float:
        return self.received / self.lasted_s


def measure(runs: int) -> Outcome:
    outcome = Outcome()
    with session(outcome) as tunnels:
        lab = tunnels[0].lab
        contenders = [*tunnels, Contender(BARE, lab, lab.gateway(LINE.name), {})]
        for size, (unit, least) in SIZES.items():
            figures = {each.name: outcome.figure(f"{each.name}, {size} B", unit) for each in contenders}
            starts: dict[str, float] = {}
            for run in range(runs):
                # What source and sink can do by themselves is no contest: once is enough.
                for each in contenders if run == 0 else tunnels:
                    _search(figures[each.name], each, size, starts)
            if OPENVPN in figures:
                faster = outcome.figure(f"{OURS} / {OPENVPN}, {size} B", "times", at_least=least)
                ratios(faster, figures[OURS], figures[OPENVPN])
    return outcome


def _search(figure: Figure, contender: Contender, size: int, starts: dict[str, float]) -> None:
    """One run's figure; `starts` remembers where the next one's search begins."""
    start = starts.get(contender.name, START_PACKETS_PER_S)
    passed: list[Probe] = []

    def trial(rate: float) -> Probe:
        tried = probe(contender, size, rate)
        if tried.passed:
            passed.append(tried)
        return tried

    found = highest(trial, start)
    if found is None:
        figure.add(0.0)
        return
    starts[contender.name] = found[0] * RESUME
    # Near the machine's end the source sends less than it is asked to; what it sent is the rate.
    best = max((each for each in passed if each.asked_per_s <= found[0]), key=lambda each: each.packets_per_s)
    in_unit = size * 8 if figure.unit == "bit/s" else 1
    figure.add(best.packets_per_s * in_unit, best.cpu_s, best.received * size / 1e9)


def probe(contender: Contender, size: int, packets_per_s: float, seconds: float = SECONDS) -> Probe:
    """Send up through the tunnel at that rate. Raises SystemFault when source or sink fails."""
    port = str(next(_ports))
    sink = _start(contender.lab, "srv", "sink", contender.address, port)
    try:
        if (sink.stdout is None) or sink.stdout.readline().strip() != "ready":
            raise SystemFault(f"the UDP sink did not start: {sink.communicate()[1]}")
        before = meter.machine_s()
        with meter.metered(contender.lab, contender.processes) as used:
            source = _start(
                contender.lab,
                "gw",
                "send",
                contender.address,
                port,
                str(size),
                str(packets_per_s),
                str(seconds),
            )
            sent = _report(source)
            time.sleep(DRAIN_S)
        received = _report(sink)
        machine_s = meter.machine_s() - before
    finally:
        sink.kill()
        sink.wait()
    used |= {"source": round(sent["cpu_s"], 3), "sink": round(received["cpu_s"], 3)}
    used["others"] = round(max(0.0, machine_s - sum(used.values())), 3)
    return Probe(packets_per_s, int(sent["sent"]), int(received["received"]), sent["lasted_s"], used)


def _start(lab: Lab, where: str, *words: str) -> "subprocess.Popen[str]":
    return lab.popen(
        where,
        [sys.executable, "-I", "-S", str(SCRIPT), *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _report(process: "subprocess.Popen[str]") -> Mapping[str, float]:
    """Close its standard input, wait for its end, read what it printed."""
    printed, complaint = process.communicate()
    try:
        report: dict[str, float] = json.loads(printed)
    except ValueError:
        raise SystemFault(f"{SCRIPT.name}: {complaint.strip()}") from None
    return report


BENCH = Bench(
    "packets",
    "UDP packets one by one",
    f"The highest rate up at a loss below {LOSS_MAX:.1%}, searched by steps of 1.4 and then by bisection to "
    f"{FINE - 1:.0%}, the same for each; a probe lasts {SECONDS:g} s, and a rate counts when most of {TRIES} "
    "pass. The source (`bench/udpload.py`) sends one packet a call, without GSO or sendmmsg, spread "
    f"evenly in time; the sink takes them one by one. Both run on this machine's cores too: “{BARE}” is "
    "what they carry over the bare veth. Payload sizes; rates are of payload.",
    measure,
    plotted="packet/s",
    quick=False,
)
