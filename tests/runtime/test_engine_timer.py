"""The engine's one timer, on a loop whose clock the test turns."""

from collections.abc import Callable
from typing import Any

import pytest

from bondvpn.runtime.engine import TIMER_MIN_S, Engine
from bondvpn.runtime.polling import POLL_S


class Loop:
    """As much of an event loop as the engine's timer needs."""

    def __init__(self) -> None:
        self.now = 100.0
        self.due = float("inf")
        self.watched: set[int] = set()

    def add_reader(self, fd: int, callback: Callable[..., None], *args: Any) -> None:
        self.watched.add(fd)

    def remove_reader(self, fd: int) -> None:
        self.watched.remove(fd)

    remove_writer = remove_reader

    def timer(self, callback: Callable[[], None]) -> "Loop":
        self.callback = callback
        return self

    def set(self, delay_s: float) -> None:
        self.due = self.now + delay_s

    def close(self) -> None:
        self.due = float("inf")

    def advance(self, seconds: float) -> None:
        self.now += seconds
        if self.due <= self.now:
            self.due = float("inf")
            self.callback()


class Control:
    """A control plane that wants to be polled each second."""

    def __init__(self) -> None:
        self.polled: list[float] = []
        self.strangers = 0

    def poll(self, now: float) -> None:
        self.polled.append(now)

    def deadline(self, now: float) -> float:
        return now + 1.0

    def handshake(self, datagram: bytes, path: Any, now: float) -> None:
        self.strangers += 1

    def confirm(self, keypair: Any, now: float) -> None:
        pass


@pytest.fixture
def engine() -> Engine:
    loop = Loop()
    made = Engine(loop, clock=lambda: loop.now, alarm=loop.timer)  # type: ignore[arg-type]
    made.control = Control()
    made.control_changed()
    return made


def test_the_control_plane_is_polled_when_it_asked_for_it(engine: Any) -> None:
    for _ in range(5001):
        engine.loop.advance(0.001)
    assert [round(at) for at in engine.control.polled] == [100, 101, 102, 103, 104, 105]


def test_a_stream_of_strangers_does_not_put_the_timer_off(engine: Any) -> None:
    """Two while the timer runs: each asks for the control plane, and it still gets its turn."""
    for _ in range(2000):
        engine.handshake(bytes(40), None, engine.loop.now)
        engine.loop.advance(TIMER_MIN_S / 2)
    assert engine.control.strangers == 2000
    assert len(engine.control.polled) > 200


def test_the_nearest_deadline_wins(engine: Any) -> None:
    engine.loop.advance(0.002)
    engine.wake_at(engine.loop.now + 0.5, engine.loop.now)
    engine.wake_at(engine.loop.now + 0.7, engine.loop.now)
    assert engine.loop.due - engine.loop.now == pytest.approx(0.5)
    engine.wake_at(engine.loop.now - 1, engine.loop.now)
    assert engine.loop.due - engine.loop.now == pytest.approx(TIMER_MIN_S)


def test_a_socket_under_load_is_looked_at_by_the_timer(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[tuple[float, bool]] = []
    waiting = [1472, 1472, 5 * 1472, 4 * 1472, 0, 1472]

    def on_readable(_: Any, clock: Callable[[], float], *, polled: bool = False) -> int:
        looks.append((clock(), polled))
        return waiting.pop(0)

    class Socket:
        def fileno(self) -> int:
            return 7

    monkeypatch.setattr(engine.inbound, "on_readable", on_readable)
    loop, socket = engine.loop, Socket()
    engine.watch_socket(socket)
    engine._on_socket(socket)
    loop.advance(0.00025)
    engine._on_socket(socket)
    assert loop.watched == set()
    until = loop.now + 4 * POLL_S
    while loop.now < until:
        loop.advance(0.0001)
    assert [polled for _, polled in looks] == [False, False, True, True, True]
    assert [at - looks[1][0] for at, polled in looks if polled] == pytest.approx(
        [POLL_S, 2 * POLL_S, 3 * POLL_S], abs=2e-4
    )
    assert loop.watched == {7}
