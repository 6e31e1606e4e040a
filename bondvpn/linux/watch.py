"""Hears that the network changed: links, addresses, default routes, rules. How it is says Netlink.network."""

import struct

from pyroute2.netlink import NETLINK_ROUTE, rtnl

from bondvpn.linux.multicast import Multicast, messages

_GROUPS = (
    rtnl.RTMGRP_LINK
    | rtnl.RTMGRP_IPV4_IFADDR
    | rtnl.RTMGRP_IPV4_ROUTE
    | rtnl.RTMGRP_IPV4_RULE
    | rtnl.RTMGRP_IPV6_IFADDR
    | rtnl.RTMGRP_IPV6_ROUTE
    | rtnl.RTMGRP_IPV6_RULE
)
_ROUTE = struct.Struct("=BB")  # linux/rtnetlink.h, struct rtmsg: family, length of the destination's prefix
_ROUTES = (rtnl.RTM_NEWROUTE, rtnl.RTM_DELROUTE)


class Watch(Multicast):
    """Of what may matter to an uplink."""

    def __init__(self) -> None:
        """Raises SystemFault."""
        super().__init__(NETLINK_ROUTE, _GROUPS, "the network's changes")

    def _matters(self, datagram: bytes) -> bool:
        return of_uplinks(datagram)


def of_uplinks(datagram: bytes) -> bool:
    """Whether some message is of anything but a route to less than everything: a router that speaks BGP
    changes those by the thousand."""
    return any(
        kind not in _ROUTES
        or body + _ROUTE.size > len(datagram)
        or _ROUTE.unpack_from(datagram, body)[1] == 0
        for kind, body, _ in messages(datagram)
    )
