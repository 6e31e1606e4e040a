"""Several TCP flows that send messages at the same moments, and when each message was complete."""

import selectors
import socket
import threading
import time
from typing import Self

import numpy as np
from numpy.typing import NDArray

from bondvpn.errors import SystemFault
from bondvpn.lab import namespace
from bondvpn.lab.topology import Lab

CONGESTION = "cubic"
END_WAIT_S = 3.0


class Delays:
    """`seconds`: array (flows, messages) of delays from the common moment of sending, infinite for those that
    never came."""

    def __init__(self, seconds: NDArray[np.float64]) -> None:
        self.seconds = seconds

    def _late(self, by_s: float) -> NDArray[np.bool_]:
        return self.seconds > np.median(self.seconds, axis=1, keepdims=True) + by_s

    def late_share(self, by_s: float) -> float:
        """The share of messages that came later than their flow's median by more than `by_s`."""
        return float(self._late(by_s).mean())

    def shared_lateness(self, by_s: float) -> list[float]:
        """For each pair of flows, both ways, how much likelier a message is late given that the other's of
        the same moment is: P(late | other late) - P(late). 0 for flows that do not touch each other, 1 - P
        for flows that wait for each other; pairs of which the other was never late are left out."""
        late = self._late(by_s)
        return [
            float(late[i][late[j]].mean() - late[i].mean())
            for i in range(len(late))
            for j in range(len(late))
            if i != j and late[j].any()
        ]


class Messages:
    """The flows, from srv to `address` of gw, while entered; `delays` afterwards."""

    def __init__(self, lab: Lab, address: str, flows: int, message_bytes: int, per_second: float) -> None:
        self._size = message_bytes
        self._interval_s = 1 / per_second
        self._out: list[socket.socket] = []
        self._in: list[socket.socket] = []
        with namespace.entered(lab.namespace("gw")):
            listener = socket.create_server((address, 0), backlog=flows)
        with listener:
            for _ in range(flows):
                with namespace.entered(lab.namespace("srv")):
                    sender = socket.socket()
                sender.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, CONGESTION.encode())
                sender.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sender.settimeout(5)
                sender.connect(listener.getsockname())
                self._out.append(sender)
                self._in.append(listener.accept()[0])
        self._sent: list[float] = []
        self._came: list[list[float]] = [[] for _ in range(flows)]
        self._stop = threading.Event()
        self._broken: str | None = None
        self._threads = [threading.Thread(target=work) for work in (self._send, self._receive)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        for end in (*self._out, *self._in):
            end.close()

    def delays(self, omit: int) -> Delays:
        """All but the first `omit` messages. Raises SystemFault when a flow broke."""
        if self._broken is not None:
            raise SystemFault(f"a flow of messages broke: {self._broken}")
        sent = np.array(self._sent)
        came = np.full((len(self._came), len(sent)), np.inf)
        for row, times in zip(came, self._came, strict=True):
            row[: len(times)] = times
        return Delays((came - sent)[:, omit:])

    def _send(self) -> None:
        message = bytes(self._size)
        due = time.monotonic()
        try:
            while not self._stop.wait(max(0.0, due - time.monotonic())):
                self._sent.append(time.monotonic())
                for sender in self._out:
                    sender.sendall(message)
                due += self._interval_s
        except OSError as error:
            self._broken = str(error)
        finally:
            for sender in self._out:
                sender.shutdown(socket.SHUT_WR)

    def _receive(self) -> None:
        block = bytearray(1 << 16)
        received = [0] * len(self._in)
        give_up_at = None
        with selectors.DefaultSelector() as selector:
            for number, end in enumerate(self._in):
                end.setblocking(False)
                selector.register(end, selectors.EVENT_READ, number)
            while selector.get_map():
                if self._stop.is_set():
                    give_up_at = give_up_at or time.monotonic() + END_WAIT_S
                    if time.monotonic() > give_up_at:
                        return
                for key, _ in selector.select(0.1):
                    size = key.fileobj.recv_into(block)  # type: ignore[union-attr]
                    now = time.monotonic()
                    if not size:
                        selector.unregister(key.fileobj)
                    received[key.data] += size
                    whole = received[key.data] // self._size
                    times = self._came[key.data]
                    times += [now] * (whole - len(times))
