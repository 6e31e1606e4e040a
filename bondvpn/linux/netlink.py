"""Links, addresses, routes and rules through rtnetlink.

Blocking calls of a few hundred microseconds on pyroute2's synchronous API, which drives an event loop of
its own: use it before the program's loop runs, or in one thread beside it, never on a running loop.

Every route and rule made here carries the protocol number `PROTOCOL`, so `ip route show proto 118` lists
ours, and what an administrator made is neither replaced nor removed.
"""

import errno
from collections.abc import Iterable, Iterator, Sequence, Set
from contextlib import contextmanager, suppress
from ipaddress import ip_network
from socket import AF_INET, AF_INET6, if_indextoname
from types import TracebackType
from typing import Any, Self

import msgspec
from pyroute2 import IPRoute, NetlinkError

from bondvpn.config import Route as TunnelRoute
from bondvpn.errors import SystemFault
from bondvpn.linux import network
from bondvpn.linux.network import PROTOCOL, Network
from bondvpn.values import IPInterface

TABLE_MAIN = 254  # RT_TABLE_MAIN
DEFAULT = "default"  # the destination of a default route
GSO_BYTES_MAX = 65_536  # GSO_LEGACY_MAX_SIZE: up to here the kernel sets the IPv4 bound along with it
_IFA_F_NODAD = 0x02  # linux/if_addr.h
_SCOPE_LINK = 253  # RT_SCOPE_LINK
_FAMILIES = (AF_INET, AF_INET6)
_SUPPRESS_NOTHING = 0xFFFF_FFFF  # FRA_SUPPRESS_PREFIXLEN where none was asked for
_IPV6_METRIC = 1024  # IP6_RT_PRIO_USER: what the kernel gives a route that names none
_ATTEMPTS_OF_DUMP = 3
_GONE = {errno.ENOENT, errno.ESRCH, errno.ENODEV, errno.ENXIO, errno.EADDRNOTAVAIL}


class Route(msgspec.Struct, frozen=True, kw_only=True, tag="route"):
    """A route as we install it."""

    version: int
    """4 or 6."""
    table: int
    destination: str = DEFAULT
    """A prefix such as "10.0.0.0/8", or "default"."""
    interface: str | None = None
    """None: the kernel finds the gateway's."""
    gateway: str | None = None
    source: str | None = None

    def __str__(self) -> str:
        via = f" via {self.gateway}" if self.gateway else ""
        dev = f" dev {self.interface}" if self.interface else ""
        return f"{self.destination}{via}{dev} in table {self.table}"


class Rule(msgspec.Struct, frozen=True, kw_only=True, tag="rule"):
    """A policy routing rule as we install it: `mark` or `source` selects, `table` answers."""

    version: int
    priority: int
    table: int
    mark: int | None = None
    source: str | None = None
    suppress_prefixlength: int | None = None
    """Ignore the table's answers with prefixes up to this long; 0 ignores its default route."""


