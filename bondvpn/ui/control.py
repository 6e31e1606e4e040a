"""The client's side of the control sockets: one line of JSON there, one line of JSON back.

A process listens on `<runtime directory>/<interface>.sock` (server: `server.sock`), AF_UNIX, SOCK_STREAM.
A socket file that nobody accepts on is what a killed process left, and counts as not running.
"""

import contextlib
import errno
import socket
from pathlib import Path
from typing import Any

import msgspec

from bondvpn.errors import SystemFault
from bondvpn.linux.journal import runtime_dir

TIMEOUT_S = 3.0
_REPLY_BYTES_MAX = 16 << 20  # far above a server with thousands of clients
_STALE = {errno.ECONNREFUSED, errno.ENOENT, errno.EPIPE, errno.ECONNRESET}


def socket_path(name: str) -> Path:
    """The control socket of the process called `name`: a client's interface, or "server"."""
    return runtime_dir() / f"{name}.sock"


def socket_paths() -> list[Path]:
    """Every control socket in the runtime directory, stale ones included."""
    return sorted(runtime_dir().glob("*.sock"))


def ask(path: Path, command: str, timeout_s: float = TIMEOUT_S) -> dict[str, Any] | None:
    """The reply to `{"command": command}`; None when no process listens on the socket.

    Raises SystemFault when there is one that we may not ask, that does not answer in time, or that
    refuses (a reply with the key "error").
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout_s)
            connection.connect(str(path))
            connection.sendall(msgspec.json.encode({"command": command}) + b"\n")
            line = _read_line(connection)
    except TimeoutError:
        raise SystemFault(f"{path}: no answer within {timeout_s:g} s") from None
    except OSError as fault:
        if fault.errno in _STALE:
            return None
        raise SystemFault(f"{path}: {fault.strerror or fault}") from None
    try:
        reply = msgspec.json.decode(line, type=dict[str, Any])
    except msgspec.MsgspecError as fault:
        raise SystemFault(f"{path}: the answer is not a line of JSON: {fault}") from None
    if "error" in reply:
        raise SystemFault(f"{path}: {reply['error']}")
    return reply


def ask_all(
    command: str, interface: str | None = None, timeout_s: float = TIMEOUT_S
) -> dict[str, dict[str, Any]]:
    """Every running process's reply by the process's name, or that of `interface` ("server": the server).

    Raises SystemFault when none runs.
    """
    paths = socket_paths() if interface is None else [socket_path(interface)]
    found = {path.stem: reply for path in paths if (reply := ask(path, command, timeout_s)) is not None}
    if not found:
        whose = "no bondvpn" if interface is None else f"no bondvpn on {interface}"
        raise SystemFault(f"{whose} is running (looked in {runtime_dir()})")
    return found


def remove_stale(name: str) -> None:
    """Remove the socket file that a killed process left."""
    path = socket_path(name)
    with contextlib.suppress(SystemFault):
        if path.exists() and ask(path, "status") is None:
            path.unlink(missing_ok=True)


def _read_line(connection: socket.socket) -> bytes:
    line = bytearray()
    while not line.endswith(b"\n") and len(line) <= _REPLY_BYTES_MAX:
        part = connection.recv(1 << 16)
        if not part:
            break
        line += part
    return bytes(line)
