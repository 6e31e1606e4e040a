"""Between the parent and one of its workers: lines of JSON over a pair of stream sockets.

    worker -> parent    {"ready": true}              it works
                        {"fault": "..."}             it cannot; it ends
                        {"id": 7, "tunnels": ...}    the status that was asked for
    parent -> worker    {"id": 7}                    what is your status?
                        {"hooks": {...}}             the commands from now on

Its end tells the parent that the worker is gone, whatever ended it.
"""

import asyncio
import contextlib
import json
import signal
import socket
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

import msgspec

from bondvpn.config import Hooks

SIGNALS = (signal.SIGTERM, signal.SIGINT)
READ_BYTES = 1 << 18


class ParentEnd:
    """The parent's end; it never waits."""

    def __init__(self) -> None:
        self.socket, self.worker_end = socket.socketpair()
        self.socket.setblocking(False)
        self._buffer = b""

    def fileno(self) -> int:
        return self.socket.fileno()

    def send(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # full or gone: it is a silent worker then
            self.socket.send(_line(message))

    def receive(self) -> Sequence[dict[str, Any]] | None:
        """The messages that are there; None once the worker is gone."""
        messages: list[dict[str, Any]] = []
        while True:
            try:
                part = self.socket.recv(READ_BYTES)
            except BlockingIOError:
                return messages
            except OSError:
                part = b""
            if not part:
                return messages or None
            *lines, self._buffer = (self._buffer + part).split(b"\n")
            messages += map(json.loads, lines)

    def close(self) -> None:
        self.socket.close()


class WorkerEnd:
    """The worker's end, as what its server answers `bondvpn status` by; see `control.ControlSocket`."""

    def __init__(
        self,
        end: socket.socket,
        status: Callable[[float], dict[str, Any]],
        take_hooks: Callable[[Hooks], None],
    ) -> None:
        self._socket = end
        self._status = status
        self._take_hooks = take_hooks

    async def __aenter__(self) -> Self:
        """The server works: signals may come, and the parent may ask."""
        reader, self._writer = await asyncio.open_unix_connection(sock=self._socket)
        self._task = asyncio.create_task(self._serve(reader))
        self._writer.write(_line({"ready": True}))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError, OSError):
            await self._task

    async def _serve(self, reader: asyncio.StreamReader) -> None:
        while line := await reader.readline():
            message = json.loads(line)
            if "hooks" in message:
                self._take_hooks(msgspec.convert(message["hooks"], Hooks))
                continue
            self._writer.write(_line(message | self._status(time.monotonic())))
            await self._writer.drain()


def report_fault(end: socket.socket, fault: str) -> None:
    """Tell the parent why this worker cannot work."""
    with contextlib.suppress(OSError):
        end.sendall(_line({"fault": fault}))


def _line(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"
