"""What of a configuration file can change while we run, and what takes a restart.

A file that cannot be read changes nothing. What takes a restart is named, each time, until it was had:
the running configuration keeps the old value.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

from bondvpn import config
from bondvpn.config import Client, ClientConfig, ServerConfig, Uplink
from bondvpn.errors import BondvpnError, ConfigError, SystemFault
from bondvpn.linux.journal import Journal
from bondvpn.linux.netlink import Netlink, tunnel_routes
from bondvpn.runtime.router import Router

log = logging.getLogger(__name__)

Reply = dict[str, Any]
"""{"applied": [...], "restart": [...], "faults": [...]}, or {"errors": [...], "exit_code": n}."""


def client_changes(old: ClientConfig, new: ClientConfig) -> tuple[ClientConfig, Reply]:
    """What runs after a reload, and what changed: uplinks, endpoints, hooks and much of the tunnel can."""
    tunnel = _tunnel(old.tunnel, new.tunnel)
    server = replace(old.server, endpoints=new.server.endpoints)
    runs = replace(old, uplinks=new.uplinks, hooks=new.hooks, tunnel=tunnel, server=server)
    applied = [
        *_named("uplink", old.uplinks, new.uplinks),
        *_differences(replace(old, uplinks=()), replace(runs, uplinks=())),
    ]
    return runs, {"applied": applied, "restart": list(_differences(runs, new)), "faults": []}


def server_changes(old: ServerConfig, new: ServerConfig) -> tuple[ServerConfig, Reply]:
    """What runs after a reload, and what changed: hooks, and much of the tunnels that stay, can."""
    known = {client.name: client for client in new.clients}

    def kept(client: Client) -> Client:
        anew = known.get(client.name)
        return client if anew is None else replace(client, tunnel=_tunnel(client.tunnel, anew.tunnel))

    runs = replace(old, hooks=new.hooks, clients=tuple(kept(client) for client in old.clients))

    def compared(one: ServerConfig, other: ServerConfig) -> list[str]:
        rest = _differences(replace(one, clients=()), replace(other, clients=()))
        return [*rest, *_named("client", one.clients, other.clients)]

    return runs, {"applied": compared(old, runs), "restart": compared(runs, new), "faults": []}


def _tunnel(old: config.Tunnel, new: config.Tunnel) -> config.Tunnel:
    """What runs after a reload: what stands outside of the tunnel's device can change."""
    return replace(
        old,
        peer=new.peer,
        routes=new.routes,
        default_route=new.default_route,
        kill_switch=new.kill_switch,
        dns=new.dns,
        dns_search=new.dns_search,
        forward=new.forward,
        masquerade=new.masquerade,
        clamp_mss=new.clamp_mss,
    )


def _named(
    table: str, old: Sequence[Uplink] | Sequence[Client], new: Sequence[Uplink] | Sequence[Client]
) -> Iterator[str]:
    """Tables that are told apart by name."""
    before: Mapping[str, Any] = {one.name: one for one in old}
    after: Mapping[str, Any] = {one.name: one for one in new}
    for name in dict.fromkeys([*before, *after]):
        if name not in after:
            yield f"{table} {name}: removed"
        elif name not in before:
            yield f"{table} {name}: added"
        elif keys := list(_differences(before[name], after[name])):
            yield f"{table} {name}: {', '.join(keys)}"


def _differences(old: Any, new: Any, prefix: str = "") -> Iterator[str]:
    """The keys whose values differ, as in the file: `tunnel.mtu`. Values stay out of it: some are secrets."""
    for field in fields(old):
        before, after = getattr(old, field.name), getattr(new, field.name)
        if before == after or field.name == "path":
            continue
        key = prefix + _KEYS.get(field.name, field.name)
        if is_dataclass(before) and is_dataclass(after):
            yield from _differences(before, after, f"{key}.")
        else:
            yield key


_KEYS = {
    "up_bps": "up", "down_bps": "down", "timeout_s": "timeout", "rekey_after_s": "rekey_after",
    "private_key": "private_key_file", "preshared_key": "preshared_key_file",
}  # fmt: skip


def move_routes(old: config.Tunnel, new: config.Tunnel, netlink: Netlink, journal: Journal) -> list[str]:
    """Bring the tunnel's routes from `old` to `new`; what could not be done. Blocks."""
    before, after = (tunnel_routes(one.interface, one.routes) for one in (old, new))
    faults: list[str] = []
    gone = [route for route in before if route not in after]
    coming = [route for route in after if route not in before]
    journal.record(coming)
    for route in coming:
        try:
            netlink.put_route(route)
        except SystemFault as fault:
            faults.append(str(fault))
    try:
        journal.record(gone)  # those of a device that we made are not in it: they would go with it
        journal.take_back(gone, netlink)
    except SystemFault as fault:
        faults.append(str(fault))
    return faults


def refusal(fault: BondvpnError) -> Reply:
    """The reply when nothing was changed."""
    errors = fault.errors if isinstance(fault, ConfigError) else [str(fault)]
    return {"errors": errors, "exit_code": fault.exit_code}


def tell(name: str, reply: Reply) -> None:
    """Log what became of a reload that nobody waits for (SIGHUP)."""
    for line in reply.get("errors", ()):
        log.error("%s: not reloaded: %s", name, line)
    for line in reply.get("faults", ()):
        log.error("%s: %s", name, line)
    for key, words in (("applied", "reloaded"), ("restart", "needs a restart")):
        if reply.get(key):
            log.info("%s: %s: %s", name, words, "; ".join(reply[key]))


class ServerReload:
    """A server's reload, in the process that has the journal."""

    def __init__(self, running: ServerConfig, journal: Journal, router: Router) -> None:
        self.config = running
        """What runs now; workers that are started anew are started with it."""
        self.deliver: Callable[[config.Hooks], None] = lambda _hooks: None
        """Takes new hooks to where they run."""
        self.router = router
        self._journal = journal

    def __call__(self) -> Reply:
        """Read the file, apply what can be; blocks."""
        with self.router.lock:
            try:
                return self._reload()
            except BondvpnError as fault:
                return refusal(fault)

    def _reload(self) -> Reply:
        old = self.config
        runs, reply = server_changes(old, config.load_server(old.path))
        with Netlink() as netlink:
            for before, after in zip(old.clients, runs.clients, strict=True):
                if before.tunnel.routes != after.tunnel.routes:
                    reply["faults"] += move_routes(before.tunnel, after.tunnel, netlink, self._journal)
        reply["faults"] += self.router.reconfigure(runs)
        self.config = runs
        if runs.hooks != old.hooks:
            self.deliver(runs.hooks)
        return reply
