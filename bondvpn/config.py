"""One TOML file per end, read into frozen structs; every mistake in it is reported at once.

`load_client` and `load_server` read a file of the kind they name, `load` tells by its tables which
kind it is. All raise `ConfigError` holding one line per finding:

    client.toml: uplink[1].up = "6 mbit": not a rate; accepted: a rate such as "500kbit", ...

Key files are read here too (relative paths start at the configuration file); one that others can read is
worth a warning, as `wg` gives it. Secrets are `bytes` and stay out of every repr.
"""

import base64
import glob
import tomllib
from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Literal

from bondvpn import values
from bondvpn.errors import ConfigError
from bondvpn.tomltable import Findings, Table
from bondvpn.values import Endpoint, IPAddress, IPInterface, IPNetwork

Scheduler = Literal["adaptive", "weighted", "redundant", "backup"]

MAX_UPLINKS = 16
TIER_MAX = 7
MTU_BYTES_MIN, MTU_BYTES_MAX = 576, 9000
IPV6_MTU_BYTES_MIN = 1280  # RFC 8200 section 5
REKEY_AFTER_S = 120.0  # docs/design.md section 6
LISTEN = (Endpoint("0.0.0.0", 1189), Endpoint("::", 1189))
WORKERS_MAX = 64  # processes of one server; far more than cores carry tunnels anywhere today
HOOK_TIMEOUT_S = 10.0  # a command of an administrator's takes a fraction of a second
HOOK_TIMEOUT_MAX_S = 300.0
EVERYWHERE: tuple[IPNetwork, ...] = (ip_network("0.0.0.0/0"), ip_network("::/0"))
SERVER_SOCKET = "server"  # what names the server's control socket and journal


