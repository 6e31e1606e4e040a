"""The engine's one timer, on a loop whose clock the test turns."""

from collections.abc import Callable
from typing import Any

import pytest

from bondvpn.runtime.engine import TIMER_MIN_S, Engine


class Loop:
    """As much of an event loop as timers need."""

    def __init__(self) -> None:
        self.now = 100.0
        self.timers: list[list[Any]] = []

    def call_later(self, delay: float, callback: Callable[[], None]) -> Any:
        timer = [self.now + delay, callback]
        self.timers.append(timer)

        class Handle:
            @staticmethod
            def cancel() -> None:
                if timer in self.timers:
                    self.timers.remove(timer)

        return Handle

    def advance(self, seconds: float) -> None:
        self.now += seconds
        for timer in [timer for timer in self.timers if timer[0] <= self.now]:
            self.timers.remove(timer)
            timer[1]()


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
    made = Engine(loop)  # type: ignore[arg-type]
    made.clock = lambda: loop.now
    made.control = Control()
    made.control_changed()
    return made


def test_the_control_plane_is_polled_when_it_asked_for_it(engine: Any) -> None:
    for _ in range(5001):
        engine.loop.advance(0.001)
    assert [round(at) for at in engine.control.polled] == [100, 101, 102, 103, 104, 105]
    assert len(engine.loop.timers) == 1


def test_a_stream_of_strangers_does_not_put_the_timer_off(engine: Any) -> None:
    """Two a millisecond: each asks for the control plane, and it still gets its turn."""
    for _ in range(2000):
        engine.handshake(bytes(40), None, engine.loop.now)
        engine.loop.advance(0.0005)
    assert engine.control.strangers == 2000
    assert len(engine.control.polled) > 200
    assert len(engine.loop.timers) <= 1


def test_the_nearest_deadline_wins(engine: Any) -> None:
    engine.loop.advance(0.002)
    engine.wake_at(engine.loop.now + 0.5, engine.loop.now)
    engine.wake_at(engine.loop.now + 0.7, engine.loop.now)
    assert [round(when - engine.loop.now, 6) for when, _ in engine.loop.timers] == [0.5]
    engine.wake_at(engine.loop.now - 1, engine.loop.now)
    assert [round(when - engine.loop.now, 6) for when, _ in engine.loop.timers] == [TIMER_MIN_S]
