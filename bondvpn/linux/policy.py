"""Policy routing: each uplink's own routing table, and the rules that lead its packets there.

What an uplink gets, by what it has:

    gateway configured          table with a default route via that gateway; rules
    point-to-point              table with a default route on the interface itself (PPP, LTE); rules
    default route in main       table with the same default route (DHCP, router advertisement); rules
    its own table configured    rules only, unless one of the above says what to put there: the
                                administrator fills it, and what is there already stays
    otherwise                   nothing: the socket bound to the device takes the main table's route by it

Tables (and the marks that select them) are numbered from 4489 = 0x1189 unless configured. The rules:

    11890  fwmark MARK                                              -> the uplink's table
    11891  from SOURCE, main table but for its default routes       -> connected networks stay direct
    11892  from SOURCE                                              -> the uplink's table

The mark goes first: it is what tells two routers on one Ethernet apart. SOURCE is the configured one, or
every address the interface has: reverse path filtering asks for the way back without the mark, and must
find it when the main table's default route has gone with another line. rp_filter is set to loose on
uplinks where it is strict, since the main table may prefer another line for the way back.

An uplink without interface, carrier or address has none of this: it waits, and why is said.

What the tunnel itself asks for stands beside it in the plan: the full tunnel (`linux.fulltunnel`), forwarding
and the packet filter (`linux.gateway`), name servers (`linux.resolver`).

`plan` is pure: from the configuration and a survey of the machine to what is to be. `install` brings routes,
rules and settings there from wherever they are, journal first, and `linux.upkeep` the rest; `Journal.undo`
takes it back.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

from bondvpn.config import MAX_UPLINKS, SERVER_SOCKET, Tunnel, Uplink
from bondvpn.errors import SystemFault
from bondvpn.linux import fulltunnel, gateway, resolver, sysctl
from bondvpn.linux.journal import Entry, Journal, Sysctl, journal_path, tables_taken
from bondvpn.linux.netlink import TABLE_MAIN, Netlink, Route, Rule
from bondvpn.linux.network import Interface, Network
from bondvpn.linux.nftables import Table
from bondvpn.linux.resolver import Resolver
from bondvpn.linux.sysctl import has_ipv6
from bondvpn.values import IPAddress

TABLE_FIRST = 0x1189
PRIORITY_MARK = 11890
PRIORITY_SOURCE_DIRECT = 11891
PRIORITY_SOURCE = 11892


@dataclass(frozen=True, slots=True)
class Leg:
    """How an uplink leaves in one address family."""

    source: IPAddress
    """What its socket is bound to."""
    gateway: IPAddress | None = None
    """None: the link itself, or the main table or an administrator's knows."""
    route: bool = False
    """Whether the uplink's table gets a default route for it."""
    filled: bool = False
    """Whether somebody else has put one there."""

    @property
    def version(self) -> int:
        return self.source.version


@dataclass(frozen=True, slots=True)
class Binding:
    """What an uplink's socket is bound to, or why there is nothing to bind it to."""

    uplink: Uplink
    """As configured; an automatic one with its interface filled in."""
    interface: str | None = None
    index: int = 0
    """The interface's; a socket stays with an interface that has gone, whatever comes under its name."""
    mtu: int = 0
    mark: int | None = None
    """SO_MARK; None: leave it."""
    table: int | None = None
    legs: tuple[Leg, ...] = ()
    waiting: str = ""
    """Why it cannot be used now; empty if it can."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be in the kernel."""

    bindings: tuple[Binding, ...] = ()
    """One for each uplink: the configured ones in their order, then the automatic ones."""
    routes: tuple[Route, ...] = ()
    rules: tuple[Rule, ...] = ()
    loose_interfaces: tuple[str, ...] = ()
    """Interfaces on which rp_filter must not be strict."""
    numbers: Mapping[str, int] = field(default_factory=dict)
    """The table and mark that go with an uplink's name, unless configured, and the full tunnel's table by
    `fulltunnel.NUMBER`; for the next plan."""
    forward: tuple[int, ...] = ()
    """Families (4, 6) in which forwarding is to be on."""
    tables: tuple[Table, ...] = ()
    """Of the packet filter; the kill switch first."""
    resolver: Resolver | None = None

    def summary(self) -> dict[str, Any]:
        """For the status."""
        return {
            "default_route_table": self.numbers.get(fulltunnel.NUMBER),
            "kill_switch": any(table.name == fulltunnel.KILL_SWITCH for table in self.tables),
            "forward": list(self.forward),
            "nftables": [table.name for table in self.tables],
            "dns": list(self.resolver.servers) if self.resolver is not None else [],
        }


