"""bondvpn itself inside a lab: its configuration files, and both its ends as processes."""

import base64
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from bondvpn.errors import SystemFault
from bondvpn.lab.measure import ping
from bondvpn.lab.shape import Line
from bondvpn.lab.topology import SERVER_ADDRESS, Lab

CLIENT_ADDRESS = "172.21.1.2"
PEER_ADDRESS = "172.21.1.1"  # the server's, inside the tunnel
PREFIX_BITS = 30
PORT = 1189

BONDVPN = (sys.executable, "-m", "bondvpn")
START_WAIT_S = 10.0
STOP_WAIT_S = 5.0


@dataclass(frozen=True, slots=True)
class Configs:
    """The configuration files of both ends of a tunnel, keys beside them."""

    client: Path
    server: Path
    further: tuple[Path, ...] = ()
    """Those of the second client and the ones after it."""

    def of(self, end: str) -> Path:
        """The file of "server", "client", "client2" and so on."""
        if end == "server":
            return self.server
        return (self.client, *self.further)[_number(end) - 1]


def write_configs(
    lab: Lab,
    directory: Path,
    *,
    scheduler: str = "weighted",
    speeds: bool = True,
    mtu: int = 1500,
    rekey_after: str | None = None,
    clients: int = 1,
    workers: int | None = None,
    unshaped_speed: str | None = None,
    **extra: Any,
) -> Configs:
    """Write keys, client.toml and server.toml for this lab (docs/design.md, section 8).

    Several `clients` share the gateway's lines: client2.toml has bond1, which office1 answers, and so on.
    `speeds` gives each uplink its line's `up` and `down` where the line has a rate, and `unshaped_speed`,
    such as "10gbit", where it has none; `rekey_after` is a duration such as "1s"; `extra` goes into
    [tunnel] of the client (strings, integers, booleans, lists).
    """
    directory.mkdir(parents=True, exist_ok=True)
    server_public = _write_private_key(directory / "server.key")
    both: dict[str, Any] = {"mtu": mtu, "scheduler": scheduler}
    further = {} if rekey_after is None else {"rekey_after": rekey_after}
    server = {"public_key": server_public, "endpoints": [f"{SERVER_ADDRESS}:{PORT}"]}
    top = {} if workers is None else {"workers": workers}
    server_text = _keys({"private_key_file": "server.key", "listen": [f"0.0.0.0:{PORT}"]} | top)
    files = []
    for number in range(1, clients + 1):
        here, office = "client" + _suffix(number), "office" + _suffix(number)
        secret = {"preshared_key_file": f"{office}.psk"}
        public = _write_private_key(directory / f"{here}.key")
        _write_secret(directory / secret["preshared_key_file"], secrets.token_bytes(32))
        tunnel = {"interface": f"bond{number - 1}", "address": [f"{client_address(number)}/{PREFIX_BITS}"]}
        text = _keys({"private_key_file": f"{here}.key"}) + _table(
            "[tunnel]", tunnel | both | further | extra
        )
        text += _table("[[server]]", server | secret)
        for line in lab.lines:
            text += _table("[[uplink]]", _uplink(lab, line, speeds=speeds, unshaped=unshaped_speed))
        files.append(directory / f"{here}.toml")
        files[-1].write_text(text)
        there = {"interface": f"office{number - 1}", "address": [f"{peer_address(number)}/{PREFIX_BITS}"]}
        server_text += _table("[[client]]", {"name": office, "public_key": public} | secret)
        server_text += _table("[client.tunnel]", there | both)
    configs = Configs(files[0], directory / "server.toml", tuple(files[1:]))
    configs.server.write_text(server_text)
    return configs


def client_address(number: int) -> str:
    """The address inside the tunnel of client 1, 2 and so on."""
    return f"172.21.{number}.2"


def peer_address(number: int) -> str:
    """The server's in the tunnel of that client."""
    return f"172.21.{number}.1"


