"""Hears that the network changed: links, addresses, default routes, rules.

What changed is not read out of the messages but asked for afterwards (`Netlink.network`): messages get lost
when many come at once, and only the state as a whole is worth planning from.
"""

import socket
import struct
from typing import Self

from pyroute2.netlink import rtnl

from bondvpn.errors import SystemFault

_GROUPS = (
    rtnl.RTMGRP_LINK
    | rtnl.RTMGRP_IPV4_IFADDR
    | rtnl.RTMGRP_IPV4_ROUTE
    | rtnl.RTMGRP_IPV4_RULE
    | rtnl.RTMGRP_IPV6_IFADDR
    | rtnl.RTMGRP_IPV6_ROUTE
    | rtnl.RTMGRP_IPV6_RULE
)
# linux/netlink.h, linux/rtnetlink.h
_MESSAGE = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port
_ROUTE = struct.Struct("=BB")  # struct rtmsg: family, length of the destination's prefix
_ROUTES = (rtnl.RTM_NEWROUTE, rtnl.RTM_DELROUTE)
_RECEIVE_BYTES = 1 << 16


class Watch:
    """A non-blocking socket for an event loop; `changed` after it became readable."""

    def __init__(self) -> None:
        """Raises SystemFault."""
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
        try:
            self._socket.bind((0, _GROUPS))
        except OSError as fault:
            self._socket.close()
            raise SystemFault(f"cannot watch the network's changes: {fault.strerror}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def changed(self) -> bool:
        """Whether anything that came since the last call may matter to an uplink."""
        relevant = False
        while True:
            try:
                relevant |= _matters(self._socket.recv(_RECEIVE_BYTES))
            except BlockingIOError:
                return relevant
            except OSError:
                relevant = True  # ENOBUFS: more came than the socket could hold


def _matters(datagram: bytes) -> bool:
    """Whether some message is of anything but a route to less than everything: a router that speaks BGP
    changes those by the thousand."""
    at = 0
    while at + _MESSAGE.size <= len(datagram):
        length, kind, *_ = _MESSAGE.unpack_from(datagram, at)
        body = at + _MESSAGE.size
        if (
            kind not in _ROUTES
            or body + _ROUTE.size > len(datagram)
            or _ROUTE.unpack_from(datagram, body)[1] == 0
        ):
            return True
        at += max(length + 3 & ~3, _MESSAGE.size)  # NLMSG_ALIGN
    return False
