"""Sockets that bring much are looked at each two milliseconds, not woken up for at every datagram: what a
network card's interrupt moderation and NAPI do for the kernel.

At 50 Mbit/s a datagram comes each quarter of a millisecond. To wake up, open, deliver and account for each
alone costs an end more than the datagrams do; eight at a time are a run (datapath.batch). Fast lines bring
runs anyway, and what is small or seldom is somebody's question: neither waits.
"""

import asyncio
from collections.abc import Callable
from math import inf

from bondvpn.linux.udp import UdpSocket

# How long a socket is left alone: eight full datagrams of 50 Mbit/s. Over two such lines the receiver takes
# 5.1 CPU seconds of 10 (bbr 5.3) where 1 ms had 5.9, with the same p99 of a probe beside it (kernel, slow
# machine, 3 runs in turns).
POLL_S = 0.002
# Bytes a second, from one look to the next: 24 Mbit/s, four full datagrams a look. From half of that on, 16 +
# 50 + 30 Mbit/s take 1 % less, and what comes by a slow line would wait too.
RATE_MIN = 3e6
LARGE_BYTES = 1000  # fewer are ACKs, reports, questions and answers, however close together
RATE_MAX = 24e6  # 192 Mbit/s: 32 a look are worth a wake-up of their own


class Polling:
    """Which of a process's sockets are polled, and when."""

    def __init__(self, loop: asyncio.AbstractEventLoop, on_readable: Callable[[UdpSocket], None]) -> None:
        """`on_readable`: what the loop calls for a socket that is watched."""
        self._loop = loop
        self._on_readable = on_readable
        self._looked_at: dict[UdpSocket, float] = {}
        self._polled: list[UdpSocket] = []
        self.due = inf
        """When `poll` is."""

    def watch(self, socket: UdpSocket) -> None:
        self._looked_at[socket] = -inf
        self._loop.add_reader(socket.fileno(), self._on_readable, socket)

    def unwatch(self, socket: UdpSocket) -> None:
        del self._looked_at[socket]
        if socket in self._polled:
            self._polled.remove(socket)
        self._loop.remove_reader(socket.fileno())

    def looked(self, socket: UdpSocket, nbytes: int, now: float) -> None:
        """It had something, and brought so much: poll it from now on if it does so often enough."""
        before = self._looked_at.get(socket)
        if before is None:
            return  # no longer watched
        self._looked_at[socket] = now
        since = now - before
        if nbytes >= LARGE_BYTES and RATE_MIN * since < nbytes < RATE_MAX * since:
            self._loop.remove_reader(socket.fileno())
            self._polled.append(socket)
            self.due = min(self.due, now + POLL_S)

    def poll(self, drain: Callable[[UdpSocket], int], now: float) -> None:
        """Look at those that are polled; `drain` says how many bytes came. Where none did, or so many that
        more may wait, the loop watches again."""
        self.due = inf
        for socket in list(self._polled):
            if socket not in self._polled:
                continue  # unbound by what another one brought
            nbytes = drain(socket)
            if socket in self._polled and not 0 < nbytes < RATE_MAX * POLL_S:
                self._polled.remove(socket)
                self._looked_at[socket] = now
                self._loop.add_reader(socket.fileno(), self._on_readable, socket)
        if self._polled:
            self.due = now + POLL_S