class Netlink:
    """One rtnetlink socket in the network namespace of the thread that opens it."""

    def __init__(self) -> None:
        self._ip = IPRoute(strict_check=True)  # the kernel picks from its tables (4.20), not Python

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._ip.close()

    # Links

    def link_index(self, name: str) -> int | None:
        """The interface's index, or None when there is none of that name."""
        link = self._link(name)
        return None if link is None else int(link["index"])

    def link_mtu(self, name: str) -> int | None:
        """The interface's MTU in bytes, or None when there is none of that name."""
        link = self._link(name)
        return None if link is None else int(link.get("mtu"))

    def network(self, tables: Iterable[int] = ()) -> Network:
        """All interfaces, addresses and default routes as they are now; `tables`: of uplinks, which an
        administrator may have filled. Raises SystemFault."""
        with _explained("read interfaces, addresses and routes"):
            return network.parse(
                self._dump("get_links"),
                self._dump("get_addr"),
                self._dump("get_routes", table=TABLE_MAIN),
                [route for table in tables for route in self._dump("get_routes", table=table)],
            )

    def configure_tap(
        self,
        name: str,
        addresses: Sequence[IPInterface],
        mtu: int,
        routes: Sequence[TunnelRoute],
        *,
        mac: str | None = None,
        gso_max_size: int | None = None,
        txqueuelen: int | None = None,
    ) -> None:
        """MAC, MTU, queue, addresses, up, routes (in the main table); doing it twice is as good as once.

        `mtu` and `gso_max_size` in bytes, `txqueuelen` in packets. Raises SystemFault.
        """
        index = self._index(name)
        queue = {} if txqueuelen is None else {"txqlen": txqueuelen}
        with _explained(f"set up the interface {name} (MTU {mtu})"):
            if mac is not None:
                self._ip.link("set", index=index, address=mac)
            self._ip.link("set", index=index, mtu=mtu, **queue)
            if gso_max_size is not None:
                self.set_gso_max_size(name, gso_max_size)
        for own in addresses:
            # Duplicate detection would hold an IPv6 address back for a second on a link of two.
            flags = {"flags": _IFA_F_NODAD} if own.version == 6 else {}
            with _explained(f"give the interface {name} the address {own}", tolerate={errno.EEXIST}):
                self._ip.addr(
                    "add", index=index, address=str(own.ip), prefixlen=own.network.prefixlen, **flags
                )
        with _explained(f"bring the interface {name} up"):
            self._ip.link("set", index=index, state="up")
        for route in tunnel_routes(name, routes):
            self.put_route(route)

    def set_gso_max_size(self, name: str, size: int) -> None:
        """Bound the super-frames the kernel hands to the interface, IPv4's and IPv6's, to `size` bytes.

        Raises SystemFault, also when the kernel does not read back what was set.
        """
        size = min(size, GSO_BYTES_MAX)
        index = self._index(name)
        with _explained(f"set gso_max_size {size} on {name}"):
            self._ip.link("set", index=index, gso_max_size=size)
            found = next(iter(self._ip.link("get", index=index))).get("IFLA_GSO_MAX_SIZE")
        if found != size:
            raise SystemFault(f"gso_max_size of {name} stays {found}, not {size}: the kernel ignores it")

    def delete_tap(self, name: str) -> bool:
        """Delete a TAP device; False when there is none of that name, or it is no TUN/TAP device."""
        link = self._link(name)
        if link is None or link.get(("linkinfo", "kind")) != "tun":
            return False
        with _explained(f"delete the interface {name}", tolerate=_GONE):
            self._ip.link("del", index=link["index"])
        return True

    # Routes

    def put_route(self, route: Route) -> None:
        """Install the route in place of an older one of ours. One that an administrator made stays:
        it is left alone when it is the same, else a SystemFault."""
        others = self._others(route)
        if self._among(others, route):
            return
        if others:
            raise SystemFault(_obstacle(route))
        with _explained(f"install the route {route}"):
            self._ip.route("replace", **self._route_spec(route))

    def drop_route(self, route: Route) -> bool:
        """Remove the route if it is there and ours; whether it was."""
        if route.interface is not None and self.link_index(route.interface) is None:
            return False
        with _explained(f"remove the route {route}", tolerate=_GONE):
            self._ip.route("del", **self._route_spec(route))
            return True
        return False

    def own_routes(self) -> set[Route]:
        """All routes that bondvpn made, whichever process of it. Raises SystemFault."""
        with _explained("read the routes"):
            found = self._dump("get_routes", proto=PROTOCOL)
        return {
            Route(
                version=_version(one["family"]),
                table=one.get("table"),
                destination=f"{one.get('dst')}/{one['dst_len']}" if one["dst_len"] else DEFAULT,
                interface=_name(one.get("oif")),
                gateway=one.get("gateway"),
                source=one.get("prefsrc"),
            )
            for one in found
        }

    def others_route(self, route: Route) -> bool:
        """Whether just this route is there already, made by somebody else."""
        return self._among(self._others(route), route)

    def obstacle(self, route: Route) -> str | None:
        """Somebody else's other route in the place of this one, and how to see it; None if there is none."""
        others = self._others(route)
        return _obstacle(route) if others and not self._among(others, route) else None

    def _others(self, route: Route) -> list[Any]:
        """What somebody else has in the table for the same destination at the metric that ours get."""
        network = None if route.destination == DEFAULT else ip_network(route.destination)
        bits = network.prefixlen if network else 0
        with _explained(f"read routing table {route.table}"):
            found = self._dump("get_routes", family=_family(route.version), table=route.table)
        address = str(network.network_address) if network and bits else None
        metric = 0 if route.version == 4 else _IPV6_METRIC
        return [
            one
            for one in found
            if one["proto"] != PROTOCOL
            and one["dst_len"] == bits
            and one.get("dst") == address
            and (one.get("priority") or 0) == metric
        ]

    def _among(self, found: Sequence[Any], route: Route) -> bool:
        """Whether just this route is."""
        index = None if route.interface is None or not found else self.link_index(route.interface)
        return any(
            one.get("gateway") == route.gateway and (index is None or one.get("oif") == index)
            for one in found
        )

    def _route_spec(self, route: Route) -> dict[str, Any]:
        spec: dict[str, Any] = {
            "family": _family(route.version),
            "table": route.table,
            "dst": route.destination,
            "proto": PROTOCOL,
        }
        if route.interface is not None:
            spec["oif"] = self._index(route.interface)
        if route.gateway is not None:
            spec["gateway"] = route.gateway
        elif route.version == 4:
            spec["scope"] = _SCOPE_LINK
        if route.source is not None:
            spec["prefsrc"] = route.source
        return spec

    # Rules

    def put_rule(self, rule: Rule) -> None:
        """Install the rule; one that is there already will do."""
        with _explained(f"install the rule {rule}", tolerate={errno.EEXIST}):
            self._ip.rule("add", **_rule_spec(rule))

    def own_rules(self) -> set[Rule]:
        """All rules that bondvpn made, whichever process of it. Raises SystemFault."""
        with _explained("read the rules"):
            found = [rule for family in _FAMILIES for rule in self._dump("get_rules", family=family)]
        return {_rule(one) for one in found if one.get("FRA_PROTOCOL") == PROTOCOL}

    def drop_rule(self, rule: Rule) -> bool:
        """Remove the rule if it is there and ours; whether it was."""
        with _explained(f"remove the rule {rule}", tolerate=_GONE):
            self._ip.rule("del", **_rule_spec(rule))
            return True
        return False

    def _link(self, name: str) -> Any | None:
        with _explained(f"look up the interface {name}", tolerate=_GONE):
            return next(iter(self._ip.link("get", ifname=name)), None)
        return None

    def _index(self, name: str) -> int:
        index = self.link_index(name)
        if index is None:
            raise SystemFault(f"there is no interface {name}: `ip link` lists those there are")
        return index

    def _dump(self, what: str, **wanted: Any) -> list[Any]:
        """A list from the kernel, asked for again when it changed while it was being read (EINTR)."""
        for _ in range(_ATTEMPTS_OF_DUMP - 1):
            try:
                return list(getattr(self._ip, what)(**wanted))
            except NetlinkError as fault:
                if fault.code != errno.EINTR:
                    raise
        return list(getattr(self._ip, what)(**wanted))


