"""One TCP flow that notes when its bytes arrive, to the receive call: iperf3 tells no better than 100 ms."""

import contextlib
import itertools
import socket
import struct
import threading
import time
from typing import NamedTuple, Self

from bondvpn.lab import namespace
from bondvpn.lab.topology import Lab

BLOCK_BYTES = 1 << 16
TCP_INFO = struct.Struct("=8B24I")  # linux/tcp.h, up to tcpi_total_retrans


class Sender(NamedTuple):
    """What the sending kernel thinks of a flow."""

    congestion_window: int
    """Segments; so the next."""
    slow_start_threshold: int
    lost: int
    sent_again: int
    """All along."""
    rtt_s: float
    rto_s: float


class Flow:
    """A flow as fast as it goes, while entered, to `address` of gw ("down") or of srv ("up")."""

    def __init__(self, lab: Lab, address: str, congestion: str, way: str = "down") -> None:
        receiver, sender = ("gw", "srv") if way == "down" else ("srv", "gw")
        with namespace.entered(lab.namespace(receiver)):
            listener = socket.create_server((address, 0))
        with namespace.entered(lab.namespace(sender)):
            self._out = socket.socket()
        with listener:
            self._out.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, congestion.encode())
            self._out.settimeout(5)
            self._out.connect(listener.getsockname())
            self._in, _ = listener.accept()
        self._out.settimeout(None)
        self._arrivals: list[tuple[float, int]] = []
        self._stopping = False
        self.broken: str | None = None
        """Why the connection was lost; None while it lives."""
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._send, self._receive)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping = True
        for end in (self._out, self._in):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._out.close()
        self._in.close()

    def bits_per_second(self, since: float, until: float) -> float:
        """Goodput between two moments (monotonic)."""
        arrived = sum(size for at, size in list(self._arrivals) if since <= at < until)
        return arrived * 8 / (until - since)

    @property
    def sender(self) -> Sender:
        """TCP_INFO of the sending end."""
        fields = TCP_INFO.unpack(self._out.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO.size))[8:]
        return Sender(fields[18], fields[17], fields[6], fields[23], fields[15] / 1e6, fields[0] / 1e6)

    @property
    def arrivals(self) -> list[tuple[float, int]]:
        """When bytes came (monotonic), and how many."""
        return list(self._arrivals)

    def longest_silence_s(self, since: float, until: float) -> float:
        """The longest time without a byte in there, up to both its ends."""
        inside = [at for at, _ in list(self._arrivals) if since <= at < until]
        return max(later - earlier for earlier, later in itertools.pairwise([since, *inside, until]))

    def _send(self) -> None:
        block = bytes(BLOCK_BYTES)
        try:
            while True:
                self._out.sendall(block)
        except OSError as error:
            self._ended(f"sender: {error}")

    def _receive(self) -> None:
        block = bytearray(BLOCK_BYTES)
        try:
            while size := self._in.recv_into(block):
                self._arrivals.append((time.monotonic(), size))
            self._ended("receiver: the connection was closed")
        except OSError as error:
            self._ended(f"receiver: {error}")

    def _ended(self, why: str) -> None:
        if not self._stopping:
            self.broken = why
