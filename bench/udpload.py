"""A UDP source and a UDP sink for rates that iperf3 does not reach; run as a script, one process each.

    udpload.py send ADDRESS PORT PAYLOAD_BYTES PACKETS_PER_S SECONDS
        prints {"sent": n, "lasted_s": t, "cpu_s": t}
    udpload.py sink ADDRESS PORT
        prints "ready", then {"received": n, "cpu_s": t}

The source sends one packet a system call, without any offload, in bursts every INTERVAL_S; the sink drains
its socket every DRAIN_S until its standard input is closed. Both loops run inside `map`, so that a packet
costs the interpreter next to nothing and the figure is the tunnel's. Nothing but the standard library: it
starts in 20 ms.
"""

import contextlib
import ctypes
import errno
import itertools
import json
import select
import socket
import sys
import time
from collections import deque

INTERVAL_S = 0.0001
DRAIN_S = 0.001
BUFFER_BYTES = 32 << 20
BURST_MAX = 256  # after a pause: 1 ms at the highest rates; what is owed beyond that is not made up for
PR_SET_TIMERSLACK = 29  # linux/prctl.h
SO_SNDBUFFORCE, SO_RCVBUFFORCE = 32, 33  # asm-generic/socket.h
PACKET_MAX_BYTES = 2048


def main() -> None:
    ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1)  # ns; 50 µs otherwise, as much as the interval
    what, address, port, *rest = sys.argv[1:]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.setblocking(False)
        if what == "send":
            udp.connect((address, int(port)))
            size, rate, seconds = (float(word) for word in rest)
            report = send(udp, int(size), rate, seconds)
        else:
            udp.bind((address, int(port)))
            report = sink(udp)
    print(json.dumps(report | {"cpu_s": time.process_time()}), flush=True)


def send(udp: socket.socket, size: int, rate: float, seconds: float) -> dict[str, float]:
    """Send for that long; at its end, how many packets the kernel took."""
    _enlarge(udp, SO_SNDBUFFORCE)
    payload = bytes(size)
    started = time.monotonic()
    sent = 0
    owed = 0.0
    at = started
    while at < started + seconds:
        now = time.monotonic()
        owed = min(owed + (now - at) * rate, BURST_MAX)
        at = now
        burst = int(owed)
        owed -= burst
        sent += _count(map(udp.send, itertools.repeat(payload, burst)))
        time.sleep(max(0.0, at + INTERVAL_S - time.monotonic()))
    return {"sent": sent, "lasted_s": time.monotonic() - started}


def sink(udp: socket.socket) -> dict[str, float]:
    """Count what comes until standard input ends, and what is still in the socket then."""
    _enlarge(udp, SO_RCVBUFFORCE)
    print("ready", flush=True)
    buffer = bytearray(PACKET_MAX_BYTES)
    received = 0
    while not select.select([0], [], [], 0)[0]:
        received += _count(map(udp.recv_into, itertools.repeat(buffer)))
        time.sleep(DRAIN_S)
    received += _count(map(udp.recv_into, itertools.repeat(buffer)))
    return {"received": received}


def _enlarge(udp: socket.socket, option: int) -> None:
    with contextlib.suppress(PermissionError):  # not root: then it stays as it is
        udp.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES)


def _count(calls: "map[int]") -> int:
    """Make the calls until one would block; how many did not."""
    counter = itertools.count()
    try:
        deque(zip(calls, counter, strict=False), maxlen=0)  # `zip` asks `calls` first
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.ENOBUFS):  # none there; or the interface's queue is full
            raise
    return next(counter)


if __name__ == "__main__":
    main()