def survey(uplinks: Sequence[Uplink], netlink: Netlink) -> Network:
    """What the plan follows from. Raises SystemFault."""
    return netlink.network([uplink.table for uplink in uplinks if uplink.table is not None])


def plan(
    uplinks: Sequence[Uplink],
    network: Network,
    tables_taken: Collection[int] = (),
    numbers: Mapping[str, int] | None = None,
    tunnel: Tunnel | None = None,
) -> Plan:
    """What the uplinks need, and the `tunnel` over them; `tables_taken` are not allocated (other processes'
    tables), and who has a number from an earlier plan keeps it."""
    full = tunnel is not None and tunnel.default_route
    lines = _lines(uplinks, network)
    numbered = _numbered(lines, tables_taken, numbers or {}, full=full)
    bindings = [_bind(line, network, numbered[line.name], marked=full) for line in lines]
    routes: list[Route] = []
    rules: list[Rule] = []
    loose: dict[str, None] = {}
    ruled: set[IPAddress] = set()
    for binding in bindings:
        if binding.waiting or binding.interface is None:
            continue
        loose[binding.interface] = None
        if binding.table is None or binding.mark is None:
            continue
        routes += _routes(binding, binding.table)
        interface = network.interfaces[binding.interface]
        for leg in binding.legs:
            own = [address.ip for address in interface.addresses]
            if binding.uplink.source is not None:
                own = [binding.uplink.source]
            # Two routers on one Ethernet: the mark tells them apart, the first one has the address.
            sources = [one for one in own if one.version == leg.version and one not in ruled]
            ruled.update(sources)
            rules += _rules(leg.version, binding.table, binding.mark, [str(one) for one in sources])
    made = Plan(tuple(bindings), tuple(routes), tuple(rules), tuple(loose), numbered)
    return made if tunnel is None else _with_tunnel(made, tunnel, network)


def plan_here(
    tunnel: Tunnel, uplinks: Sequence[Uplink], netlink: Netlink, numbers: Mapping[str, int] | None = None
) -> Plan:
    """A client's plan for this machine as it is now. Raises SystemFault."""
    taken = tables_taken(journal_path(tunnel.interface))
    return plan(uplinks, survey(uplinks, netlink), taken, numbers, tunnel)


def plan_of_server(tunnels: Sequence[Tunnel]) -> Plan:
    """What a server's tunnels ask of its machine."""
    table = gateway.table(SERVER_SOCKET, tunnels, server=True)
    return Plan(forward=gateway.versions(tunnels), tables=() if table is None else (table,))