class Tunnel:
    """A running bondvpn in a lab, clients in gw and server in srv; a context manager.

    Its ends are "client", "server" and, where the configuration has them, "client2" and so on; all clients
    share one runtime directory, as on one machine. Entering starts the first two, waits until an echo comes
    back through the tunnel and raises SystemFault with both logs when none does; leaving sends SIGTERM to all
    and waits. Until then `client_log` and `server_log` can be read.
    """

    def __init__(
        self,
        lab: Lab,
        configs: Configs,
        *,
        wait_s: float = START_WAIT_S,
        program: Callable[[str], Sequence[str]] = lambda _end: BONDVPN,
    ) -> None:
        """`program` gives the words that run bondvpn at an end, up to bondvpn's own arguments."""
        self._program = program
        self._lab = lab
        self._configs = configs
        self._wait_s = wait_s
        self._directory = tempfile.TemporaryDirectory(prefix="bondvpn-lab-")
        self.root = Path(self._directory.name)
        self.ends: dict[str, subprocess.Popen[Any]] = {}

    def __enter__(self) -> Self:
        try:
            self.start("server")
            self.start("client")
            self.await_echo(self._wait_s)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for end in sorted(self.ends):  # the clients before the server
            self.stop(end)
        self._directory.cleanup()

    @property
    def client_log(self) -> str:
        return self._log("client").read_text(errors="replace") if self._log("client").exists() else ""

    @property
    def server_log(self) -> str:
        return self._log("server").read_text(errors="replace") if self._log("server").exists() else ""

    def environment(self, end: str) -> dict[str, str]:
        """What the commands of an end need to find it: `bondvpn status` too."""
        home = self.root / ("server" if end == "server" else "client")
        own = {"BONDVPN_RUNTIME_DIR": home / "run", "BONDVPN_STATE_DIR": home / "state"}
        for directory in own.values():
            directory.mkdir(parents=True, exist_ok=True)
        return os.environ | {name: str(directory) for name, directory in own.items()}

    def command(self, end: str, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run a bondvpn command beside an end, such as `status --json`."""
        return self._lab.run(
            _where(end),
            [*BONDVPN, *argv],
            env=self.environment(end),
            capture_output=True,
            text=True,
        )

    def start(self, end: str) -> None:
        """Start an end; its log goes on in the same file."""
        config = self._configs.of(end)
        environment = self.environment(end)
        with self._log(end).open("ab") as log:
            self.ends[end] = self._lab.popen(
                _where(end),
                [*self._program(end), end.rstrip("0123456789"), "--config", str(config)],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def stop(self, end: str, *, with_signal: int = signal.SIGTERM) -> int:
        """End one and return its exit status; killed when it takes over 5 s.

        Raises KeyError when it was not started.
        """
        process = self.ends.pop(end)
        process.send_signal(with_signal)
        try:
            return process.wait(STOP_WAIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait(STOP_WAIT_S)

    def await_echo(self, wait_s: float, number: int = 1) -> float:
        """Seconds until an echo came back through the tunnel of client `number`; raises SystemFault after
        `wait_s`."""
        started = time.monotonic()
        while (waited := time.monotonic() - started) < wait_s:
            if any(process.poll() is not None for process in self.ends.values()):
                break
            # Ever longer: the line may be.
            if ping(self._lab, peer_address(number), count=1, timeout_s=0.25 + waited / 4):
                return time.monotonic() - started
            time.sleep(0.02)
        raise SystemFault(
            f"nothing comes through the tunnel after {waited:.1f} s\n"
            f"--- client ---\n{self.client_log}\n--- server ---\n{self.server_log}"
        )

    def _log(self, end: str) -> Path:
        return self.root / f"{end}.log"


def _where(end: str) -> str:
    return "srv" if end == "server" else "gw"


def _number(end: str) -> int:
    """2 for "client2", 1 for "client"."""
    return int(end.removeprefix("client") or 1)


def _suffix(number: int) -> str:
    return str(number) if number > 1 else ""


def _uplink(lab: Lab, line: Line, *, speeds: bool, unshaped: str | None) -> dict[str, Any]:
    uplink = {"name": line.name, "interface": line.name, "gateway": lab.gateway(line.name)}
    if speeds:
        for key, shape in (("up", line.up), ("down", line.down)):
            if shape is not None and shape.rate_bps is not None:
                uplink[key] = f"{shape.rate_bps / 1e3:.15g}kbit"
            elif unshaped is not None:
                uplink[key] = unshaped
    return uplink


def _write_private_key(path: Path) -> str:
    """Write a new X25519 private key and return its public key, both base64."""
    private = X25519PrivateKey.generate()
    _write_secret(path, private.private_bytes_raw())
    return base64.b64encode(private.public_key().public_bytes_raw()).decode()


def _write_secret(path: Path, secret: bytes) -> None:
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_text(base64.b64encode(secret).decode() + "\n")


def _table(header: str, values: dict[str, Any]) -> str:
    return f"\n{header}\n{_keys(values)}"


def _keys(values: dict[str, Any]) -> str:
    return "".join(f"{key} = {_toml(value)}\n" for key, value in values.items())


def _toml(value: Any) -> str:
    """A boolean, integer, plain string (nothing to escape) or list of them as TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value)
