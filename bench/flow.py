"""One TCP flow that notes when its bytes arrive, to the receive call: iperf3 tells no better than 100 ms."""

import contextlib
import itertools
import socket
import threading
import time
from typing import Self

from bondvpn.lab import namespace
from bondvpn.lab.topology import Lab

BLOCK_BYTES = 1 << 16


class Flow:
    """A flow from srv to gw as fast as it goes, while entered; `address` is gw's."""

    def __init__(self, lab: Lab, address: str, congestion: str) -> None:
        with namespace.entered(lab.namespace("gw")):
            listener = socket.create_server((address, 0))
        with namespace.entered(lab.namespace("srv")):
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
