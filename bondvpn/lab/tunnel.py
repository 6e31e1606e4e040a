"""bondvpn itself inside a lab: its configuration files, and both its ends as processes."""

import base64
import contextlib
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
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

START_WAIT_S = 10.0
STOP_WAIT_S = 5.0


@dataclass(frozen=True, slots=True)
class Configs:
    """The two configuration files of a tunnel, keys beside them."""

    client: Path
    server: Path


def write_configs(
    lab: Lab,
    directory: Path,
    *,
    scheduler: str = "weighted",
    speeds: bool = True,
    mtu: int = 1500,
    rekey_after: str | None = None,
    **extra: Any,
) -> Configs:
    """Write keys, client.toml and server.toml for this lab (docs/design.md, section 8).

    `speeds` gives each uplink its line's `up` and `down` where the line has a rate; `rekey_after` is a
    duration such as "1s"; `extra` goes into [tunnel] of the client (strings, integers, booleans, lists).
    """
    directory.mkdir(parents=True, exist_ok=True)
    client_public = _write_private_key(directory / "client.key")
    server_public = _write_private_key(directory / "server.key")
    _write_secret(directory / "office.psk", secrets.token_bytes(32))
    tunnel: dict[str, Any] = {"interface": "bond0", "address": [f"{CLIENT_ADDRESS}/{PREFIX_BITS}"]}
    tunnel |= {"mtu": mtu, "scheduler": scheduler}
    if rekey_after is not None:
        tunnel["rekey_after"] = rekey_after
    server = {
        "public_key": server_public,
        "preshared_key_file": "office.psk",
        "endpoints": [f"{SERVER_ADDRESS}:{PORT}"],
    }
    client_text = _keys({"private_key_file": "client.key"}) + _table("[tunnel]", tunnel | extra)
    client_text += _table("[[server]]", server)
    for line in lab.lines:
        client_text += _table("[[uplink]]", _uplink(lab, line, speeds=speeds))
    there: dict[str, Any] = {"interface": "office0", "address": [f"{PEER_ADDRESS}/{PREFIX_BITS}"]}
    there |= {"mtu": mtu, "scheduler": scheduler}
    client = {"name": "office", "public_key": client_public, "preshared_key_file": "office.psk"}
    server_text = _keys({"private_key_file": "server.key", "listen": [f"0.0.0.0:{PORT}"]})
    server_text += _table("[[client]]", client) + _table("[client.tunnel]", there)
    configs = Configs(directory / "client.toml", directory / "server.toml")
    configs.client.write_text(client_text)
    configs.server.write_text(server_text)
    return configs


class Tunnel:
    """A running bondvpn in a lab, client in gw and server in srv; a context manager.

    Entering waits until an echo comes back through the tunnel and raises SystemFault with both logs when none
    does; leaving sends SIGTERM to both and waits. Until then `client_log` and `server_log` can be read.
    """

    def __init__(self, lab: Lab, configs: Configs, *, wait_s: float = START_WAIT_S) -> None:
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
        for end in ("client", "server"):
            with contextlib.suppress(KeyError):
                self.stop(end)
        self._directory.cleanup()

    @property
    def client_log(self) -> str:
        return self._log("client").read_text(errors="replace") if self._log("client").exists() else ""

    @property
    def server_log(self) -> str:
        return self._log("server").read_text(errors="replace") if self._log("server").exists() else ""

    def environment(self, end: str) -> dict[str, str]:
        """What the commands of the "client" or "server" end need to find it: `bondvpn status` too."""
        own = {"BONDVPN_RUNTIME_DIR": self.root / end / "run", "BONDVPN_STATE_DIR": self.root / end / "state"}
        for directory in own.values():
            directory.mkdir(parents=True, exist_ok=True)
        return os.environ | {name: str(directory) for name, directory in own.items()}

    def command(self, end: str, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run a bondvpn command beside the "client" or "server" end, such as `status --json`."""
        return self._lab.run(
            _where(end),
            [sys.executable, "-m", "bondvpn", *argv],
            env=self.environment(end),
            capture_output=True,
            text=True,
        )

    def start(self, end: str) -> None:
        """Start the "client" or the "server"; its log goes on in the same file."""
        config = self._configs.client if end == "client" else self._configs.server
        environment = self.environment(end)
        with self._log(end).open("ab") as log:
            self.ends[end] = self._lab.popen(
                _where(end),
                [sys.executable, "-m", "bondvpn", end, "--config", str(config)],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def stop(self, end: str, *, with_signal: int = signal.SIGTERM) -> int:
        """End the "client" or the "server" and return its exit status; killed when it takes over 5 s.

        Raises KeyError when it was not started.
        """
        process = self.ends.pop(end)
        process.send_signal(with_signal)
        try:
            return process.wait(STOP_WAIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait(STOP_WAIT_S)

    def await_echo(self, wait_s: float) -> float:
        """Seconds until an echo came back through the tunnel; raises SystemFault after `wait_s`."""
        started = time.monotonic()
        while (waited := time.monotonic() - started) < wait_s:
            if any(process.poll() is not None for process in self.ends.values()):
                break
            if ping(self._lab, PEER_ADDRESS, count=1, timeout_s=0.25):
                return time.monotonic() - started
            time.sleep(0.02)
        raise SystemFault(
            f"nothing comes through the tunnel after {waited:.1f} s\n"
            f"--- client ---\n{self.client_log}\n--- server ---\n{self.server_log}"
        )

    def _log(self, end: str) -> Path:
        return self.root / f"{end}.log"


def _where(end: str) -> str:
    return {"client": "gw", "server": "srv"}[end]


def _uplink(lab: Lab, line: Line, *, speeds: bool) -> dict[str, Any]:
    uplink = {"name": line.name, "interface": line.name, "gateway": lab.gateway(line.name)}
    if speeds:
        for key, shape in (("up", line.up), ("down", line.down)):
            if shape is not None and shape.rate_bps is not None:
                uplink[key] = f"{shape.rate_bps / 1e3:.15g}kbit"
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