def _with_tunnel(made: Plan, tunnel: Tunnel, network: Network) -> Plan:
    """What the client's tunnel asks for beside its uplinks."""
    tables: list[Table] = []
    if tunnel.default_route:
        table = made.numbers[fulltunnel.NUMBER]
        marks = [one.mark for one in made.bindings if one.mark is not None]
        versions = {route.prefix.version for route in tunnel.default_routes}
        routes = fulltunnel.routes(tunnel.default_routes, tunnel.interface, table)
        rules = fulltunnel.rules(versions, table, marks)
        made = replace(made, routes=(*made.routes, *routes), rules=(*made.rules, *rules))
        if tunnel.kill_switch:
            lines = {one.interface for one in made.bindings if one.interface is not None}
            tables.append(fulltunnel.kill_switch(tunnel.interface, marks, lines, network))
    table_of_gateway = gateway.table(tunnel.interface, [tunnel], server=False)
    if table_of_gateway is not None:
        tables.append(table_of_gateway)
    return replace(
        made,
        forward=gateway.versions([tunnel]),
        tables=tuple(tables),
        resolver=resolver.of(tunnel),
    )


def _lines(uplinks: Sequence[Uplink], network: Network) -> list[Uplink]:
    """The uplinks by name; in place of an automatic one those that it finds."""
    lines = [uplink for uplink in uplinks if not uplink.auto]
    names = {line.name for line in lines}
    taken = {line.interface for line in lines}
    holders = [network.holder(line.source) for line in lines if line.source is not None]
    taken |= {holder.name for holder in holders if holder is not None}
    for uplink in uplinks:
        if not uplink.auto:
            continue
        for interface in sorted({route.interface for route in network.defaults} - taken):
            if not _wanted(uplink, interface) or len(lines) == MAX_UPLINKS:
                continue
            name = interface if interface not in names else f"{interface} (auto)"
            lines.append(replace(uplink, auto=False, name=name, interface=interface))
            taken.add(interface)
    return lines


def _wanted(uplink: Uplink, interface: str) -> bool:
    def matches(patterns: Sequence[str]) -> bool:
        return any(fnmatchcase(interface, pattern) for pattern in patterns)

    return matches(uplink.include) and not matches(uplink.exclude)


def _numbered(
    lines: Sequence[Uplink], taken: Collection[int], before: Mapping[str, int], *, full: bool
) -> dict[str, int]:
    """A number for each uplink, and for the full tunnel: the one it had, or the next that nobody uses."""
    names = [*(line.name for line in lines), *([fulltunnel.NUMBER] if full else [])]
    numbers = {name: before[name] for name in names if name in before}
    used = {*taken, *numbers.values(), *(line.table for line in lines), *(line.mark for line in lines)}
    number = TABLE_FIRST
    for name in names:
        while name not in numbers:
            if number not in used:
                numbers[name] = number
            number += 1
    return numbers


def _bind(line: Uplink, network: Network, number: int, *, marked: bool) -> Binding:
    """Where the uplink is, and how it leaves from there; `marked`: by a mark in any case."""
    interface: Interface | None = None
    if line.interface is not None:
        interface = network.interfaces.get(line.interface)
    elif line.source is not None:
        interface = network.holder(line.source)
    if interface is None:
        absent = f"no interface has the address {line.source}"
        if line.interface is not None:
            absent = f"there is no interface {line.interface}"
        return Binding(line, line.interface, waiting=absent)
    binding = Binding(line, interface.name, interface.index, interface.mtu)
    if not interface.running:
        why = "has no carrier" if interface.up else "is down"
        return replace(binding, waiting=f"{interface.name} {why}")
    legs = [leg for version in (4, 6) if (leg := _leg(line, interface, network, version)) is not None]
    if not legs:
        what = "has no address"
        if line.source is not None:
            what = f"does not have the address {line.source}"
        elif line.gateway is not None:
            what = f"has no IPv{line.gateway.version} address"
        return replace(binding, waiting=f"{interface.name} {what}")
    led = tuple(leg for leg in legs if leg.route or leg.filled)
    if not led and line.table is None:
        return replace(binding, legs=tuple(legs), mark=line.mark or (number if marked else None))
    table, mark = line.table or number, line.mark or number
    return replace(binding, legs=led or tuple(legs), table=table, mark=mark)


