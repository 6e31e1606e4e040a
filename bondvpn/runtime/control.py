"""The control socket: one line of JSON in, one out. `bondvpn status` asks here."""

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from bondvpn import __version__
from bondvpn.errors import SystemFault
from bondvpn.linux.journal import runtime_dir

log = logging.getLogger(__name__)

REQUEST_MAX_BYTES = 4096
REQUEST_TIMEOUT_S = 5.0


class ControlSocket:
    """Listens at `<runtime dir>/<name>.sock` while entered; root's only."""

    def __init__(self, name: str, status: Callable[[float], dict[str, Any]]) -> None:
        self._path = runtime_dir() / f"{name}.sock"
        self._status = status
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
            writer.write(json.dumps(self._answer(line)).encode() + b"\n")
            await writer.drain()
        writer.close()

    def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            request = json.loads(line)
        except ValueError:
            request = None
        if not isinstance(request, dict) or request.get("command") != "status":
            return {"error": 'expected {"command": "status"}'}
        now = time.monotonic()
        return {"version": __version__, "uptime_s": round(now - self._started, 1), **self._status(now)}
