"""A bonded network on one machine: a gateway and a server, joined by emulated lines.

    <prefix>-gw                      <prefix>-wire                       <prefix>-srv
    dsl    10.64.1.2/24 ===veth=== g1 [emulator] s1 ===veth===   dsl    10.64.1.1/24
    cable  10.64.2.2/24 ===veth=== g2 [emulator] s2 ===veth===   cable  10.64.2.1/24   lo 198.51.100.1/32
    gbit   10.64.3.2/24 =========================veth=========   gbit   10.64.3.1/24   (unshaped: no emulator)

Interfaces carry their line's name at both ends. The neighbours of each line are permanent entries, so that a
cut line is silent from the first moment and carries again from the first moment.
"""

import contextlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from pyroute2 import IPRoute

from bondvpn.errors import ConfigError, SystemFault
from bondvpn.lab import namespace
from bondvpn.lab.emulator import ask
from bondvpn.lab.shape import Line, Shape

SERVER_ADDRESS = "198.51.100.1"  # TEST-NET-2, RFC 5737
RUNTIME_DIR = Path("/run/bondvpn-lab")
START_WAIT_S = 10.0
STOP_WAIT_S = 3.0
ROUTE_METRIC = 4_000  # far behind whatever the program under test installs
INTERFACE_NAME_MAX = 15  # IFNAMSIZ, linux/if.h

_SYSCTLS = {
    "ipv4/conf/all/rp_filter": "2",  # loose: the one server address is reached by every line
    "ipv4/conf/default/rp_filter": "2",
    "ipv4/tcp_no_metrics_save": "1",  # or one run's cwnd would seed the next
}
_WIRE_SYSCTLS = {"ipv6/conf/all/disable_ipv6": "1", "ipv6/conf/default/disable_ipv6": "1"}


