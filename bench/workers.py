"""Several clients on one server: what more of them cost, and what worker processes are for."""

import contextlib
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from bench import meter
from bench.bonded import PREFIX
from bench.contenders import carry_all, ratios
from bench.record import Bench, Outcome
from bondvpn.errors import SystemFault
from bondvpn.lab.shape import Line
from bondvpn.lab.topology import Lab
from bondvpn.lab.tunnel import Tunnel, peer_address, write_configs

CLIENTS = 8
WORKERS = (1, 2)
ACTIVE = (1, 2, 4, 8)
RATE_BPS = 40e6  # of each client: eight use half of two cores; of 60e6 0.8, with busy neighbours all
SECONDS = 4
OMIT_S = 1
BUSY = 2  # clients that send all they can; workers take clients in turns, so each worker has one
TIMES_MAX = 1.10
CARRIED_MIN = 0.95
START_WAIT_S = 20.0
SAMPLE_S = 0.002
BALANCE_MIN = 0.7
APART_MIN = 0.3


def measure(runs: int) -> Outcome:
    outcome = Outcome()
    with contextlib.ExitStack() as stack:
        servers = {workers: stack.enter_context(_clients(workers)) for workers in WORKERS}
        costs = {
            (workers, active): outcome.figure(
                f"{_name(workers)}, {active} of {CLIENTS} clients at {RATE_BPS / 1e6:.0f} Mbit/s: "
                "server's CPU per GB",
                "s/GB",
            )
            for workers in WORKERS
            for active in ACTIVE
        }
        rates = {
            workers: outcome.figure(f"{_name(workers)}, {BUSY} clients as fast as it goes, sum", "bit/s")
            for workers in WORKERS
        }
        balance = outcome.figure("the two workers' CPU seconds, less / more", "times", at_least=BALANCE_MIN)
        apart = outcome.figure(
            "both workers running or about to, on different cores", "share", at_least=APART_MIN
        )
        for _ in range(runs):
            for (workers, active), cost in costs.items():
                lab, processes = servers[workers]
                flows = [(peer_address(number + 1), "up") for number in range(active)]
                carried = carry_all(lab, processes, flows, SECONDS, omit_s=0, at_most_bps=RATE_BPS)
                if carried.bits_per_second < CARRIED_MIN * RATE_BPS * active:
                    outcome.failures.append(
                        f"{cost.name}: {carried.bits_per_second / 1e6:.0f} Mbit/s carried"
                    )
                used = _summed(carried.cpu_s)
                cost.add(_of_server(used) / carried.gigabytes, used, carried.gigabytes)
            for workers, rate in rates.items():
                lab, processes = servers[workers]
                flows = [(peer_address(number + 1), "up") for number in range(BUSY)]
                with _apart([pid for name, pid in processes.items() if "worker" in name]) as seen:
                    carried = carry_all(lab, processes, flows, SECONDS, omit_s=OMIT_S)
                rate.add(carried.bits_per_second, _summed(carried.cpu_s), carried.gigabytes)
                if workers > 1:
                    used = [value for name, value in carried.cpu_s.items() if "worker" in name]
                    balance.add(min(used) / max(used))
                    apart.add(seen[0])
    for workers in WORKERS:
        most, least = max(ACTIVE), min(ACTIVE)
        name = f"{_name(workers)}, {most} clients / {least} client: server's CPU per GB"
        ratios(outcome.figure(name, "times", at_most=TIMES_MAX), costs[workers, most], costs[workers, least])
    return outcome


@contextlib.contextmanager
def _clients(workers: int) -> Iterator[tuple[Lab, dict[str, int]]]:
    """A server of that many workers with all its clients connected, over one unshaped line; the processes,
    with those of the server in order of their workers."""
    line = Line("gbit")
    with (
        tempfile.TemporaryDirectory(prefix="bondvpn-bench-workers-") as directory,
        Lab([line], prefix=f"{PREFIX}w{workers}") as lab,
    ):
        configs = write_configs(lab, Path(directory), clients=CLIENTS, workers=workers, scheduler="adaptive")
        with Tunnel(lab, configs) as tunnel:
            for number in range(2, CLIENTS + 1):
                tunnel.start(f"client{number}")
            for number in range(1, CLIENTS + 1):
                tunnel.await_echo(START_WAIT_S, number)
            processes = meter.pids(tunnel)
            under = meter.children(processes["server"])
            if len(under) != (workers if workers > 1 else 0):
                raise SystemFault(f"a server of {workers} workers has {len(under)} child processes")
            yield lab, processes | {f"server worker {i + 1}": pid for i, pid in enumerate(under)}


@contextlib.contextmanager
def _apart(pids: Sequence[int]) -> Iterator[list[float]]:
    """Look all along which cores the processes run on; the list then holds the share of looks at which all
    did, each on another one. 0 for fewer than two."""
    share: list[float] = []
    done = threading.Event()

    def look() -> None:
        looks = found = 0
        while not done.wait(SAMPLE_S):
            cores = [meter.core(pid) for pid in pids]
            looks += 1
            found += len(pids) > 1 and None not in cores and len(set(cores)) == len(pids)
        share.append(found / max(looks, 1))

    watch = threading.Thread(target=look)
    watch.start()
    try:
        yield share
    finally:
        done.set()
        watch.join()


def _summed(cpu_s: Mapping[str, float]) -> dict[str, float]:
    """The clients in one sum, all else by process."""
    clients = [name for name in cpu_s if name.startswith("client")]
    others = {name: used for name, used in cpu_s.items() if name not in clients}
    return others | {"clients": sum(cpu_s[name] for name in clients)}


def _of_server(cpu_s: Mapping[str, float]) -> float:
    return sum(used for name, used in cpu_s.items() if name.startswith("server"))


def _name(workers: int) -> str:
    return f"{workers} worker{'s' * (workers > 1)}"


BENCH = Bench(
    "workers",
    "Several clients on one server",
    f"{CLIENTS} clients, processes with a port each, over one veth pair without shaping to one server, all "
    f"up all the time; a server of 1 and one of {max(WORKERS)} worker processes side by side. First 1 to "
    f"{CLIENTS} of the clients send at {RATE_BPS / 1e6:.0f} Mbit/s each (TCP cubic, {SECONDS} s): CPU "
    f"seconds per GB are of the server's processes. Then {BUSY} clients, which different workers serve, "
    "send all they can. With both ends and iperf3 on two cores a server's workers cannot have both to "
    f"themselves: that they run at once, on different cores, is seen by looking every {SAMPLE_S * 1e3:g} ms.",
    measure,
    quick=False,
)
