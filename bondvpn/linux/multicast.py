"""What the kernel tells everybody who listens to a netlink group, as a socket for an event loop.

What changed is not read out of the messages but asked for afterwards: messages get lost when many come at
once, and only the state as a whole is worth acting on.
"""

import abc
import socket
import struct
from collections.abc import Iterator
from typing import Self

from bondvpn.errors import SystemFault

_MESSAGE = struct.Struct("=IHHII")  # linux/netlink.h, struct nlmsghdr: length, type, flags, sequence, port
_RECEIVE_BYTES = 1 << 16


class Multicast(abc.ABC):
    """A non-blocking socket; ask `changed` after it became readable."""

    def __init__(self, protocol: int, groups: int, watched: str) -> None:
        """`protocol`: NETLINK_...; `groups`: a bit each; `watched`: what, in words. Raises SystemFault."""
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK
        try:
            self._socket = socket.socket(socket.AF_NETLINK, kind, protocol)
        except OSError as fault:  # a kernel without that protocol
            raise SystemFault(f"cannot watch {watched}: {fault.strerror}") from None
        try:
            self._socket.bind((0, groups))
        except OSError as fault:
            self._socket.close()
            raise SystemFault(f"cannot watch {watched}: {fault.strerror}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def changed(self) -> bool:
        """Whether anything that came since the last call matters."""
        relevant = False
        while True:
            try:
                relevant |= self._matters(self._socket.recv(_RECEIVE_BYTES))
            except BlockingIOError:
                return relevant
            except OSError:
                relevant = True  # ENOBUFS: more came than the socket could hold

    @abc.abstractmethod
    def _matters(self, datagram: bytes) -> bool:
        """Whether some message of it does."""


def messages(datagram: bytes) -> Iterator[tuple[int, int, int]]:
    """(type, where its body begins, where it ends) of each message, as far as they are whole."""
    at = 0
    while at + _MESSAGE.size <= len(datagram):
        length, kind, *_ = _MESSAGE.unpack_from(datagram, at)
        yield kind, at + _MESSAGE.size, min(at + length, len(datagram))
        at += max(length + 3 & ~3, _MESSAGE.size)  # NLMSG_ALIGN