class Lab:
    """The three namespaces, their lines and the processes in them; a context manager.

    Entering removes what a killed run of the same prefix left; leaving removes everything. Raises ConfigError
    for names that cannot be, SystemFault where the kernel or the emulator fails.
    """

    def __init__(self, lines: Sequence[Line], prefix: str = "bv") -> None:
        names = [line.name for line in lines]
        wrong = [f"line {name!r}: 1 to {INTERFACE_NAME_MAX} characters, not 'lo'" for name in names
                 if not 0 < len(name) <= INTERFACE_NAME_MAX or name == "lo"]  # fmt: skip
        if len(set(names)) != len(names):
            wrong.append(f"lines {', '.join(names)}: each name once")
        if wrong:
            raise ConfigError(wrong)
        self.lines = tuple(lines)
        self.prefix = prefix
        self._directory = RUNTIME_DIR / prefix
        self._control = self._directory / "control.sock"
        self._children: list[subprocess.Popen[Any]] = []
        self.emulator: subprocess.Popen[Any] | None = None

    def __enter__(self) -> Self:
        self._clear()
        try:
            self._build()
        except BaseException:
            self._clear()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._clear()

    def index(self, line: str) -> int:
        """1 for the first line: the i of 10.64.i.0/24."""
        for i, known in enumerate(self.lines, 1):
            if known.name == line:
                return i
        raise ConfigError(
            [f"line {line!r}: not here (lines: {', '.join(known.name for known in self.lines)})"]
        )

    def address(self, line: str) -> str:
        """The gateway's address on a line."""
        return f"10.64.{self.index(line)}.2"

    def gateway(self, line: str) -> str:
        """The server's address on a line: the next hop of that uplink."""
        return f"10.64.{self.index(line)}.1"

    def namespace(self, where: str) -> str:
        """The full name of "gw", "wire" or "srv"."""
        if where not in ("gw", "wire", "srv"):
            raise ConfigError([f"place {where!r}: gw, wire or srv"])
        return f"{self.prefix}-{where}"

    def inside(self, where: str, argv: Sequence[str]) -> list[str]:
        """The command line that runs `argv` there, and dies when the thread that started it does.

        One whose parent is killed before `argv` itself runs (a few ms) stays for the next lab to clear.
        """
        return ["ip", "netns", "exec", self.namespace(where), "setpriv", "--pdeathsig", "KILL", *argv]

    def popen(self, where: str, argv: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start a process there; it is killed at the end of the lab. `options` as for subprocess.Popen."""
        child = subprocess.Popen(self.inside(where, argv), **options)
        self._children.append(child)
        return child

    def run(
        self, where: str, argv: Sequence[str], *, check: bool = False, **options: Any
    ) -> subprocess.CompletedProcess[Any]:
        """Run a command there to its end. `options` as for subprocess.run."""
        return subprocess.run(self.inside(where, argv), check=check, **options)

    def set(self, line: str, direction: str | None = None, **changes: Any) -> None:
        """Change figures of a line in mid-traffic: any field of Shape; `direction` "up", "down" or both."""
        ask(self._control, {"set": line, "direction": direction, "changes": changes})

    def cut(self, line: str, direction: str | None = None) -> None:
        """Silence a line; its interfaces stay up, as behind a modem that lost its signal."""
        ask(self._control, {"cut": line, "direction": direction})

    def restore(self, line: str, direction: str | None = None) -> None:
        ask(self._control, {"restore": line, "direction": direction})

    def counters(self) -> dict[str, Any]:
        """{"cpu_s": used by the emulator, "lines": {name: {"up" | "down": as below}}}.

        A direction has what `Pipe.counters` gives, and "shape", "ring_drops" (frames that came faster than
        they were read) and "send_errors".
        """
        return ask(self._control, {"counters": True})

    def _clear(self) -> None:
        for child in self._children:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
        for where in ("gw", "srv", "wire"):
            namespace.remove(self.namespace(where))
        for child in self._children:
            child.wait(STOP_WAIT_S)
        self._children.clear()
        self.emulator = None
        shutil.rmtree(self._directory, ignore_errors=True)

    def _build(self) -> None:
        for where in ("gw", "srv", "wire"):
            namespace.create(self.namespace(where))
            namespace.sysctl(self.namespace(where), _WIRE_SYSCTLS if where == "wire" else _SYSCTLS)
        with contextlib.ExitStack() as stack:
            ends = {
                where: stack.enter_context(IPRoute(netns=self.namespace(where)))
                for where in ("gw", "wire", "srv")
            }
            for netlink in ends.values():
                netlink.link("set", index=1, state="up")
            ends["srv"].addr("add", index=1, address=SERVER_ADDRESS, prefixlen=32)
            for i, line in enumerate(self.lines, 1):
                self._join(ends, i, line)
            if self.lines:
                ends["gw"].route(
                    "add", dst=f"{SERVER_ADDRESS}/32", gateway="10.64.1.1", priority=ROUTE_METRIC
                )
        if shaped := [line for line in self.lines if line.shaped]:
            self._start_emulator(shaped)

    def _join(self, ends: dict[str, IPRoute], i: int, line: Line) -> None:
        """Make, address and raise the interfaces of line `i`."""
        macs = {"gw": f"02:64:00:{i:02x}:00:02", "srv": f"02:64:00:{i:02x}:00:01"}
        if line.shaped:
            for where in ("gw", "srv"):
                peer = {"ifname": f"{where[0]}{i}", "net_ns_fd": self.namespace("wire")}
                ends[where].link("add", ifname=line.name, kind="veth", address=macs[where], peer=peer)
                wire_end = ends["wire"].link_lookup(ifname=f"{where[0]}{i}")[0]
                ends["wire"].link("set", index=wire_end, state="up")
                namespace.wire_size(self.namespace(where), [line.name])
        else:
            peer = {"ifname": line.name, "net_ns_fd": self.namespace("srv"), "address": macs["srv"]}
            ends["gw"].link("add", ifname=line.name, kind="veth", address=macs["gw"], peer=peer)
        for where, other in (("gw", "srv"), ("srv", "gw")):
            host, peer_host = (2, 1) if where == "gw" else (1, 2)
            index = ends[where].link_lookup(ifname=line.name)[0]
            ends[where].addr("add", index=index, address=f"10.64.{i}.{host}", prefixlen=24)
            ends[where].link("set", index=index, state="up")
            ends[where].neigh(
                "add", dst=f"10.64.{i}.{peer_host}", lladdr=macs[other], ifindex=index, state="permanent"
            )

    def _start_emulator(self, shaped: list[Line]) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        unlimited = Shape()
        lines = [
            {
                "name": line.name,
                "near": f"g{self.index(line.name)}",
                "far": f"s{self.index(line.name)}",
                "up": (line.up or unlimited).as_dict(),
                "down": (line.down or unlimited).as_dict(),
            }
            for line in shaped
        ]
        arguments = json.dumps({"control": str(self._control), "lines": lines})
        self.emulator = self.popen("wire", [sys.executable, "-m", "bondvpn.lab.emulator", arguments])
        give_up_at = time.monotonic() + START_WAIT_S
        while not self._answers():
            if self.emulator.poll() is not None:
                raise SystemFault(f"the link emulator ended with status {self.emulator.returncode}")
            if time.monotonic() > give_up_at:
                raise SystemFault(f"the link emulator did not start within {START_WAIT_S:.0f} s")
            time.sleep(0.01)

    def _answers(self) -> bool:
        # Its name is there a moment before it listens.
        with contextlib.suppress(SystemFault):
            self.counters()
            return True
        return False