@dataclass(frozen=True, slots=True)
class Route:
    """A destination reached through the tunnel."""

    prefix: IPNetwork
    gateway: IPAddress | None
    """The peer's tunnel address where ours tells it (/30, /31, /127); None: on the link itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tunnel:
    """The TAP device of one tunnel."""

    interface: str
    address: tuple[IPInterface, ...]
    peer: tuple[IPAddress, ...] = ()
    """The other end's, where it does not follow from `address`."""
    mtu: int = 1500
    routes: tuple[Route, ...] = ()
    default_route: bool = False
    """Everything goes through the tunnel but what is local."""
    kill_switch: bool = False
    """And nothing else leaves, whatever becomes of the tunnel."""
    dns: tuple[IPAddress, ...] = ()
    dns_search: tuple[str, ...] = ()
    forward: bool = False
    """The machine routes between the tunnel and others."""
    masquerade: bool = False
    clamp_mss: bool | None = None
    """None: where the tunnel is narrower than Ethernet."""
    scheduler: Scheduler = "adaptive"
    rekey_after_s: float = REKEY_AFTER_S

    @property
    def default_routes(self) -> tuple[Route, ...]:
        """Everything, in each family in which the tunnel has an address."""
        versions = {own.version for own in self.address}
        return tuple(
            Route(prefix, _peer(prefix, self.address, self.peer))
            for prefix in EVERYWHERE
            if prefix.version in versions
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A server that the client dials."""

    public_key: bytes
    endpoints: tuple[Endpoint, ...]
    preshared_key: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Uplink:
    """A line; at least one of `interface` and `source` is given. Or, with `auto`, every line that comes."""

    name: str
    interface: str | None = None
    source: IPAddress | None = None
    gateway: IPAddress | None = None
    table: int | None = None
    """Routing table; None: allocated by `linux.policy`."""
    mark: int | None = None
    """Firewall mark; None: allocated by `linux.policy`."""
    up_bps: int | None = None
    down_bps: int | None = None
    tier: int = 0
    """Lines of a worse (higher) tier carry what the better ones cannot, or when they are gone."""
    auto: bool = False
    """Each interface with a default route is an uplink of its own, named after it, with these settings."""
    include: tuple[str, ...] = ("*",)
    """Patterns (fnmatch) of the interfaces that `auto` takes,"""
    exclude: tuple[str, ...] = ()
    """but for these."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """A gateway that the server knows."""

    name: str
    public_key: bytes
    tunnel: Tunnel
    preshared_key: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """Commands that are run when something happens; argument lists, empty: none."""

    up: tuple[str, ...] = ()
    down: tuple[str, ...] = ()
    link_up: tuple[str, ...] = ()
    link_down: tuple[str, ...] = ()
    timeout_s: float = HOOK_TIMEOUT_S


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientConfig:
    """client.toml"""

    path: Path
    private_key: bytes = field(repr=False)
    tunnel: Tunnel
    server: Server
    uplinks: tuple[Uplink, ...]
    hooks: Hooks = Hooks()


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """server.toml"""

    path: Path
    private_key: bytes = field(repr=False)
    listen: tuple[Endpoint, ...]
    clients: tuple[Client, ...]
    workers: int = 1
    """Processes that share the ports and split the clients."""
    hooks: Hooks = Hooks()


def load_client(path: str | Path) -> ClientConfig:
    """Read client.toml. Raises ConfigError with every finding."""
    return _client_config(Path(path), _document(Path(path)))


def load_server(path: str | Path) -> ServerConfig:
    """Read server.toml. Raises ConfigError with every finding."""
    return _server_config(Path(path), _document(Path(path)))


def load(path: str | Path) -> ClientConfig | ServerConfig:
    """Read either kind: what only a server has (`listen`, `client`) decides, else it is a client's."""
    document = _document(Path(path))
    read = _server_config if {"listen", "client"} & document.keys() else _client_config
    return read(Path(path), document)


def _document(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8"))
    except UnicodeDecodeError as fault:
        raise ConfigError([f"{path}: not UTF-8 text: byte {fault.start}; accepted: a TOML file"]) from None
    except ValueError as fault:
        raise ConfigError([f"{path}: not TOML: {fault}"]) from None
    except OSError as fault:
        raise ConfigError([f"{path}: cannot be read: {fault.strerror}"]) from None


def _client_config(path: Path, document: dict[str, Any]) -> ClientConfig:
    findings = Findings(path)
    top = Table(document, "", findings)
    private_key = top.secret("private_key_file")
    tunnel_table = top.table("tunnel")
    tunnel = _tunnel(tunnel_table, client=True)
    servers = [_server(table) for table in top.tables("server", at_most=1)]
    tables = top.tables("uplink", at_most=MAX_UPLINKS)
    uplinks = [_uplink(table, tunnel) for table in tables]
    hooks = _hooks(top)
    top.close()
    for key in ("name", "table", "mark"):
        given = [
            getattr(uplink, key) if table.given(key) else None
            for table, uplink in zip(tables, uplinks, strict=True)
        ]
        _refuse_repeats(tables, given, key)
    several = len(tables) > 1 or any(uplink.auto for uplink in uplinks)
    if tunnel.scheduler == "weighted" and several:
        for table in tables:
            for key in ("up", "down"):
                if not table.given(key):
                    table.findings.add(
                        table.place(key),
                        "missing: the weighted scheduler shares by configured speeds",
                        'a rate such as "6mbit", or scheduler = "adaptive"',
                    )
    findings.raise_if_any()
    return ClientConfig(
        path=path,
        private_key=private_key,
        tunnel=tunnel,
        server=servers[0],
        uplinks=tuple(uplinks),
        hooks=hooks,
    )


def _server_config(path: Path, document: dict[str, Any]) -> ServerConfig:
    findings = Findings(path)
    top = Table(document, "", findings)
    private_key = top.secret("private_key_file")
    listen = top.items("listen", values.listen_endpoint, LISTEN)
    workers = top.value("workers", values.integer((1, WORKERS_MAX)), 1)
    tables = top.tables("client")
    clients = [_client(table) for table in tables]
    hooks = _hooks(top)
    top.close()
    _refuse_repeats(tables, [client.name for client in clients], "name")
    _refuse_repeats(tables, [client.public_key for client in clients], "public_key")
    _refuse_repeats(tables, [client.tunnel.interface for client in clients], "tunnel.interface")
    findings.raise_if_any()
    return ServerConfig(
        path=path,
        private_key=private_key,
        listen=listen,
        clients=tuple(clients),
        workers=workers,
        hooks=hooks,
    )


def _hooks(top: Table) -> Hooks:
    table = top.table("hooks", required=False)
    hooks = Hooks(
        up=table.value("up", values.command, ()),
        down=table.value("down", values.command, ()),
        link_up=table.value("link_up", values.command, ()),
        link_down=table.value("link_down", values.command, ()),
        timeout_s=table.value("timeout", values.duration(0.1, HOOK_TIMEOUT_MAX_S), HOOK_TIMEOUT_S),
    )
    table.close()
    return hooks


def _tunnel(table: Table, *, client: bool) -> Tunnel:
    interface = table.value("interface", values.ifname)
    if client and interface == SERVER_SOCKET:
        table.reject("interface", interface, "names the server's control socket", "any other name")
    address = table.items("address", values.interface_address)
    peer = table.items("peer", values.address, ())
    if table.sound:
        for one in peer:
            if not any(one in own.network and one != own.ip for own in address):
                accepted = "another address in a network of tunnel.address"
                table.reject("peer", str(one), "nobody's on this link", accepted)
    mtu = table.value("mtu", values.integer((MTU_BYTES_MIN, MTU_BYTES_MAX)), 1500)
    if table.sound and mtu < IPV6_MTU_BYTES_MIN and any(own.version == 6 for own in address):
        accepted = f"{IPV6_MTU_BYTES_MIN} to {MTU_BYTES_MAX}, or no IPv6 address"
        table.reject("mtu", mtu, "too small for IPv6", accepted)
    prefixes = table.items("routes", values.prefix, ())
    scheduler: Scheduler = table.value(
        "scheduler", values.choice("adaptive", "weighted", "redundant", "backup"), "adaptive"
    )
    tunnel = Tunnel(
        interface=interface,
        address=address,
        peer=peer,
        mtu=mtu,
        scheduler=scheduler,
        forward=table.value("forward", values.boolean, False),
        masquerade=table.value("masquerade", values.boolean, False),
        clamp_mss=table.value("clamp_mss", values.boolean, None),
    )
    if client:
        tunnel = _client_tunnel(table, tunnel)
    table.close()
    if not table.sound:
        return tunnel
    return replace(tunnel, routes=tuple(Route(prefix, _peer(prefix, address, peer)) for prefix in prefixes))


def _client_tunnel(table: Table, tunnel: Tunnel) -> Tunnel:
    """With what only a client's has."""
    tunnel = replace(
        tunnel,
        rekey_after_s=table.value("rekey_after", values.duration(1, REKEY_AFTER_S), REKEY_AFTER_S),
        default_route=table.value("default_route", values.boolean, False),
        kill_switch=table.value("kill_switch", values.boolean, False),
        dns=table.items("dns", values.address, ()),
        dns_search=table.items("dns_search", values.domain, ()),
    )
    if tunnel.kill_switch and not tunnel.default_route:
        table.reject("kill_switch", True, "would let nothing pass", "default_route = true beside it")
    if tunnel.dns_search and not tunnel.dns:
        table.reject("dns_search", list(tunnel.dns_search), "nobody to ask", "dns beside it")
    if table.sound and tunnel.default_route and any(one.gateway is None for one in tunnel.default_routes):
        shown = ", ".join(str(own) for own in tunnel.address)
        accepted = 'networks of two, such as "172.21.1.2/30" and "fd21::2/127", or tunnel.peer beside it'
        table.reject(
            "default_route", True, f"which address the server has does not follow from {shown}", accepted
        )
    return tunnel


def _peer(
    prefix: IPNetwork, address: tuple[IPInterface, ...], given: tuple[IPAddress, ...]
) -> IPAddress | None:
    """The other end's address: as given, or where a subnet of ours of the prefix's family has room for just
    one other."""
    for peer in given:
        if peer.version == prefix.version:
            return peer
    for own in address:
        if own.version == prefix.version and 0 < own.max_prefixlen - own.network.prefixlen <= 2:
            others = [host for host in own.network.hosts() if host != own.ip]
            if len(others) == 1:
                return others[0]
    return None


def _server(table: Table) -> Server:
    server = Server(
        public_key=table.value("public_key", values.key),
        preshared_key=table.secret("preshared_key_file", None),
        endpoints=table.items("endpoints", values.endpoint),
    )
    table.close()
    return server


def _uplink(table: Table, tunnel: Tunnel) -> Uplink:
    auto: bool = table.value("auto", values.boolean, False)
    uplink = Uplink(
        name=table.value("name", values.name, "auto") if auto else table.value("name", values.name),
        interface=table.value("interface", values.ifname, None),
        source=table.value("source", values.address, None),
        gateway=table.value("gateway", values.address, None),
        table=table.value("table", values.routing_table, None),
        mark=table.value("mark", values.integer((1, values.U32_MAX)), None),
        up_bps=table.value("up", values.rate, None),
        down_bps=table.value("down", values.rate, None),
        tier=_tier(table),
        auto=auto,
        include=table.items("include", values.ifname_pattern, ("*",)),
        exclude=table.items("exclude", values.ifname_pattern, ()),
    )
    table.close()
    if auto:
        if uplink.exclude is not None and tunnel.interface is not None:
            # Whoever routes everything into the tunnel must not find it among its lines. (None: a finding.)
            uplink = replace(uplink, exclude=(*uplink.exclude, glob.escape(tunnel.interface)))
        for key in ("interface", "source", "gateway", "table", "mark"):
            table.refuse(key, "with auto = true every interface has its own", "an uplink without auto")
    else:
        for key in ("include", "exclude"):
            table.refuse(key, "says what auto takes", "auto = true beside it")
        if not table.given("interface") and not table.given("source"):
            accepted = 'an interface name such as "ppp0", or a source address, or both, or auto = true'
            table.findings.add(table.place("interface"), "missing, and so is source", accepted)
    if uplink.source and uplink.gateway and uplink.source.version != uplink.gateway.version:
        accepted = f"an IPv{uplink.source.version} address, as source is"
        table.reject("gateway", str(uplink.gateway), "of another family than source", accepted)
    return uplink


def _tier(table: Table) -> int:
    """As given; else a metered line is of the second one."""
    tier: int | None = table.value("tier", values.integer((0, TIER_MAX)), None)
    metered: bool = table.value("metered", values.boolean, False)
    return int(bool(metered)) if tier is None else tier


def _client(table: Table) -> Client:
    client = Client(
        name=table.value("name", values.name),
        public_key=table.value("public_key", values.key),
        preshared_key=table.secret("preshared_key_file", None),
        tunnel=_tunnel(table.table("tunnel"), client=False),
    )
    table.close()
    return client


def _refuse_repeats(tables: list[Table], keys: list[Any], key: str) -> None:
    """One finding for each table whose `key` is another's before it."""
    seen: set[Hashable] = set()
    for table, value in zip(tables, keys, strict=True):
        if value is not None and value in seen:
            shown = base64.b64encode(value).decode() if isinstance(value, bytes) else value
            table.reject(key, shown, "already taken by an earlier one", "a value of its own")
        seen.add(value)
