"""What this machine's network looks like now: interfaces, their addresses, the main table's default routes.

`Network` is plain data, so that what follows from it (`linux.policy.plan`) can be tested without a kernel;
`Netlink.network` fills it in.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_interface
from socket import AF_INET
from typing import Any

from bondvpn.values import IPAddress, IPInterface

PROTOCOL = 118  # unassigned in linux/rtnetlink.h; marks a route or rule as ours

# linux/if.h
IFF_UP, IFF_POINTOPOINT, IFF_RUNNING, IFF_NOARP = 0x1, 0x10, 0x40, 0x80
# linux/if_addr.h; the first is IFA_F_TEMPORARY for IPv6
_IFA_F_SECONDARY, _IFA_F_OPTIMISTIC, _IFA_F_DADFAILED = 0x01, 0x04, 0x08
_IFA_F_DEPRECATED, _IFA_F_TENTATIVE = 0x20, 0x40
_SCOPE_LINK = 253  # RT_SCOPE_LINK: from here on an address is not for the world
_RTN_UNICAST = 1


@dataclass(frozen=True, slots=True)
class Interface:
    """One network interface."""

    name: str
    index: int
    """Another one when an interface comes back under its old name."""
    up: bool = True
    running: bool = True
    """Data may pass: up, with a carrier, and not dormant (RFC 2863; linux operstates.rst)."""
    point_to_point: bool = False
    """It asks nobody's address (ARP), as PPP, WireGuard and LTE sticks do not."""
    mtu: int = 1500
    addresses: tuple[IPInterface, ...] = ()
    """Its own that the world may see; those the kernel would rather send from come first."""


@dataclass(frozen=True, slots=True)
class DefaultRoute:
    """A default route of the main table that somebody else made."""

    version: int
    interface: str
    gateway: IPAddress | None
    """None: the destination is asked for on the link itself."""
    metric: int = 0


@dataclass(frozen=True, slots=True)
class Network:
    """See above."""

    interfaces: Mapping[str, Interface]
    defaults: tuple[DefaultRoute, ...] = ()
    """Best first."""
    filled: frozenset[tuple[int, int | None]] = frozenset()
    """(4 or 6, table): uplinks' tables in which somebody else has a default route."""

    def holder(self, address: IPAddress) -> Interface | None:
        """The interface that has the address."""
        for interface in self.interfaces.values():
            if any(own.ip == address for own in interface.addresses):
                return interface
        return None

    def default(self, interface: str, version: int) -> DefaultRoute | None:
        """The best default route by that interface."""
        for route in self.defaults:
            if route.interface == interface and route.version == version:
                return route
        return None


def parse(
    links: Iterable[Any], addresses: Iterable[Any], routes: Iterable[Any], further: Iterable[Any] = ()
) -> Network:
    """What rtnetlink's messages say; `routes` are the main table's, `further` the uplinks' tables'."""
    own: dict[int, list[tuple[tuple[bool, bytes], IPInterface]]] = {}
    for address in addresses:
        if (parsed := _address(address)) is not None:
            own.setdefault(address["index"], []).append(parsed)
    interfaces = {}
    names = {}
    for link in links:
        name, index, flags = str(link.get("ifname")), int(link["index"]), int(link["flags"])
        names[index] = name
        interfaces[name] = Interface(
            name,
            index,
            up=bool(flags & IFF_UP),
            running=bool(flags & IFF_UP) and bool(flags & IFF_RUNNING),
            point_to_point=bool(flags & (IFF_NOARP | IFF_POINTOPOINT)),
            mtu=int(link.get("mtu")),
            addresses=tuple(one for _, one in sorted(own.get(index, []), key=lambda pair: pair[0])),
        )
    defaults = [route for message in routes for route in _defaults(message, names)]
    filled = {(_version(message), message.get("table")) for message in further if _is_default(message)}
    return Network(interfaces, tuple(sorted(defaults, key=lambda route: route.metric)), frozenset(filled))


def _address(message: Any) -> tuple[tuple[bool, bytes], IPInterface] | None:
    """An address with what it is sorted by; None if it is not to be sent from."""
    flags = int(message.get("flags") or 0)
    if flags & _IFA_F_DADFAILED or (flags & _IFA_F_TENTATIVE and not flags & _IFA_F_OPTIMISTIC):
        return None
    found = ip_interface(f"{message.get('local') or message.get('address')}/{message['prefixlen']}")
    if message["scope"] >= _SCOPE_LINK or found.ip.is_link_local:
        return None
    # The kernel lists IPv4 addresses in their order, and IPv6 addresses with the latest first.
    last_resort = bool(flags & (_IFA_F_SECONDARY | _IFA_F_DEPRECATED))
    return (last_resort, b"" if found.version == 4 else found.ip.packed), found


def _is_default(message: Any) -> bool:
    """Whether it is a default route, and not ours."""
    return bool(message["dst_len"] == 0 and message["type"] == _RTN_UNICAST and message["proto"] != PROTOCOL)


def _version(message: Any) -> int:
    return 4 if message["family"] == AF_INET else 6


def _defaults(message: Any, names: Mapping[int, str]) -> Iterator[DefaultRoute]:
    """A default route's hops; none where it is something else, or ours."""
    if not _is_default(message):
        return
    metric = int(message.get("priority") or 0)
    for hop in message.get("multipath") or [message]:
        index, gateway = hop.get("oif"), hop.get("gateway")
        if (
            index in names and hop.get("via") is None
        ):  # IPv4 by a gateway of IPv6 (RFC 5549): not ours to copy
            yield DefaultRoute(
                _version(message), names[index], None if gateway is None else ip_address(gateway), metric
            )
