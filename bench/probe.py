"""A sparse UDP flow that is echoed, beside whatever else runs: what a call or a game feels.

    gw: datagram k at k / rate --> srv: echo --> gw

It is a process of its own, before all others of the machine: a probe that waits for a processor between its
stamp and its send call would count as the line's delay. Arrivals are the kernel's stamps, and the time that
the echo takes in srv is left out.

    python -m bench.probe '{"gw": NAMESPACE, "srv": NAMESPACE, "address": SRV, "rate": PER_SECOND}'

prints "ready", runs until its standard input ends, waits for the latest echoes and prints JSON.
"""

import contextlib
import itertools
import json
import os
import select
import socket
import struct
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any, Self

from bondvpn.errors import SystemFault
from bondvpn.lab import namespace
from bondvpn.lab.topology import Lab
from bondvpn.lab.tunnel import PEER_ADDRESS

PORT = 7  # echo, RFC 862
SO_TIMESTAMPNS = 35  # asm-generic/socket.h
PAYLOAD = struct.Struct("!IQQ")  # number, ns between arrival and echo in srv, padding follows
PAYLOAD_BYTES = 172  # 20 ms of G.711 and its RTP header
LATE_S = 1.0  # an echo later than this is lost to a call
STOP_WAIT_S = 10.0


@dataclass(frozen=True, slots=True)
class Echoes:
    """What became of the datagrams; times are monotonic seconds."""

    sent: list[float]
    trips: list[float | None]
    """Round-trip times in seconds, None for what never came back."""

    def within(self, since: float, until: float) -> "Echoes":
        """Those sent in there."""
        inside = [i for i, at in enumerate(self.sent) if since <= at < until]
        return Echoes([self.sent[i] for i in inside], [self.trips[i] for i in inside])

    @property
    def lost(self) -> int:
        return sum(trip is None for trip in self.trips)

    def quantile(self, share: float) -> float:
        """The round-trip time that `share` of the datagrams do not exceed; infinite where that many were
        lost. Raises SystemFault without datagrams."""
        if not self.trips:
            raise SystemFault("the probe sent nothing in that time")
        ordered = sorted(float("inf") if trip is None else trip for trip in self.trips)
        return ordered[max(0, -(-len(ordered) * round(share * 1000) // 1000) - 1)]

    def longest_silence_s(self, since: float, until: float) -> float:
        """The longest time in there without an echo coming in, up to both its ends."""
        came = sorted(at + trip for at, trip in zip(self.sent, self.trips, strict=True) if trip is not None)
        inside = [at for at in came if since <= at < until]
        return max(later - earlier for earlier, later in itertools.pairwise([since, *inside, until]))


class Probe:
    """The flow while entered; `echoes` afterwards."""

    def __init__(self, lab: Lab, rate: float, address: str = PEER_ADDRESS) -> None:
        """`rate`: datagrams a second. `address`: srv's, inside the tunnel or on a line."""
        self.echoes = Echoes([], [])
        self._request = {
            "gw": lab.namespace("gw"),
            "srv": lab.namespace("srv"),
            "address": address,
            "rate": rate,
        }
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        argv = [sys.executable, "-m", "bench.probe", json.dumps(self._request)]
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        if self._process.stdout.readline().strip() != "ready":
            self._process.kill()
            self._process.communicate()
            raise SystemFault("the probe did not start")
        return self

    def __exit__(self, *_: object) -> None:
        process, self._process = self._process, None
        assert process is not None
        try:
            found: dict[str, Any] = json.loads(process.communicate(timeout=STOP_WAIT_S)[0])
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise SystemFault("the probe did not end") from None
        self.echoes = Echoes(found["sent"], found["trips"])


def main() -> None:
    request = json.loads(sys.argv[1])
    with namespace.entered(request["srv"]):
        there = _socket((request["address"], PORT))
    with namespace.entered(request["gw"]):
        here = _socket(None)
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    print("ready", flush=True)
    sent, trips = _run(here, there, request["address"], 1 / request["rate"])
    print(json.dumps({"sent": sent, "trips": trips}))


def _socket(address: tuple[str, int] | None) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    made.setblocking(False)
    if address is not None:
        made.bind(address)
    return made


def _run(
    here: socket.socket, there: socket.socket, address: str, interval_s: float
) -> tuple[list[float], list[float | None]]:
    sent: list[float] = []
    sent_ns: list[int] = []
    trips: list[float | None] = []
    began = time.monotonic()
    ends = None
    watched: list[Any] = [sys.stdin, here, there]
    while ends is None or time.monotonic() < ends:
        due = began + len(sent) * interval_s if ends is None else ends
        readable, _, _ = select.select(watched, (), (), max(0.0, due - time.monotonic()))
        if sys.stdin in readable:
            watched.remove(sys.stdin)
            ends = time.monotonic() + LATE_S
        if there in readable:
            _echo(there)
        if here in readable:
            payload, at_ns, _ = _receive(here)
            number, held_ns, _ = PAYLOAD.unpack_from(payload)
            trips[number] = (at_ns - sent_ns[number] - held_ns) / 1e9
        if ends is None and time.monotonic() >= due:
            sent.append(time.monotonic())
            sent_ns.append(time.time_ns())
            trips.append(None)
            payload = PAYLOAD.pack(len(sent) - 1, 0, 0).ljust(PAYLOAD_BYTES, b"\0")
            # No route for a moment, a full queue: a datagram lost like any other.
            with contextlib.suppress(OSError):
                here.sendto(payload, (address, PORT))
    return sent, trips


def _echo(there: socket.socket) -> None:
    payload, at_ns, sender = _receive(there)
    number, _, _ = PAYLOAD.unpack_from(payload)
    with contextlib.suppress(OSError):
        held_ns = time.time_ns() - at_ns
        there.sendto(PAYLOAD.pack(number, held_ns, 0).ljust(PAYLOAD_BYTES, b"\0"), sender)


def _receive(receiver: socket.socket) -> tuple[bytes, int, Any]:
    """A datagram, the kernel's arrival stamp in ns of the wall clock, and whom it is from."""
    payload, ancillary, _, sender = receiver.recvmsg(2048, socket.CMSG_SPACE(16))
    seconds, nanoseconds = struct.unpack("=qq", ancillary[0][2])
    return payload, seconds * 1_000_000_000 + nanoseconds, sender


if __name__ == "__main__":
    main()
