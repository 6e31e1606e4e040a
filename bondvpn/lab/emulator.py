"""The link emulator: one process that carries frames between pairs of interfaces as its lines' shapes say.

1. `Ring.read` takes what has arrived, each frame with the kernel's arrival stamp.
2. `Pipe.offer` decides: refused, or when it will arrive at the other end.
3. `Pipe.due` gives back what has arrived by now; it is sent on the other interface.
4. Sleep until the next arrival is due or, when little is on its way, until a frame comes.

    python -m bondvpn.lab.emulator '{"control": PATH, "lines": [
        {"name": ..., "near": INTERFACE, "far": INTERFACE, "up": SHAPE, "down": SHAPE}, ...]}'

The control socket is of type SEQPACKET; each request and each answer is one packet of JSON: {"set": LINE,
"direction": "up" | "down" | null, "changes": {...}}, {"cut": LINE, "direction": ...}, {"restore": ...},
{"counters": true}.
The process dies with the thread that started it.
"""

import contextlib
import ctypes
import gc
import json
import os
import resource
import select
import signal
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bondvpn.errors import BondvpnError, ConfigError, SystemFault
from bondvpn.lab.pipe import Pipe
from bondvpn.lab.ring import Ring
from bondvpn.lab.shape import Shape

# Tuning. While frames are on their way in numbers, sleep at least TICK_S: a wake-up costs 24 µs of processor
# here, more than a frame does, and 2,000 a second do for 150 Mbit/s.
TICK_S = 200e-6
# Timers wake 0.1 to 0.3 ms late (measured, 2 virtual cores): aim early, so that the error centres on 0.
EARLY_S = 250e-6
# Arrivals carry stamps, so at such times they need not wake us; they are looked at this often.
SCAN_S = 1e-3
# From this many frames on their way, wake by the clock; with fewer, by each arrival too.
DENSE_FRAMES = 8
BATCH_FRAMES = 256

# linux/prctl.h
PR_SET_PDEATHSIG = 1
PR_SET_TIMERSLACK = 29
TIMER_SLACK_NS = 1

REQUEST_BYTES_MAX = 65536


@dataclass(slots=True)
class Way:
    """One direction of a line: what arrives at `source` leaves at `sink`, the pipe's time later."""

    source: Ring
    sink: Ring
    pipe: Pipe
    send_errors: int = 0


