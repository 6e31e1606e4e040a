"""CPU time of processes while something is measured, and what the running bondvpn says of itself."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from bondvpn.errors import SystemFault
from bondvpn.lab.measure import TcpResult, tcp
from bondvpn.lab.topology import Lab
from bondvpn.lab.tunnel import Tunnel
from bondvpn.ui import control

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
SETTLE_WAIT_S = 10.0
CONTROL_NAMES = {"client": "bond0", "server": "server"}


def cpu_s(pid: int) -> float:
    """User and system time of a process, all its threads; the tick is 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def resident_bytes(pid: int) -> int:
    rows = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(row.split()[1]) * 1024 for row in rows if row.startswith("VmRSS:"))


def received_bytes(pid: int, interface: str) -> int:
    """What an interface in the namespace of a process has received (proc_pid_net(5))."""
    rows = Path(f"/proc/{pid}/net/dev").read_text().splitlines()
    return next(int(row.split()[1]) for row in rows if row.strip().startswith(f"{interface}:"))


def machine_s() -> float:
    """CPU seconds of the whole machine so far, for whatever and on all cores; what its host took too."""
    user, nice, system, _idle, _iowait, irq, softirq, steal = Path("/proc/stat").read_text().split()[1:9]
    return sum(int(ticks) for ticks in (user, nice, system, irq, softirq, steal)) / TICKS_PER_S


def children(pid: int) -> list[int]:
    """The processes that it started, in the order of their numbers (proc_pid_task(5))."""
    return sorted(int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


def core(pid: int) -> int | None:
    """The core a process runs on or is about to run on; None when it sleeps."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[36]) if fields[0] == "R" else None


@contextlib.contextmanager
def metered(lab: Lab, processes: Mapping[str, int]) -> Iterator[dict[str, float]]:
    """Measure those processes (name to pid) and the emulator, if there is one, while the block runs; the
    dictionary then holds CPU seconds by name."""

    def look() -> dict[str, float]:
        seen = {name: cpu_s(pid) for name, pid in processes.items()}
        return seen | ({"emulator": lab.counters()["cpu_s"]} if lab.emulator is not None else {})

    used: dict[str, float] = {}
    before = look()
    yield used
    used |= {name: round(after - before[name], 3) for name, after in look().items()}


def metered_tcp(
    lab: Lab, processes: Mapping[str, int], address: str, seconds: float, *, omit_s: int, **options: Any
) -> tuple[TcpResult, dict[str, float]]:
    """`measure.tcp`, and the CPU seconds of the processes, the emulator and iperf3, both its ends together;
    the omitted seconds included. iperf3's share covers its whole run, so omitted seconds too."""
    with metered(lab, processes) as used:
        result = tcp(lab, address, seconds, omit_s=omit_s, **options)
    used["iperf3"] = round(sum(result.cpu) * (seconds + omit_s), 3)
    return result, used


def pids(tunnel: Tunnel) -> dict[str, int]:
    """The processes of a tunnel: "client" and "server" to pid."""
    return {end: process.pid for end, process in tunnel.ends.items()}


def status(tunnel: Tunnel, end: str) -> dict[str, Any]:
    """What `bondvpn status --json` prints there, without an interpreter started for it."""
    path = tunnel.root / end / "run" / f"{CONTROL_NAMES[end]}.sock"
    return control.ask(path, "status") or {}


def link_states(tunnel: Tunnel, end: str) -> dict[str, str]:
    """State by line, of the only tunnel."""
    tunnels = status(tunnel, end).get("tunnels") or [{"links": []}]
    return {link["name"]: link["state"] for link in tunnels[0]["links"]}


def settle(lab: Lab, tunnel: Tunnel) -> None:
    """Wait until both ends use every line, and a second more for path MTU and rates to be found."""
    wanted = {line.name: "active" for line in lab.lines}
    wait(
        lambda: all(link_states(tunnel, end) == wanted for end in ("client", "server")),
        "every line is active at both ends",
    )
    time.sleep(1)


def wait(look: Callable[[], bool], what: str, within_s: float = SETTLE_WAIT_S) -> None:
    """Raises SystemFault when `look` is not true in time."""
    give_up_at = time.monotonic() + within_s
    while not look():
        if time.monotonic() > give_up_at:
            raise SystemFault(f"not within {within_s:g} s: {what}")
        time.sleep(0.05)