def tunnel_routes(interface: str, routes: Sequence[TunnelRoute]) -> list[Route]:
    """The tunnel's configured routes as entries of the main table."""
    return [
        Route(
            version=route.prefix.version,
            table=TABLE_MAIN,
            destination=str(route.prefix),
            interface=interface,
            gateway=None if route.gateway is None else str(route.gateway),
        )
        for route in routes
    ]


def _name(index: int | None) -> str | None:
    """The interface's, in the thread's network namespace; None if there is none such."""
    with suppress(OSError):
        return None if index is None else if_indextoname(index)
    return None


def _obstacle(route: Route) -> str:
    listing = f"ip {'-6 ' if route.version == 6 else ''}route show table {route.table}"
    return (
        f"table {route.table} already has a route to {route.destination} that is not ours "
        f"({listing}): remove it, or configure another"
    )


def _rule_spec(rule: Rule) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "family": _family(rule.version),
        "priority": rule.priority,
        "table": rule.table,
        "protocol": PROTOCOL,
    }
    if rule.mark is not None:
        spec["fwmark"] = rule.mark
    if rule.source is not None:
        spec["src"] = rule.source
    if rule.suppress_prefixlength is not None:
        spec["FRA_SUPPRESS_PREFIXLEN"] = rule.suppress_prefixlength
    return spec


def _rule(message: Any) -> Rule:
    suppressed = message.get("FRA_SUPPRESS_PREFIXLEN")
    return Rule(
        version=_version(message["family"]),
        priority=message.get("priority") or 0,
        table=message.get("table"),
        mark=message.get("fwmark"),
        source=message.get("src"),
        suppress_prefixlength=None if suppressed == _SUPPRESS_NOTHING else suppressed,
    )


def _version(family: int) -> int:
    return 4 if family == AF_INET else 6


def _family(version: int) -> int:
    return int(AF_INET if version == 4 else AF_INET6)


@contextmanager
def _explained(doing: str, tolerate: Set[int] = frozenset()) -> Iterator[None]:
    """Turn the kernel's refusal into a SystemFault that names the thing; codes in `tolerate` pass."""
    try:
        yield
    except NetlinkError as fault:
        if fault.code in tolerate:
            return
        remedy = {
            errno.EPERM: ": run as root (it takes CAP_NET_ADMIN)",
            errno.ENETUNREACH: ": the gateway is not on that interface's network",
            errno.EHOSTUNREACH: ": the gateway is not on that interface's network",
            errno.ENETDOWN: ": the interface is down",
            errno.EINVAL: ": the kernel takes no such value here (a source address must be this machine's)",
            errno.EOPNOTSUPP: ": this kernel lacks it",
        }.get(fault.code, "")
        raise SystemFault(f"cannot {doing}: {fault.args[-1]}{remedy}") from fault
