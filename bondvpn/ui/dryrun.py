"""`--dry-run`: every device, address, route, rule, setting and table that a start would make, as commands.

Only reads: the same survey and the same planner as a start, and nobody to install the plan.
"""

from collections.abc import Iterator, Sequence

from bondvpn.config import ClientConfig, ServerConfig, Tunnel
from bondvpn.errors import SystemFault
from bondvpn.linux import commands, fulltunnel, nftables, policy, resolver
from bondvpn.linux.journal import Entry, Sysctl
from bondvpn.linux.netlink import Netlink, Route, tunnel_routes


def client(config: ClientConfig) -> Iterator[str]:
    """A client's, line by line; what cannot be now, and why, as comments."""
    try:
        fulltunnel.refuse_conflicts(config.tunnel.interface, config.tunnel)
    except SystemFault as fault:
        yield f"# refused: {fault}"
    with Netlink() as netlink:
        plan = policy.plan_here(config.tunnel, config.uplinks, netlink)
        yield f"# {config.tunnel.interface}"
        yield from _tunnel(config.tunnel, netlink)
        for binding in plan.bindings:
            if binding.waiting:
                yield f"# uplink {binding.uplink.name}: waits: {binding.waiting}"
                continue
            sources = ", ".join(str(leg.source) for leg in binding.legs)
            mark = "" if binding.mark is None else f", mark {binding.mark:#x}"
            yield f"# uplink {binding.uplink.name}: {binding.interface} from {sources}{mark}"
        yield from _machine(plan, netlink)


def server(config: ServerConfig) -> Iterator[str]:
    """A server's."""
    with Netlink() as netlink:
        for one in config.listen:
            yield f"# listens at {one}"
        for client in config.clients:
            yield f"# client {client.name}"
            yield from _tunnel(client.tunnel, netlink)
        tunnels = [client.tunnel for client in config.clients]
        yield from _machine(policy.plan_of_server(tunnels), netlink)


def _tunnel(settings: Tunnel, netlink: Netlink) -> Iterator[str]:
    yield from commands.device(settings)
    yield from _entries(tunnel_routes(settings.interface, settings.routes), netlink)


def _machine(plan: policy.Plan, netlink: Netlink) -> Iterator[str]:
    """The kill switch first, as at a start."""
    for table in plan.tables:
        if why := nftables.missing():
            yield f"# {'left out' if table.optional else 'refused'}: {table.name}: {why}"
            continue
        yield from nftables.commands(table)
    yield from _entries(policy.entries(plan, netlink), netlink)
    if plan.resolver is not None:
        yield f"# {why}" if (why := resolver.missing()) else commands.entry(plan.resolver)


def _entries(entries: Sequence[Entry], netlink: Netlink) -> Iterator[str]:
    for entry in entries:
        if isinstance(entry, Sysctl) and entry.follows:
            continue
        obstacle = netlink.obstacle(entry) if isinstance(entry, Route) else None
        yield commands.entry(entry) if obstacle is None else f"# refused: {obstacle}"
