"""What every peer shares: finding its program, starting and ending its processes, waiting for an echo."""

import contextlib
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from bench import meter
from bondvpn.errors import SystemFault
from bondvpn.lab.measure import ping
from bondvpn.lab.topology import Lab

PATH = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"  # sbin: not in every root's PATH
ECHO_WAIT_S = 15.0
STOP_WAIT_S = 3.0
ENDS = {"client": "gw", "server": "srv"}
PREFIX_BITS = 30  # of a tunnel with two ends


def program(name: str) -> str | None:
    """Where a program is installed; None when it is not."""
    return shutil.which(name, path=PATH)


def first_line(*command: str) -> str:
    """The first line a command prints, wherever it prints it."""
    shown = subprocess.run(command, capture_output=True, text=True, check=False)
    return ((shown.stdout or shown.stderr).strip().splitlines() or [""])[0].strip()


class Peer:
    """A tunnel between gw and srv of a lab, by another program; entering starts it and waits for an echo.

    Raises SystemFault, with every process's log, when none comes.
    """

    name: str
    package: str
    """What to install when it is absent."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.processes: dict[str, int] = {}
        """Name, "client" or "server" and perhaps more, to pid."""
        self._running: list[subprocess.Popen[Any]] = []
        self._temporary = tempfile.TemporaryDirectory(prefix="bondvpn-bench-peer-")
        self.directory = Path(self._temporary.name)

    @classmethod
    def version(cls) -> str | None:
        """What the program calls itself; None when it is not installed."""
        raise NotImplementedError

    @property
    def address(self) -> str:
        """The server's, inside the tunnel."""
        raise NotImplementedError

    @property
    def command(self) -> str:
        """What both ends run, keys and addresses aside."""
        raise NotImplementedError

    def start(self) -> None:
        """Start what the tunnel needs."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        try:
            self.start()
            self._await_echo()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._running:
            process.send_signal(signal.SIGTERM)
        for process in self._running:
            try:
                process.wait(STOP_WAIT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._running.clear()
        self._temporary.cleanup()

    def spawn(self, end: str, name: str, argv: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """Start a process at the "client" or the "server" end; its log goes to `directory`."""
        with (self.directory / f"{name}.log").open("wb") as log:
            process = self.lab.popen(
                ENDS[end], argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **options
            )
        self._running.append(process)
        self.processes[name] = process.pid
        return process

    def configure(self, end: str, *argv: str, **options: Any) -> None:
        """Run a command at that end to its end; raises SystemFault with what it said when it fails."""
        done = self.lab.run(ENDS[end], argv, capture_output=True, text=True, **options)
        if done.returncode:
            raise SystemFault(f"{self.name}: {' '.join(argv)}: {done.stderr.strip()}")

    def await_device(self, end: str, device: str) -> None:
        """Wait until a process has made its interface; raises SystemFault with the logs when it does not."""
        there = ["ip", "link", "show", device]
        with contextlib.suppress(SystemFault):
            return meter.wait(
                lambda: self.lab.run(ENDS[end], there, capture_output=True).returncode == 0,
                device,
                ECHO_WAIT_S,
            )
        raise SystemFault(f"{self.name} made no interface {device}\n{self._logs()}")

    def _await_echo(self) -> None:
        with contextlib.suppress(SystemFault):
            return meter.wait(
                lambda: bool(ping(self.lab, self.address, count=1, timeout_s=0.3)), "an echo", ECHO_WAIT_S
            )
        raise SystemFault(f"nothing comes through {self.name} after {ECHO_WAIT_S:.0f} s\n{self._logs()}")

    def _logs(self) -> str:
        return "\n".join(path.read_text(errors="replace") for path in sorted(self.directory.glob("*.log")))


class PointToPoint(Peer):
    """One tunnel over one line, whose interfaces are given their addresses here."""

    octet: int
    """The third one of the addresses 172.21.x.1 (server) and .2 (client)."""

    def __init__(self, lab: Lab, line: str) -> None:
        super().__init__(lab)
        self.line = line
        self.addresses = {"client": f"172.21.{self.octet}.2", "server": f"172.21.{self.octet}.1"}

    @property
    def address(self) -> str:
        return self.addresses["server"]

    def bring_up(self, end: str, device: str, *settings: str) -> None:
        """Give an interface that is there its address, and `ip link` settings; then it is up."""
        self.configure(end, "ip", "address", "add", f"{self.addresses[end]}/{PREFIX_BITS}", "dev", device)
        self.configure(end, "ip", "link", "set", device, *settings, "up")
