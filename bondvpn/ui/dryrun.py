"""`--dry-run`: every device, address, route, rule and setting that a start would make here, as commands.

Only reads: the same survey and the same planner as a start, and nobody to install the plan.
"""

from collections.abc import Iterator, Sequence

from bondvpn.config import ClientConfig, ServerConfig, Tunnel
from bondvpn.linux import commands, policy
from bondvpn.linux.journal import Entry
from bondvpn.linux.netlink import Netlink, Route, tunnel_routes


def client(config: ClientConfig) -> Iterator[str]:
    """A client's, line by line; what cannot be now, and why, as comments."""
    with Netlink() as netlink:
        plan = policy.plan_here(config.tunnel.interface, config.uplinks, netlink)
        yield f"# {config.tunnel.interface}"
        yield from _tunnel(config.tunnel, netlink)
        for binding in plan.bindings:
            if binding.waiting:
                yield f"# uplink {binding.uplink.name}: waits: {binding.waiting}"
                continue
            sources = ", ".join(str(leg.source) for leg in binding.legs)
            mark = "" if binding.mark is None else f", mark {binding.mark:#x}"
            yield f"# uplink {binding.uplink.name}: {binding.interface} from {sources}{mark}"
        yield from _entries(policy.entries(plan, netlink), netlink)


def server(config: ServerConfig) -> Iterator[str]:
    """A server's."""
    with Netlink() as netlink:
        for one in config.listen:
            yield f"# listens at {one}"
        for client in config.clients:
            yield f"# client {client.name}"
            yield from _tunnel(client.tunnel, netlink)


def _tunnel(settings: Tunnel, netlink: Netlink) -> Iterator[str]:
    yield from commands.device(settings)
    yield from _entries(tunnel_routes(settings.interface, settings.routes), netlink)


def _entries(entries: Sequence[Entry], netlink: Netlink) -> Iterator[str]:
    for entry in entries:
        obstacle = netlink.obstacle(entry) if isinstance(entry, Route) else None
        yield commands.entry(entry) if obstacle is None else f"# refused: {obstacle}"
