"""Uplinks, routes and rules: what is there against what is to be."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bondvpn import config
from bondvpn.config import ClientConfig
from bondvpn.doctor.finding import Finding
from bondvpn.errors import SystemFault
from bondvpn.linux import commands, fulltunnel, journal, policy
from bondvpn.linux.journal import Entry, Sysctl, journal_path
from bondvpn.linux.netlink import Netlink, Route, Rule, tunnel_routes

Status = Mapping[str, Any]


def uplinks(plan: policy.Plan) -> Iterator[Finding]:
    """Each line's interface, carrier and address."""
    for binding in plan.bindings:
        name = binding.uplink.name
        if not binding.waiting:
            sources = ", ".join(str(leg.source) for leg in binding.legs)
            yield Finding("uplink", name, f"{binding.interface}, {sources}")
            continue
        mend = f"ip link set dev {binding.interface} up"
        if not binding.waiting.endswith("is down"):
            mend = "ip -br address; then dial it, plug it in, or correct the [[uplink]]"
        yield Finding("uplink", name, binding.waiting, mend)
    if not plan.bindings:
        yield Finding("uplink", "all", "no line is there", "ip route show default")


def of(settings: ClientConfig, status: Status | None, netlink: Netlink) -> policy.Plan:
    """The plan as a client has it that runs (`status`), or would."""
    numbers: dict[str, int] = {}
    configured = {uplink.name for uplink in settings.uplinks if uplink.table is not None}
    for link in _links(status):
        if link.get("table") is not None and link["name"] not in configured:
            numbers[link["name"]] = link["table"]
    table = (status or {}).get("machine", {}).get("default_route_table")
    if table is not None:
        numbers[fulltunnel.NUMBER] = table
    return policy.plan_here(settings.tunnel, settings.uplinks, netlink, numbers)


def _links(status: Status | None) -> Sequence[Status]:
    return status["tunnels"][0]["links"] if status and status.get("tunnels") else []


def installed(
    settings: ClientConfig, plan: policy.Plan, netlink: Netlink, *, running: bool
) -> Iterator[Finding]:
    """Routes, rules and rp_filter against the plan."""
    wanted = policy.entries(plan, netlink)
    tunnel = tunnel_routes(settings.tunnel.interface, settings.tunnel.routes)
    for route in [*(entry for entry in wanted if isinstance(entry, Route)), *tunnel]:
        obstacle = netlink.obstacle(route)
        if obstacle is not None:
            version = "ip -6" if route.version == 6 else "ip"
            mend = f"{version} route del {route.destination} table {route.table}"
            yield Finding("route", _subject(route), obstacle, mend)
    if not running:
        return
    there: set[Entry] = {*netlink.own_routes(), *netlink.own_rules()}
    missing = [one for one in [*wanted, *tunnel] if not isinstance(one, Sysctl) and one not in there]
    for one in missing:
        kind = "rule" if isinstance(one, Rule) else "route"
        if isinstance(one, Route) and netlink.obstacle(one) is not None:
            continue
        yield Finding(kind, _subject(one), "is not there", f"bondvpn reload  # or {commands.entry(one)}")
    if not missing:
        yield Finding("route", "all", f"{len(there)} routes and rules as planned")
    strict = [one for one in wanted if isinstance(one, Sysctl) and one.path.endswith("/rp_filter")]
    for entry in strict:
        mend = commands.sysctl(entry.path, entry.new)
        yield Finding(
            "rp_filter", Path(entry.path).parent.name, "strict: answers by this line are dropped", mend
        )
    if not strict:
        yield Finding("rp_filter", "all", "not strict on any line")


def full_tunnel(settings: config.Tunnel, netlink: Netlink, *, running: bool) -> Iterator[Finding]:
    """What stands against it, and what goes beside it."""
    if not running:
        try:
            fulltunnel.refuse_conflicts(settings.interface, settings)
        except SystemFault as fault:
            yield Finding("default_route", settings.interface, str(fault), "bondvpn status; bondvpn down")
    if not settings.default_route:
        return
    inside = {route.prefix.version for route in settings.default_routes}
    beside = {route.version for route in netlink.network().defaults} - inside
    for version in sorted(beside):
        subject = f"IPv{version}"
        if settings.kill_switch:
            yield Finding("default_route", subject, "the tunnel has none, and the kill switch refuses it")
            continue
        mend = f"tunnel.address with an {subject} address at both ends, or tunnel.kill_switch = true"
        yield Finding("default_route", subject, "leaves by the lines: the tunnel has no such address", mend)


def _subject(entry: Entry) -> str:
    """As its command names it."""
    words = commands.entry(entry).split(" add ", 1)[-1]
    return words.replace(" proto 118", "").replace(" protocol 118", "")


def leftovers(name: str, netlink: Netlink, *, running: bool) -> Iterator[Finding]:
    """What a killed process left, and what of ours belongs to nobody."""
    path = journal_path(name)
    if not running and path.exists():
        yield Finding("leftovers", name, "a killed process left devices, routes or rules", "bondvpn down")
        return
    known: set[Entry] = set()
    try:
        for one in journal.journals():
            known.update(journal.entries_of(one))
    except SystemFault as fault:
        yield Finding("leftovers", name, str(fault), f"rm {path}")
        return
    for rule in netlink.own_rules():
        if rule not in known:
            yield Finding("rule", _subject(rule), "of a bondvpn that is gone", commands.rule(rule, "del"))
    tables = {entry.table for entry in known if isinstance(entry, Route | Rule)}
    for route in netlink.own_routes():
        if route not in known and route.table >= policy.TABLE_FIRST and route.table not in tables:
            yield Finding("route", _subject(route), "of a bondvpn that is gone", commands.route(route, "del"))


def tunnel_addresses(settings: config.Tunnel, netlink: Netlink, *, running: bool) -> Finding:
    """The tunnel's device."""
    there = netlink.network().interfaces.get(settings.interface)
    if there is None and running:
        return Finding("tunnel", settings.interface, "the device has gone", "restart bondvpn")
    if there is None:
        return Finding("tunnel", settings.interface, "not there: nothing runs")
    missing = [str(own) for own in settings.address if own not in there.addresses]
    if missing and running:
        mend = "; ".join(f"ip address add {own} dev {settings.interface}" for own in missing)
        return Finding("tunnel", settings.interface, f"lacks {', '.join(missing)}", mend)
    if not there.up and running:
        mend = f"ip link set dev {settings.interface} up"
        return Finding("tunnel", settings.interface, "is down", mend)
    return Finding("tunnel", settings.interface, "is there")
