"""When a socket is polled, and when the loop watches it again."""

from collections.abc import Callable
from math import inf
from typing import Any

import pytest

from bondvpn.runtime.polling import LARGE_BYTES, POLL_S, RATE_MAX, RATE_MIN, Polling

DATAGRAM_BYTES = 1472


class Socket:
    def __init__(self, fd: int = 7) -> None:
        self.fd = fd

    def fileno(self) -> int:
        return self.fd


class Loop:
    """Which file descriptors are watched."""

    def __init__(self) -> None:
        self.watched: set[int] = set()

    def add_reader(self, fd: int, callback: Callable[..., None], *args: Any) -> None:
        assert fd not in self.watched
        self.watched.add(fd)

    def remove_reader(self, fd: int) -> None:
        self.watched.discard(fd)


@pytest.fixture
def loop() -> Loop:
    return Loop()


@pytest.fixture
def polling(loop: Loop) -> Polling:
    return Polling(loop, lambda socket: None)  # type: ignore[arg-type]


def bring(
    polling: Any, socket: Socket, nbytes: int, every_s: float, times: int = 10, now: float = 100.0
) -> float:
    """It is woken up for so often, as long as it is watched; the time afterwards."""
    for _ in range(times):
        if socket.fileno() in polling._loop.watched:
            polling.looked(socket, nbytes, now)
        now += every_s
    return now


def watched(polling: Any, fd: int = 7) -> Socket:
    socket = Socket(fd)
    polling.watch(socket)
    return socket


def test_a_line_of_50_mbit_is_polled(polling: Polling, loop: Loop) -> None:
    socket = watched(polling)
    polling.looked(socket, DATAGRAM_BYTES, 100.0)  # type: ignore[arg-type]
    assert loop.watched == {7}
    polling.looked(socket, DATAGRAM_BYTES, 100.0 + DATAGRAM_BYTES / 6.25e6)  # type: ignore[arg-type]
    assert loop.watched == set()
    assert polling.due == pytest.approx(100.0 + DATAGRAM_BYTES / 6.25e6 + POLL_S)


@pytest.mark.parametrize(
    ("nbytes", "every_s"),
    [
        (DATAGRAM_BYTES, 1.01 * DATAGRAM_BYTES / RATE_MIN),  # a slower line
        (LARGE_BYTES - 1, LARGE_BYTES / 10e6),  # ACKs, or a ping that is answered at once
        (40_000, 40_000 / RATE_MAX),  # a fast one, in runs
        (65_000, 65_000 / 400e6),
    ],
)
def test_what_is_not_polled(polling: Polling, loop: Loop, nbytes: int, every_s: float) -> None:
    bring(polling, watched(polling), nbytes, every_s)
    assert loop.watched == {7}
    assert polling.due == inf


def test_it_is_polled_each_millisecond_while_it_brings_something(polling: Polling, loop: Loop) -> None:
    now = bring(polling, watched(polling), DATAGRAM_BYTES, 0.00025)
    looks = []

    def drain(socket: Any) -> int:
        looks.append(socket.fileno())
        return 4 * DATAGRAM_BYTES if len(looks) < 5 else 0

    for turn in range(1, 5):
        now = polling.due
        polling.poll(drain, now)
        assert len(looks) == turn
        assert loop.watched == set()
        assert polling.due == pytest.approx(now + POLL_S)
    polling.poll(drain, polling.due)
    assert loop.watched == {7}
    assert polling.due == inf


def test_where_more_may_wait_the_loop_watches(polling: Polling, loop: Loop) -> None:
    bring(polling, watched(polling), DATAGRAM_BYTES, 0.00025)
    polling.poll(lambda socket: round(RATE_MAX * POLL_S), polling.due)
    assert loop.watched == {7}


def test_one_that_is_unbound_is_forgotten(polling: Polling, loop: Loop) -> None:
    socket = watched(polling)
    now = bring(polling, socket, DATAGRAM_BYTES, 0.00025)
    polling.unwatch(socket)  # type: ignore[arg-type]
    polling.poll(lambda _: pytest.fail("it is closed"), now)
    assert loop.watched == set()
    assert polling.due == inf


def test_and_while_the_others_are_polled(polling: Polling, loop: Loop) -> None:
    """What one brings may unbind another, or itself."""
    sockets = [watched(polling, fd) for fd in (7, 8, 9)]
    for socket in sockets:
        bring(polling, socket, DATAGRAM_BYTES, 0.00025)
    drained = []

    def drain(socket: Any) -> int:
        drained.append(socket.fileno())
        for one in sockets[:2]:
            if one.fd not in gone:
                gone.add(one.fd)
                polling.unwatch(one)  # type: ignore[arg-type]
        return 0

    gone: set[int] = set()
    polling.poll(drain, polling.due)
    assert drained == [7, 9]
    assert loop.watched == {9}
    polling.looked(sockets[0], DATAGRAM_BYTES, 200.0)  # type: ignore[arg-type]
    assert polling.due == inf