def _leg(line: Uplink, interface: Interface, network: Network, version: int) -> Leg | None:
    """How the uplink leaves in that family; None if it does not."""
    if any(given is not None and given.version != version for given in (line.source, line.gateway)):
        return None
    default = network.default(interface.name, version)
    filled = line.gateway is None and (version, line.table) in network.filled
    route = not filled and (line.gateway is not None or interface.point_to_point or default is not None)
    gateway = line.gateway
    if gateway is None and route and default is not None and not interface.point_to_point:
        gateway = default.gateway
    own = [address for address in interface.addresses if address.version == version]
    if line.source is not None:
        own = [address for address in own if address.ip == line.source]
    if not own:
        return None
    near = [address for address in own if gateway is not None and gateway in address.network]
    return Leg((near or own)[0].ip, gateway, route=route, filled=filled)


def _routes(binding: Binding, table: int) -> Iterator[Route]:
    source = None if binding.uplink.source is None else str(binding.uplink.source)
    for leg in binding.legs:
        if leg.route:
            gateway = None if leg.gateway is None else str(leg.gateway)
            yield Route(
                version=leg.version, table=table, interface=binding.interface, gateway=gateway, source=source
            )


def _rules(version: int, table: int, mark: int, sources: Sequence[str]) -> Iterator[Rule]:
    yield Rule(version=version, priority=PRIORITY_MARK, table=table, mark=mark)
    for source in sources:
        yield Rule(
            version=version,
            priority=PRIORITY_SOURCE_DIRECT,
            table=TABLE_MAIN,
            source=source,
            suppress_prefixlength=0,
        )
        yield Rule(version=version, priority=PRIORITY_SOURCE, table=table, source=source)


def install(wanted: Plan, netlink: Netlink, journal: Journal) -> list[str]:
    """Bring the kernel from wherever it is to the plan: what is missing comes, what was of an earlier plan
    goes, and what is there is not touched.

    Returns one line for each route that cannot be there for now: that uplink waits, the others work. Raises
    SystemFault for anything else; what is in place by then is in the journal.
    """
    rules, routes = netlink.own_rules(), netlink.own_routes()
    kept = _entries(wanted, routes, netlink, journal.entries)
    journal.record(kept)
    waiting: list[str] = []
    for entry in kept:
        match entry:
            case Sysctl():
                sysctl.apply(entry)
            case Rule() if entry not in rules:
                netlink.put_rule(entry)
            case Route() if entry not in routes:
                try:
                    netlink.put_route(entry)
                except SystemFault as fault:
                    waiting.append(str(fault))
    journal.take_back(
        [entry for entry in journal.entries if _is_a_plans(entry) and entry not in kept], netlink
    )
    return waiting


def entries(wanted: Plan, netlink: Netlink) -> list[Entry]:
    """What of the plan this kernel takes and nobody else has made already: what there is to see once it is
    installed. Changes nothing; raises SystemFault."""
    return _entries(wanted, netlink.own_routes(), netlink, ())


def _entries(
    wanted: Plan, routes: Collection[Route], netlink: Netlink, earlier: Sequence[Entry]
) -> list[Entry]:
    """`routes`: ours that are there; `earlier`: what the journal holds."""
    settings = {entry.path: entry for entry in earlier if isinstance(entry, Sysctl)}
    kept: list[Entry] = [
        *sysctl.loose(wanted.loose_interfaces, settings),
        *sysctl.forwarding(wanted.forward, settings),
    ]
    kept += [rule for rule in wanted.rules if rule.version == 4 or has_ipv6()]
    kept += [
        route
        for route in wanted.routes
        if (route.version == 4 or has_ipv6(route.interface))
        and (route in routes or not netlink.others_route(route))
    ]
    return kept


def _is_a_plans(entry: Entry) -> bool:
    """Whether `install` put it into the journal."""
    match entry:
        case Route():
            return entry.table != TABLE_MAIN  # the tunnel's own
        case Rule() | Sysctl():
            return True
        case _:
            return False
