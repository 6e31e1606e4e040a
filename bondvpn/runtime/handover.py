"""Initiations that reached another worker than their client's.

A lane index tells the kernel whose a datagram is, an initiation tells it only once it is opened. The worker
that got it does that, refuses strangers and replays, and hands the rest, with the address it came from, to
the client's worker, which opens it again and answers by its own socket of the same port.
"""

import contextlib
import socket
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from bondvpn.linux.udp import UdpSocket
from bondvpn.noise.handshake import ReceivedInitiation
from bondvpn.session.link import Path
from bondvpn.stats import Drop

MESSAGE_MAX_BYTES = 2048  # an initiation is 166 bytes, and never larger than a response may be
READS_PER_WAKEUP = 16  # one costs two X25519 exchanges; timers and clients want their turn too


class _Handed(msgspec.Struct, frozen=True, array_like=True):
    port: int
    """Which of the listen addresses it came to."""
    address: tuple[Any, ...]
    local: bytes
    datagram: bytes


class Inbox:
    """Where one worker is handed initiations. Made before its worker: it outlives each process of that."""

    def __init__(self) -> None:
        # SEQPACKET is bounded in bytes, DGRAM in messages: ten, where nobody raised max_dgram_qlen.
        self.outlet, self.inlet = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.outlet.setblocking(False)
        self.inlet.setblocking(False)

    def close(self) -> None:
        self.outlet.close()
        self.inlet.close()


class Handover:
    """One worker's part. Implements `session.responder.Elsewhere`."""

    def __init__(self, sockets: Sequence[UdpSocket], own: Inbox, others: Mapping[bytes, Inbox]) -> None:
        """`sockets`: this worker's, one per listen address; `others`: the inbox for each client, by public
        key, that another worker serves."""
        self._sockets = sockets
        self._ports = {id(one): port for port, one in enumerate(sockets)}
        self._own = own
        self._others = others
        self._newest: dict[bytes, bytes] = {}  # public key -> timestamp of what was handed over last

    def hand_over(self, received: ReceivedInitiation, datagram: bytes, path: Path) -> Drop | None:
        inbox = self._others.get(received.peer_public)
        if inbox is None:
            return Drop.HANDSHAKE
        if received.timestamp <= self._newest.get(received.peer_public, b""):
            return Drop.TIMESTAMP  # the copies from the client's other lines, mostly
        handed = _Handed(self._ports[id(path.socket)], path.address, path.local, datagram)
        try:
            inbox.inlet.send(msgspec.msgpack.encode(handed))
        except OSError:  # it has more waiting than it can take; the client tries again
            return Drop.SOCKET
        self._newest[received.peer_public] = received.timestamp
        return None

    def fileno(self) -> int:
        """Readable when something was handed over."""
        return self._own.outlet.fileno()

    def receive(self) -> Iterator[tuple[bytes, Path]]:
        """What was handed over, as if it had come to this worker's own sockets; drained, but bounded."""
        with contextlib.suppress(BlockingIOError):
            for _ in range(READS_PER_WAKEUP):
                handed = msgspec.msgpack.decode(self._own.outlet.recv(MESSAGE_MAX_BYTES), type=_Handed)
                yield handed.datagram, Path(self._sockets[handed.port], handed.address, handed.local)
