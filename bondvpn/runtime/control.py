"""The control socket: one line of JSON in, one out. `bondvpn status` and `bondvpn reload` ask here."""

import asyncio
import contextlib
import json
import logging
import socket
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self

from bondvpn import __version__
from bondvpn.errors import SystemFault
from bondvpn.linux.journal import runtime_dir
from bondvpn.runtime.reload import Reply

log = logging.getLogger(__name__)

REQUEST_MAX_BYTES = 4096
REQUEST_TIMEOUT_S = 5.0
POLLED_TIMEOUT_S = 1.0  # nobody else is served meanwhile


class ControlSocket:
    """Listens at `<runtime dir>/<name>.sock` while entered; root's only."""

    def __init__(
        self, name: str, status: Callable[[float], dict[str, Any]], reload: Callable[[], Awaitable[Reply]]
    ) -> None:
        self._path = runtime_dir() / f"{name}.sock"
        self._status = status
        self._reload = reload
        self._started = time.monotonic()

    async def __aenter__(self) -> Self:
        self._path.unlink(missing_ok=True)  # a killed process's; a living one holds the journal
        try:
            self._server = await asyncio.start_unix_server(self._serve, self._path, limit=REQUEST_MAX_BYTES)
            self._path.chmod(0o600)
        except OSError as error:
            raise SystemFault(f"cannot listen on {self._path}: {error.strerror}") from None
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, TimeoutError, ValueError):
            line = await asyncio.wait_for(reader.readline(), REQUEST_TIMEOUT_S)
            if _command(line) == "reload":
                reply = _line(await self._reload())
            else:
                reply = answer(line, self._status, self._started)
            writer.write(reply)
            await writer.drain()
        writer.close()


class PolledControlSocket:
    """The same for a process without an event loop: `serve` when `fileno` is readable."""

    def __init__(
        self, name: str, status: Callable[[float], dict[str, Any]], reload: Callable[[], Reply]
    ) -> None:
        """Listen. Raises SystemFault."""
        self._path = runtime_dir() / f"{name}.sock"
        self._status = status
        self._reload = reload
        self._started = time.monotonic()
        self._path.unlink(missing_ok=True)  # a killed process's; a living one holds the journal
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._listener.bind(str(self._path))
            self._path.chmod(0o600)
            self._listener.listen()
        except OSError as error:
            self._listener.close()
            raise SystemFault(f"cannot listen on {self._path}: {error.strerror}") from None
        self._listener.setblocking(False)

    def fileno(self) -> int:
        return self._listener.fileno()

    def serve(self) -> None:
        """Answer one request; who connects and says nothing is let go before long."""
        with contextlib.suppress(OSError):
            connection, _ = self._listener.accept()
            with connection:
                give_up_at = time.monotonic() + POLLED_TIMEOUT_S
                line = b""
                while not line.endswith(b"\n") and len(line) <= REQUEST_MAX_BYTES:
                    connection.settimeout(max(give_up_at - time.monotonic(), 0.001))
                    part = connection.recv(REQUEST_MAX_BYTES)
                    if not part:
                        break
                    line += part
                if _command(line) == "reload":
                    reply = _line(self._reload())
                else:
                    reply = answer(line, self._status, self._started)
                connection.settimeout(POLLED_TIMEOUT_S)
                connection.sendall(reply)

    def forget(self) -> None:
        """Close it in a forked process: the socket is still the parent's."""
        self._listener.close()

    def close(self) -> None:
        self._listener.close()
        self._path.unlink(missing_ok=True)


def answer(line: bytes, status: Callable[[float], dict[str, Any]], started: float) -> bytes:
    """The reply to a request for the status, or to nonsense, a line too; `started`: when the process did."""
    if _command(line) != "status":
        return _line({"error": 'expected {"command": "status"} or {"command": "reload"}'})
    now = time.monotonic()
    return _line({"version": __version__, "uptime_s": round(now - started, 1), **status(now)})


def _command(line: bytes) -> str | None:
    try:
        request = json.loads(line)
    except ValueError:
        return None
    return request.get("command") if isinstance(request, dict) else None


def _line(reply: dict[str, Any]) -> bytes:
    return json.dumps(reply).encode() + b"\n"
