"""The tunnels of one session, bondvpn and its peers, all up at once and measured in turns."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from bench import meter
from bench.peers import Peer
from bench.record import Figure, Outcome
from bondvpn.lab.measure import TcpResult, tcp
from bondvpn.lab.topology import Lab
from bondvpn.lab.tunnel import PEER_ADDRESS, Tunnel

OURS = "bondvpn"


@dataclass(frozen=True, slots=True)
class Contender:
    """A tunnel to be measured."""

    name: str
    lab: Lab
    address: str
    """The server's, inside."""
    processes: Mapping[str, int]
    """Name, which begins with "client" or "server", to pid."""


@dataclass(frozen=True, slots=True)
class Carried:
    """What one measurement of TCP showed."""

    bits_per_second: float
    """Goodput at the receivers, slow start left out."""
    gigabytes: float
    """Payload in all, slow start included, as in the CPU seconds."""
    cpu_s: dict[str, float]
    """By process; "iperf3" is all of its processes together, "others" what the machine was busy with
    besides, which spoils a run when it is much."""

    @property
    def tunnel_cost(self) -> float:
        """CPU seconds per GB of the tunnel's processes together."""
        ends = (used for name, used in self.cpu_s.items() if name.startswith(("client", "server")))
        return sum(ends) / self.gigabytes


def ours(lab: Lab, tunnel: Tunnel, name: str = OURS) -> Contender:
    """bondvpn, over all lines of the lab."""
    return Contender(name, lab, PEER_ADDRESS, meter.pids(tunnel))


@contextlib.contextmanager
def against(lab: Lab, peers: Sequence[Peer], outcome: Outcome) -> Iterator[list[Contender]]:
    """Start the peers; what they are goes to the outcome's notes, and those absent to its failures."""
    with contextlib.ExitStack() as stack:
        present = []
        for peer in peers:
            if (version := peer.version()) is None:
                outcome.failures.append(f"{peer.name} is absent (apt-get install {peer.package})")
                continue
            stack.enter_context(peer)
            outcome.notes.append(f"{peer.name}: {version}, `{peer.command}`")
            present.append(Contender(peer.name, lab, peer.address, peer.processes))
        yield present


def carry(
    contender: Contender, way: str, seconds: float, *, omit_s: int, congestion: str = "cubic", **options: Any
) -> Carried:
    """TCP through it, `way` "up", "down" or "both"; `options` as for `lab.measure.tcp`."""
    ways = ("up", "down") if way == "both" else (way,)
    flows = [(contender.address, direction) for direction in ways]
    return carry_all(
        contender.lab,
        contender.processes,
        flows,
        seconds,
        omit_s=omit_s,
        congestion=congestion,
        **options,
    )


def carry_all(
    lab: Lab,
    processes: Mapping[str, int],
    flows: Sequence[tuple[str, str]],
    seconds: float,
    *,
    omit_s: int,
    congestion: str = "cubic",
    **options: Any,
) -> Carried:
    """Several measurements at once, each an address inside a tunnel and "up" or "down"."""

    def one(flow: tuple[str, str]) -> TcpResult:
        address, way = flow
        reverse = way == "down"
        return tcp(lab, address, seconds, congestion=congestion, reverse=reverse, omit_s=omit_s, **options)

    before = meter.machine_s()
    with meter.metered(lab, processes) as used, ThreadPoolExecutor(len(flows)) as pool:
        results = list(pool.map(one, flows))
    machine_s = meter.machine_s() - before
    used["iperf3"] = round(sum(sum(result.cpu) for result in results) * (seconds + omit_s), 3)
    used["others"] = round(max(0.0, machine_s - sum(used.values())), 3)
    total_bytes = sum(result.total_bytes for result in results)
    return Carried(sum(result.bits_per_second for result in results), total_bytes / 1e9, used)


def ratios(figure: Figure, numerator: Figure, denominator: Figure) -> None:
    """Add what each pair of runs, taken one after the other, gives."""
    for ours_, theirs in zip(numerator.runs, denominator.runs, strict=True):
        figure.add(ours_ / theirs if theirs else float("inf"))


def against_fastest(figure: Figure, numerator: Figure, others: Sequence[Figure]) -> None:
    """Add each run's ratio to the fastest of the others in the same run."""
    for run, value in enumerate(numerator.runs):
        figure.add(value / max(other.runs[run] for other in others))
