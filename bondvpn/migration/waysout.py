"""Which line of the old setup a tunnel leaves by.

A tunnel's line is told by, the first that tells:

    bind-dev in its configuration
    its mark (iptables, or `mark` in the configuration) -> ip rule -> table -> default route
    its `local` address -> ip rule -> table -> default route
    SNAT of its port, server or mark to the address of an interface
    a table named after its port, such as vpn1189 -> default route
    a route to its server alone
    its `local` address, on whichever interface it is
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from bondvpn.migration.facts import Exit, Facts, Kind, Lookup, Mark, TableRoute
from bondvpn.migration.interfaces import Stanza
from bondvpn.migration.openvpn import Profile
from bondvpn.migration.sources import Place, Said
from bondvpn.values import IPAddress, UnacceptableError, ifname

KERNEL_TABLES = {"default": 253, "main": 254, "local": 255}  # linux/rtnetlink.h


@dataclass(slots=True)
class Line:
    """An uplink of the old setup, and the tunnels that left by it."""

    interface: Said[str] | None = None
    gateway: Said[IPAddress] | None = None
    source: Said[IPAddress] | None = None
    table: Said[int] | None = None
    table_name: str | None = None
    mark: Said[int] | None = None
    speed: Said[int] | None = None
    profiles: list[Profile] = field(default_factory=list)

    @property
    def key(self) -> tuple[object, ...]:
        """What tells lines apart."""
        interface = self.interface.value if self.interface else None
        return (interface, self.gateway and self.gateway.value, None if interface else self.source)

    @property
    def known(self) -> bool:
        return self.interface is not None or self.source is not None


class WaysOut:
    """By the facts that scripts state, the numbers of named tables, and the stanzas of the interfaces."""

    def __init__(self, facts: Facts, tables: Mapping[str, Said[int]], stanzas: Sequence[Stanza]) -> None:
        self._facts = facts
        self._tables = tables
        self._stanzas = stanzas

    def of(self, profile: Profile) -> Line:
        """The line that the tunnel leaves by, as far as it is told; its speed is not."""
        line = Line(source=profile.local)
        if profile.bind_device is not None:
            line.interface = _interface(profile.bind_device)
        line.mark = profile.mark or self._marked(profile)
        lookup = self._lookup(profile, line)
        exit_ = self._exit(profile, line)
        named = next((name for name in self._table_names() if _names_port(name, profile.ports)), None)
        table = lookup.table if lookup is not None else named if exit_ is None else None
        if table is not None:
            self._by_table(line, table)
            place = lookup.place if lookup is not None else None
            self._number_of(line, table, place)
        if line.interface is None and exit_ is not None:
            line.interface = _interface(Said(exit_.interface, exit_.place))
            self._by_interface(line)
        if not line.known or (line.interface is None and line.gateway is None):
            self._by_host_route(line, profile)
        if line.interface is None and line.source is not None:
            self._by_address(line, line.source)
        return line

    def _marked(self, profile: Profile) -> Said[int] | None:
        best = _best([(mark, _fit(mark, profile)) for mark in self._facts.of_kind(Mark)])
        return None if best is None else Said(best.mark, best.place)

    def _lookup(self, profile: Profile, line: Line) -> Lookup | None:
        for lookup in self._facts.of_kind(Lookup):
            if line.mark is not None and lookup.mark == line.mark.value:
                return lookup
        for lookup in self._facts.of_kind(Lookup):
            by_source = lookup.source and profile.local and _bare(lookup.source) == str(profile.local.value)
            by_server = lookup.server and _bare(lookup.server) in profile.hosts
            if lookup.mark is None and (by_source or by_server):
                return lookup
        return None

    def _exit(self, profile: Profile, line: Line) -> Exit | None:
        fits: list[tuple[Exit, int]] = []
        for one in self._facts.of_kind(Exit):
            if one.mark is not None and (line.mark is None or one.mark != line.mark.value):
                continue
            fits.append((one, _fit(one, profile) or int(one.mark is not None)))
        return _best(fits)

    def _table_names(self) -> Iterator[str]:
        yield from self._tables
        yield from (route.table for route in self._facts.of_kind(TableRoute))

    def _by_table(self, line: Line, table: str) -> None:
        for route in self._facts.of_kind(TableRoute):
            if route.destination is None and self._same_table(route.table, table):
                self._take_route(line, route)
                return

    def _same_table(self, one: str, other: str) -> bool:
        return one == other or self._number(one) == self._number(other) is not None

    def _number(self, table: str) -> int | None:
        if table.isascii() and table.isdigit() and len(table) < 11:
            return int(table)
        said = self._tables.get(table)
        return said.value if said is not None else KERNEL_TABLES.get(table)

    def _number_of(self, line: Line, table: str, place: Place | None) -> None:
        said = self._tables.get(table)
        line.table_name = table
        if said is not None:
            line.table = said
        elif (number := self._number(table)) is not None and place is not None:
            line.table = Said(number, place)

    def _take_route(self, line: Line, route: TableRoute) -> None:
        if line.interface is None and route.interface is not None:
            line.interface = _interface(Said(route.interface, route.place))
        if line.gateway is None and route.gateway is not None:
            line.gateway = Said(route.gateway, route.place)
        if line.interface is None and line.gateway is not None:
            stanza = next((one for one in self._stanzas if _holds(one, line.gateway.value)), None)
            if stanza is not None:
                line.interface = _interface(Said(stanza.interface, stanza.place))

    def _by_interface(self, line: Line) -> None:
        """The gateway of an interface that its own table or stanza names."""
        if line.interface is None or line.gateway is not None:
            return
        name = line.interface.value
        for route in self._facts.of_kind(TableRoute):
            if route.interface == name and route.destination is None and route.gateway is not None:
                line.gateway = Said(route.gateway, route.place)
                return
        for stanza in self._stanzas:
            if stanza.interface == name and stanza.gateway is not None:
                line.gateway = stanza.gateway
                return

    def _by_host_route(self, line: Line, profile: Profile) -> None:
        for route in self._facts.of_kind(TableRoute):
            destination = route.destination
            if destination is None or destination.prefixlen != destination.max_prefixlen:
                continue
            if str(destination.network_address) in profile.hosts:
                self._take_route(line, route)
                return

    def _by_address(self, line: Line, source: Said[IPAddress]) -> None:
        for stanza in self._stanzas:
            if stanza.address is not None and stanza.address.value.ip == source.value:
                line.interface = _interface(Said(stanza.interface, stanza.place))
                self._by_interface(line)
                return


def _interface(said: Said[str]) -> Said[str] | None:
    """Only what the kernel takes as a name."""
    try:
        return Said(ifname(said.value), said.place)
    except UnacceptableError:
        return None


def _fit(fact: Mark | Exit, profile: Profile) -> int:
    """How many of its conditions the tunnel meets; 0 when it misses one."""
    conditions = [
        (fact.server is not None, _bare(fact.server or "") in profile.hosts),
        (fact.port is not None, fact.port in profile.ports),
    ]
    if isinstance(fact, Mark):
        local = profile.local_port.value if profile.local_port else None
        conditions.append((fact.local_port is not None, fact.local_port == local))
    asked = [met for is_asked, met in conditions if is_asked]
    return len(asked) if all(asked) else 0


def _best(fits: Sequence[tuple[Kind, int]]) -> Kind | None:
    best = max(fits, key=lambda one: one[1], default=None)
    return best[0] if best is not None and best[1] else None


def _bare(address: str) -> str:
    return address.partition("/")[0]


def _names_port(table: str, ports: set[int]) -> bool:
    return any(re.search(rf"(?<![0-9]){port}(?![0-9])", table) for port in ports) and not table.isdigit()


def _holds(stanza: Stanza, gateway: IPAddress) -> bool:
    return stanza.address is not None and gateway in stanza.address.value.network