class Emulator:
    """The lines of one process, and its control socket."""

    def __init__(self, lines: list[dict[str, Any]], control: socket.socket) -> None:
        self._control = control
        self._lines: dict[str, dict[str, Way]] = {}
        for line in lines:
            near, far = Ring(line["near"]), Ring(line["far"])
            self._lines[line["name"]] = {
                "up": Way(near, far, Pipe(Shape(**line["up"]))),
                "down": Way(far, near, Pipe(Shape(**line["down"]))),
            }
        self._ways = [way for pair in self._lines.values() for way in pair.values()]
        self._askers: list[socket.socket] = []

    def run(self) -> None:
        """Carry frames for ever."""
        while True:
            self._take()
            self._deliver()
            self._sleep()

    def _take(self) -> None:
        """Steps 1 and 2."""
        now_s = time.monotonic()
        # Arrivals are stamped by the wall clock, which may be set at any time: use only their age.
        epoch_s = now_s - time.clock_gettime(time.CLOCK_REALTIME)
        for way in self._ways:
            offer = way.pipe.offer
            for stamp_ns, frame in way.source.read(BATCH_FRAMES):
                offer(frame, min(stamp_ns * 1e-9 + epoch_s, now_s))

    def _deliver(self) -> None:
        """Step 3."""
        horizon = time.monotonic() + EARLY_S
        for way in self._ways:
            send = way.sink.send
            for frame in way.pipe.due(horizon):
                try:
                    send(frame)
                except OSError:  # the interface went down, or its queue is full: a line loses frames
                    way.send_errors += 1

    def _sleep(self) -> None:
        """Step 4."""
        deadlines = [at for way in self._ways if (at := way.pipe.next_deadline()) is not None]
        wakers: list[Any] = [self._control, *self._askers]
        timeout = None
        dense = False
        if deadlines:
            timeout = max(0.0, min(deadlines) - EARLY_S - time.monotonic())
            if dense := sum(len(way.pipe) for way in self._ways) >= DENSE_FRAMES:
                timeout = min(max(timeout, TICK_S), SCAN_S)
        if not dense:
            wakers += [way.source for way in self._ways]
        readable, _, _ = select.select(wakers, (), (), timeout)
        for waker in readable:
            if waker is self._control:
                self._askers.append(self._control.accept()[0])
            elif waker in self._askers:
                self._answer(waker)

    def _answer(self, asker: socket.socket) -> None:
        request = asker.recv(REQUEST_BYTES_MAX)
        if not request:
            self._askers.remove(asker)
            asker.close()
            return
        try:
            answer = self._do(json.loads(request))
        except BondvpnError as error:
            answer = {"error": str(error)}
        except (KeyError, TypeError, ValueError) as error:
            answer = {"error": f"not a request: {error!r}"}
        # A full or closed socket is the asker's trouble; the lines go on.
        with contextlib.suppress(OSError):
            asker.send(json.dumps(answer).encode(), socket.MSG_DONTWAIT)

    def _do(self, request: dict[str, Any]) -> dict[str, Any]:
        if "counters" in request:
            return self._counters()
        verb = next((verb for verb in ("set", "cut", "restore") if verb in request), None)
        if verb is None:
            raise ConfigError(["accepted requests: set, cut, restore, counters"])
        now_s = time.monotonic()
        ways = self._addressed(request[verb], request.get("direction"))
        if verb == "set":
            # All directions are checked before any is changed.
            shapes = [way.pipe.shape.changed(**request["changes"]) for way in ways]
            for way, shape in zip(ways, shapes, strict=True):
                way.pipe.reshape(shape, now_s)
        for way in ways:
            if verb == "cut":
                way.pipe.cut()
            elif verb == "restore":
                way.pipe.restore()
        return {"done": True}

    def _addressed(self, line: str, direction: str | None) -> list[Way]:
        if line not in self._lines:
            raise ConfigError([f"line {line!r}: not here (lines: {', '.join(self._lines)})"])
        pair = self._lines[line]
        if direction is None:
            return list(pair.values())
        if direction not in pair:
            raise ConfigError([f"direction {direction!r}: up, down, or null for both"])
        return [pair[direction]]

    def _counters(self) -> dict[str, Any]:
        now_s = time.monotonic()
        used = resource.getrusage(resource.RUSAGE_SELF)
        return {
            "cpu_s": used.ru_utime + used.ru_stime,
            "lines": {
                name: {
                    direction: way.pipe.counters(now_s)
                    | {
                        "shape": way.pipe.shape.as_dict(),
                        "ring_drops": way.source.drops(),
                        "send_errors": way.send_errors,
                    }
                    for direction, way in pair.items()
                }
                for name, pair in self._lines.items()
            },
        }


def ask(control: Path, request: dict[str, Any], timeout_s: float = 2.0) -> dict[str, Any]:
    """Put a request to a running emulator and return its answer.

    Raises SystemFault when none answers in time, ConfigError when it refuses the request.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as asker:
        asker.settimeout(timeout_s)
        try:
            asker.connect(str(control))
            asker.send(json.dumps(request).encode())
            answer: dict[str, Any] = json.loads(asker.recv(1 << 20))
        except OSError as error:
            raise SystemFault(f"no link emulator answers at {control}: {error}") from error
    if "error" in answer:
        raise ConfigError([answer["error"]])
    return answer


def _settle_process() -> None:
    """Die with the parent, wake on time, and do not pause to collect garbage that is never made."""
    libc = ctypes.CDLL(None, use_errno=True)
    parent = os.getppid()
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    libc.prctl(PR_SET_TIMERSLACK, TIMER_SLACK_NS)
    if os.getppid() != parent:
        sys.exit(1)
    # A line does not wait for a processor: go before what it carries. Where that is not allowed, go on.
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    gc.freeze()
    gc.disable()


def main() -> None:
    """Run until killed; the only argument is the JSON of the module's docstring."""
    _settle_process()
    arguments = json.loads(sys.argv[1])
    path = Path(arguments["control"])
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as control:
        # The socket's name appears only when the lines stand: who can ask knows that frames pass.
        emulator = Emulator(arguments["lines"], control)
        control.bind(str(path))
        control.listen()
        with contextlib.suppress(KeyboardInterrupt):
            emulator.run()


if __name__ == "__main__":
    main()
