"""Policy routing: each uplink's own routing table, and the rules that lead its packets there.

What an uplink gets, by what is configured:

    gateway                     table with a default route via the gateway; rules
    no gateway, point-to-point  table with a default route on the interface itself (PPP, LTE); rules
    no gateway, but a table     rules only: the table is the administrator's
    otherwise                   nothing: the socket bound to the device takes the main table's route by it

Tables (and the marks that select them) are numbered from 4489 = 0x1189 unless configured. The rules:

    11890  fwmark MARK                                              -> the uplink's table
    11891  from SOURCE, main table but for its default routes       -> connected networks stay direct
    11892  from SOURCE                                              -> the uplink's table

The mark goes first: it is what tells two routers on one Ethernet apart. SOURCE is the configured one, or
every address the interface has: reverse path filtering asks for the way back without the mark, and must
find it when the main table's default route has gone with another line. rp_filter is set to loose on
uplinks where it is strict, since the main table may prefer another line for the way back.

`plan` is pure; `install` is idempotent and records in the journal first; `Journal.undo` takes it back.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bondvpn.config import Uplink
from bondvpn.errors import SystemFault
from bondvpn.linux.journal import Journal, Sysctl
from bondvpn.linux.netlink import TABLE_MAIN, Netlink, Route, Rule
from bondvpn.values import IPAddress

TABLE_FIRST = 0x1189
PRIORITY_MARK = 11890
PRIORITY_SOURCE_DIRECT = 11891
PRIORITY_SOURCE = 11892
RP_FILTER_STRICT, RP_FILTER_LOOSE = (
    1,
    2,
)  # linux ip-sysctl.rst; the larger of `all` and the interface's counts


@dataclass(frozen=True, slots=True)
class Place:
    """Where an uplink is on this machine now."""

    interface: str | None
    """Configured, or the one that has the source address; None: no interface has it."""
    point_to_point: bool = False
    addresses: tuple[IPAddress, ...] = ()
    """The interface's own; packets from them belong to the uplink."""


@dataclass(frozen=True, slots=True)
class Binding:
    """What an uplink's socket is bound to."""

    uplink: str
    interface: str | None
    source: str | None
    mark: int | None
    """SO_MARK; None: leave it."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be in the kernel."""

    bindings: tuple[Binding, ...]
    """One for each uplink, in their order."""
    routes: tuple[Route, ...]
    rules: tuple[Rule, ...]
    loose_interfaces: tuple[str, ...]
    """Interfaces on which rp_filter must not be strict."""


def survey(uplinks: Sequence[Uplink], netlink: Netlink) -> dict[str, Place]:
    """Where the uplinks are now, by uplink name. Raises SystemFault."""
    places = {}
    for uplink in uplinks:
        interface = uplink.interface
        if interface is None and uplink.source is not None:
            interface = netlink.interface_of(uplink.source)
        if interface is None:
            places[uplink.name] = Place(None)
            continue
        point_to_point = netlink.is_point_to_point(interface)
        places[uplink.name] = Place(interface, point_to_point, netlink.addresses_of(interface))
    return places


def plan(uplinks: Sequence[Uplink], places: Mapping[str, Place], tables_taken: Collection[int] = ()) -> Plan:
    """What the uplinks need; `tables_taken` are not allocated (other processes' tables)."""
    configured = {uplink.table for uplink in uplinks} | {uplink.mark for uplink in uplinks}
    free = _numbers(configured | set(tables_taken))
    bindings: list[Binding] = []
    routes: list[Route] = []
    rules: list[Rule] = []
    loose: dict[str, None] = {}
    ruled: set[IPAddress] = set()
    for uplink in uplinks:
        place = places[uplink.name]
        number = next(free)
        source = None if uplink.source is None else str(uplink.source)
        table, mark = uplink.table or number, uplink.mark
        if uplink.gateway is not None or uplink.table is not None or place.point_to_point:
            mark = mark or number
            for version in _versions(uplink):
                routes += _routes(uplink, place, version, table)
                own = place.addresses if uplink.source is None else (uplink.source,)
                sources = [one for one in own if one.version == version and one not in ruled]
                ruled.update(
                    sources
                )  # two routers on one Ethernet: the mark tells, the first has the address
                rules += _rules(version, table, mark, [str(one) for one in sources])
        if place.interface is not None:
            loose[place.interface] = None
        bindings.append(Binding(uplink.name, place.interface, source, mark))
    return Plan(tuple(bindings), tuple(routes), tuple(rules), tuple(loose))


def _numbers(taken: Collection[int | None]) -> Iterator[int]:
    number = TABLE_FIRST
    while True:
        if number not in taken:
            yield number
        number += 1


def _versions(uplink: Uplink) -> tuple[int, ...]:
    if uplink.gateway is not None:
        return (uplink.gateway.version,)
    return (4, 6) if uplink.source is None else (uplink.source.version,)


def _routes(uplink: Uplink, place: Place, version: int, table: int) -> Iterator[Route]:
    source = None if uplink.source is None else str(uplink.source)
    if uplink.gateway is not None:
        gateway = str(uplink.gateway)
        yield Route(version=version, table=table, interface=place.interface, gateway=gateway, source=source)
    elif place.point_to_point:
        yield Route(version=version, table=table, interface=place.interface, source=source)


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
    """Make it so; a second time is as good as once, and mends what something else has deleted.

    Returns one line for each route that cannot be there for now, such as one by an absent interface:
    that uplink waits, the others work. Raises SystemFault for anything else; what is in place by then is
    in the journal.
    """
    routes = [
        route
        for route in wanted.routes
        if (route.version == 4 or has_ipv6(route.interface)) and not netlink.others_route(route)
    ]
    rules = [rule for rule in wanted.rules if rule.version == 4 or has_ipv6()]
    settings = [change for name in wanted.loose_interfaces if (change := _loosening(name)) is not None]
    journal.record([*settings, *routes, *rules])
    for setting in settings:
        _set(setting)
    for rule in rules:
        netlink.put_rule(rule)
    waiting: list[str] = []
    for route in routes:
        try:
            netlink.put_route(route)
        except SystemFault as fault:
            waiting.append(str(fault))
    return waiting


def has_ipv6(interface: str | None = None) -> bool:
    """Whether the kernel has IPv6, not switched off on the interface if one is named."""
    conf = Path("/proc/sys/net/ipv6/conf")
    if interface is None or not (conf / interface).exists():
        return conf.exists()
    return (conf / interface / "disable_ipv6").read_text().strip() == "0"


def _loosening(interface: str) -> Sysctl | None:
    """The change that makes rp_filter loose on the interface; None where it is not strict."""
    of_all, own = (Path("/proc/sys/net/ipv4/conf") / name / "rp_filter" for name in ("all", interface))
    if not own.exists():
        return None
    old = own.read_text().strip()
    if max(int(of_all.read_text()), int(old)) != RP_FILTER_STRICT:
        return None
    return Sysctl(path=str(own), old=old, new=str(RP_FILTER_LOOSE))


def _set(setting: Sysctl) -> None:
    try:
        Path(setting.path).write_text(setting.new)
    except OSError as fault:
        raise SystemFault(
            f"cannot set {setting.path} to {setting.new}: {fault.strerror}: run as root"
        ) from None
