"""A virtual clock, and as much of an event loop on it as the runtime's engine and tunnels ask for."""

import heapq
from collections.abc import Callable
from typing import Any, Protocol

START_S = 1000.0
NEVER = float("inf")


class Clock:
    """Events in order of time; those of one time in the order they were made."""

    def __init__(self) -> None:
        self.now = START_S
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0

    def at(self, when: float, what: Callable[[], None]) -> None:
        self._order += 1
        heapq.heappush(self.events, (when, self._order, what))

    def step(self, until: float) -> bool:
        """Do what is due next, all of one time, if that is not later than `until`."""
        events = self.events
        if not events or events[0][0] > until:
            return False
        when = events[0][0]
        self.now = max(self.now, when)
        while events and events[0][0] <= when:
            heapq.heappop(events)[2]()
        return True


class Readable(Protocol):
    """A device that a loop watches, level-triggered."""

    def fileno(self) -> int: ...

    @property
    def readable(self) -> bool: ...


class VirtualLoop:
    """One end's."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.closed = False  # a killed process: nothing of it happens any more
        self._readers: dict[int, tuple[Callable[..., None], tuple[Any, ...]]] = {}
        self._devices: dict[int, Readable] = {}  # that have had something

    def timer(self, callback: Callable[[], None]) -> "LoopTimer":
        """What the engine has for all its deadlines."""
        return LoopTimer(self, self._clock, callback)

    def add_reader(self, fd: int, callback: Callable[..., None], *args: Any) -> None:
        self._readers[fd] = callback, args
        device = self._devices.get(fd)
        if device is not None and device.readable:
            self._clock.at(self._clock.now, lambda: self.read(device))

    def remove_reader(self, fd: int) -> bool:
        return self._readers.pop(fd, None) is not None

    def read(self, device: Readable) -> None:
        """Call the device's reader while it has something and somebody wants it."""
        fd = device.fileno()
        self._devices[fd] = device
        while device.readable and fd in self._readers and not self.closed:
            callback, args = self._readers[fd]
            callback(*args)


class Alarm:
    """One timer that may be moved as often as one likes."""

    def __init__(self, clock: Clock, ring: Callable[[], None]) -> None:
        self._clock = clock
        self._ring = ring
        self._armed = NEVER
        self.due = NEVER

    def set(self, due: float) -> None:
        self.due = due
        if due < self._armed:
            self._armed = due
            self._clock.at(due, self._event)

    def _event(self) -> None:
        now = self._clock.now
        if self._armed > now:
            return  # an earlier one has been armed since, and has come
        self._armed = NEVER
        if self.due <= now:
            self.due = NEVER
            self._ring()
        elif self.due < NEVER:
            self.set(self.due)


class LoopTimer:
    """A `linux.timer.Timer` of a virtual loop."""

    def __init__(self, loop: VirtualLoop, clock: Clock, callback: Callable[[], None]) -> None:
        self._loop = loop
        self._clock = clock
        self._callback = callback
        self._alarm = Alarm(clock, self._ring)

    def set(self, delay_s: float) -> None:
        self._alarm.set(self._clock.now + delay_s)

    def close(self) -> None:
        self._alarm.set(NEVER)

    def _ring(self) -> None:
        if not self._loop.closed:
            self._callback()
