"""One unshaped line, one TCP flow: how much the hot path carries, beside OpenVPN in the same namespaces."""

import contextlib

from bench import meter
from bench.bonded import bonded
from bench.peers import OpenVpn
from bench.record import Bench, Outcome
from bondvpn.lab.shape import Line
from bondvpn.lab.topology import Lab
from bondvpn.lab.tunnel import PEER_ADDRESS

OMIT_S = 1
SECONDS = 3
LINE = Line("gbit")
BPS_MIN = 1.5e9
TIMES_OPENVPN_MIN = 2.0
DIRECTIONS = {"up": False, "down": True}
# Interface names at the client and the server end, where what arrived is counted.
BONDVPN_DEVICES = ("bond0", "office0")
OPENVPN_DEVICES = ("ovpn0", "ovpn0")


def measure(runs: int) -> Outcome:
    outcome = Outcome()
    with contextlib.ExitStack() as stack:
        lab, tunnel = stack.enter_context(bonded([LINE]))
        contenders = {"bondvpn": (PEER_ADDRESS, meter.pids(tunnel), BONDVPN_DEVICES)}
        if (version := OpenVpn.version()) is None:
            outcome.failures.append("OpenVPN is absent (apt-get install openvpn): nothing to compare with")
        else:
            peer = stack.enter_context(OpenVpn(lab, LINE.name))
            contenders["OpenVPN"] = (OpenVpn.address, peer.processes, OPENVPN_DEVICES)
            outcome.notes.append(f"{version}: `openvpn {' '.join(peer.options)}`")
        rates = {
            (name, way): outcome.figure(
                f"{name}, {way}", "bit/s", at_least=BPS_MIN if name == "bondvpn" else None
            )
            for way in DIRECTIONS
            for name in contenders
        }
        costs = {
            (name, way): outcome.figure(f"{name}, {way}: CPU per GB, both ends", "s/GB")
            for name, way in rates
        }
        for _ in range(runs):
            for (name, way), rate in rates.items():
                address, processes, devices = contenders[name]
                bps, gigabytes, used = _one(lab, address, processes, devices, DIRECTIONS[way])
                rate.add(bps, used)
                costs[name, way].add((used["client"] + used["server"]) / gigabytes)
    if len(contenders) > 1:
        for way in DIRECTIONS:
            ratio = outcome.figure(f"bondvpn / OpenVPN, {way}", "times", at_least=TIMES_OPENVPN_MIN)
            for ours, theirs in zip(rates["bondvpn", way].runs, rates["OpenVPN", way].runs, strict=True):
                ratio.add(ours / theirs)
    return outcome


def _one(
    lab: Lab, address: str, processes: dict[str, int], devices: tuple[str, str], reverse: bool
) -> tuple[float, float, dict[str, float]]:
    """Goodput in bit/s, gigabytes carried (slow start included, as in the CPU seconds), CPU seconds."""
    receiver, device = (processes["client"], devices[0]) if reverse else (processes["server"], devices[1])
    before = meter.received_bytes(receiver, device)
    result, used = meter.metered_tcp(
        lab, processes, address, SECONDS, congestion="cubic", reverse=reverse, omit_s=OMIT_S
    )
    return result.bits_per_second, (meter.received_bytes(receiver, device) - before) / 1e9, used


BENCH = Bench(
    "gigabit",
    "One unshaped line: what the hot path carries",
    f"One iperf3 flow (cubic) of {SECONDS} s after {OMIT_S} s left out, over a veth pair without any "
    "shaping; both tunnel ends and both iperf3 share this machine's cores. Both tunnels are up all the time "
    "and are measured in turns.",
    measure,
)
