"""The control socket: one line of JSON in, one out."""

import asyncio
import contextlib
import json
import select
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from bondvpn import __version__
from bondvpn.errors import SystemFault
from bondvpn.runtime import control
from bondvpn.runtime.control import REQUEST_MAX_BYTES, ControlSocket, PolledControlSocket


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BONDVPN_RUNTIME_DIR", str(tmp_path))
    return tmp_path


def status(now: float) -> dict[str, Any]:
    return {"role": "client", "tunnels": []}


RELOADED = {"applied": ["uplink dsl: up"], "restart": [], "faults": []}


async def reload() -> dict[str, Any]:
    return RELOADED


async def ask(path: Path, request: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(request)
    if not request.endswith(b"\n"):
        writer.write_eof()
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


def serve(directory: Path, use: Callable[[Path], Awaitable[Any]], answer: Any = status) -> Any:
    async def run() -> Any:
        async with ControlSocket("bond0", answer, reload):
            return await use(directory / "bond0.sock")

    return asyncio.run(run())


def test_status_is_answered_in_one_line(directory: Path) -> None:
    answer = serve(directory, lambda path: ask(path, b'{"command": "status"}\n'))
    assert answer.endswith(b"\n")
    assert answer.count(b"\n") == 1
    told = json.loads(answer)
    assert told.pop("uptime_s") >= 0
    assert told == {"version": __version__, "role": "client", "tunnels": []}


def test_a_reload_is_done_and_told(directory: Path) -> None:
    assert json.loads(serve(directory, lambda path: ask(path, b'{"command": "reload"}\n'))) == RELOADED
    (answer,) = polled(directory, b'{"command": "reload"}\n')
    assert json.loads(answer) == RELOADED


@pytest.mark.parametrize(
    "request_",
    [b"\n", b"", b"{}\n", b"[]\n", b"null\n", b"nonsense\n", b'{"command": "stop"}\n', b"\xff\xfe\n"],
)
def test_anything_else_is_told_what_is_expected(directory: Path, request_: bytes) -> None:
    answer = serve(directory, lambda path: ask(path, request_))
    assert json.loads(answer) == {"error": 'expected {"command": "status"} or {"command": "reload"}'}


def test_a_request_without_end_is_cut_off(directory: Path) -> None:
    async def use(path: Path) -> tuple[bytes, bytes]:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"x" * (4 * REQUEST_MAX_BYTES) + b"\n")
        first = b""
        with contextlib.suppress(ConnectionError):
            first = await reader.read()
        writer.close()
        return first, await ask(path, b'{"command": "status"}\n')

    first, after = serve(directory, use)
    assert first == b""
    assert b'"role"' in after


def test_who_connects_and_says_nothing_is_let_go(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "REQUEST_TIMEOUT_S", 0.01)

    async def use(path: Path) -> bytes:
        reader, writer = await asyncio.open_unix_connection(path)
        answer = await reader.read()
        writer.close()
        return answer

    assert serve(directory, use) == b""


def test_only_root_may_connect_and_nothing_is_left(directory: Path) -> None:
    async def use(path: Path) -> int:
        return path.stat().st_mode & 0o777

    assert serve(directory, use) == 0o600
    assert list(directory.iterdir()) == []


def test_what_a_killed_process_left_is_replaced(directory: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(directory / "bond0.sock"))
    assert b"role" in serve(directory, lambda path: ask(path, b'{"command": "status"}\n'))


def test_a_directory_that_is_not_there_is_a_fault(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BONDVPN_RUNTIME_DIR", str(directory / "missing"))
    with pytest.raises(SystemFault, match=r"cannot listen on .*missing/bond0\.sock"):
        serve(directory, lambda path: ask(path, b"\n"))


# -- without an event loop --------------------------------------------------------------------------
def polled(directory: Path, *requests: bytes, end: bool = False) -> list[bytes]:
    """The answers, each request on a connection of its own; `end`: nothing more comes after it."""
    served = PolledControlSocket("server", status, lambda: RELOADED)
    assert (directory / "server.sock").stat().st_mode & 0o777 == 0o600
    answers = []

    def ask_all() -> None:
        for request in requests:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(str(directory / "server.sock"))
                connection.sendall(request)
                if end:
                    connection.shutdown(socket.SHUT_WR)
                with contextlib.suppress(ConnectionError):
                    answers.append(b"".join(iter(lambda: connection.recv(65_536), b"")))

    client = threading.Thread(target=ask_all)
    client.start()
    for _ in requests:
        assert select.select([served], [], [], 10)[0]
        served.serve()
    client.join()
    served.close()
    assert list(directory.iterdir()) == []
    return answers


def test_the_polled_one_answers_alike(directory: Path) -> None:
    good, bad = polled(directory, b'{"command": "status"}\n', b"nonsense\n")
    told = json.loads(good)
    assert told.pop("uptime_s") >= 0
    assert told == {"version": __version__, "role": "client", "tunnels": []}
    assert json.loads(bad) == {"error": 'expected {"command": "status"} or {"command": "reload"}'}
    assert all(answer.endswith(b"\n") and answer.count(b"\n") == 1 for answer in (good, bad))


def test_the_polled_one_takes_the_end_for_a_line(directory: Path) -> None:
    (answer,) = polled(directory, b'{"command": "status"}', end=True)
    assert b'"role"' in answer


def test_the_polled_one_does_not_wait_for_ever(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "POLLED_TIMEOUT_S", 0.01)
    started = time.monotonic()
    assert polled(directory, b"", b"half a line") == [b"", b""]
    assert time.monotonic() - started < 5


def test_the_polled_one_in_a_directory_that_is_not_there(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BONDVPN_RUNTIME_DIR", str(directory / "missing"))
    with pytest.raises(SystemFault, match=r"cannot listen on .*missing/server\.sock"):
        PolledControlSocket("server", status, lambda: RELOADED)
