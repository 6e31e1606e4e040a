"""From the picture of the old setup to client.toml and server.toml, and the account of it.

Every value carries the place it was taken from as a comment. What nothing says is chosen, and said.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_interface

from bondvpn import values
from bondvpn.config import MAX_UPLINKS
from bondvpn.errors import ConfigError
from bondvpn.migration.setup import Setup
from bondvpn.migration.sources import Place, Said
from bondvpn.migration.waysout import KERNEL_TABLES, Line
from bondvpn.values import IPInterface, IPNetwork, UnacceptableError

NAME = "office"
SERVER_INTERFACE = "office0"
ADDRESS, PEER = ip_interface("172.21.1.2/30"), ip_interface("172.21.1.1/30")
CREDIBLE_BPS_MIN = 64_000  # below an ISDN channel it was a ratio to eql, not the speed of a line


@dataclass(slots=True)
class Draft:
    """What is to be written, keys apart, and the account of it."""

    client: str = ""
    server: str = ""
    uplinks: int = 0
    taken: list[tuple[str, str]] = field(default_factory=list)
    """A value as it stands in a file, and the place it is from."""
    chosen: list[str] = field(default_factory=list)
    not_taken: list[Said[str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class PublicKeys:
    """Base64."""

    client: str
    server: str


def draft(setup: Setup, keys: PublicKeys) -> Draft:
    """Both files' text. Raises ConfigError when the setup lacks what no file can be written without."""
    return _Drafter(setup, keys).draft()


class _Drafter:
    def __init__(self, setup: Setup, keys: PublicKeys) -> None:
        self._setup = setup
        self._keys = keys
        self._draft = Draft(not_taken=list(setup.not_taken))
        self._lines: list[str] = []
        self._file = ""

    def draft(self) -> Draft:
        setup = self._setup
        if not setup.profiles:
            raise ConfigError(
                ["no OpenVPN client in it; accepted: .conf or .ovpn files with `dev` and `remote`"]
            )
        if not setup.lines:
            raise ConfigError([_why_lost(profile.name, profile.source.file) for profile in setup.lost])
        endpoints = self._endpoints()
        address, peer = self._addresses()
        self._client(endpoints, address, peer)
        self._server(endpoints, peer)
        return self._draft

    # -- lines of a file ------------------------------------------------------------------------
    def _put(self, text: str = "") -> None:
        self._lines.append(text)

    def _key(self, table: str, key: str, value: object, *places: Place | None, note: str = "") -> None:
        shown = _toml(value)
        named = list(dict.fromkeys(str(place) for place in places if place is not None))
        comment = "; ".join(filter(None, [", ".join(named), note]))
        self._put(f"{key} = {shown}" + (f"  # {comment}" if comment else ""))
        if named:
            where = f"{self._file}: {table}.{key}" if table else f"{self._file}: {key}"
            self._draft.taken.append((f"{where} = {shown}", ", ".join(named)))

    def _skip(self, what: str, place: Place) -> None:
        self._draft.not_taken.append(Said(what, place))

    # -- what both ends share -------------------------------------------------------------------
    def _endpoints(self) -> list[Said[values.Endpoint]]:
        """One for each host, on the lowest of the ports that were used there."""
        lowest: dict[str, Said[int]] = {}
        for profile in self._setup.profiles:
            for remote in profile.remotes:
                known = lowest.get(remote.host)
                if known is None or remote.port < known.value:
                    lowest[remote.host] = Said(remote.port, remote.place)
        endpoints: list[Said[values.Endpoint]] = []
        for host, port in lowest.items():
            text = f"[{host}]:{port.value}" if ":" in host else f"{host}:{port.value}"
            try:
                endpoints.append(Said(values.endpoint(text), port.place))
            except UnacceptableError as fault:
                self._skip(f"remote {host}: {fault.wrong}", port.place)
        if not endpoints:
            raise ConfigError(
                ["no OpenVPN client has a `remote` that can be used: which server is it?"]
                + [f"{said.place}: {said.value}" for said in self._draft.not_taken]
            )
        if len(endpoints) > 1:
            hosts = ", ".join(said.value.host for said in endpoints)
            self._draft.chosen.append(
                f"{hosts} become endpoints of one server: give each of them the same server.toml and keys. "
                "One at a time is used, the next when it does not answer"
            )
        return endpoints

    def _addresses(self) -> tuple[Said[IPInterface] | None, IPInterface]:
        """Ours, if it is known, and the server's in the tunnel."""
        own, peer = self._setup.address, self._setup.peer
        if own is not None and own.value.network.prefixlen < own.value.max_prefixlen:
            try:
                values.interface_address(str(own.value))
            except UnacceptableError as fault:
                self._skip(f"address {own.value}: {fault.wrong}", own.place)
                own = None
        if own is None:
            self._draft.chosen.append(
                f"tunnel.address {ADDRESS}, the server's {PEER}: no eql interface with an address was found"
            )
            return None, PEER
        if own.value.network.prefixlen == own.value.max_prefixlen:
            longer = ip_interface(f"{own.value.ip}/{own.value.max_prefixlen - 1}")
            self._draft.chosen.append(f"tunnel.address {longer}: {own.value.ip} names no peer ({own.place})")
            own = Said(longer, own.place)
        network = own.value.network
        edges = {network.network_address, network.broadcast_address} if network.prefixlen < 31 else set()
        if peer is not None and peer.value in network and peer.value not in edges | {own.value.ip}:
            return own, ip_interface(f"{peer.value}/{network.prefixlen}")
        hosts = [network[at] for at in range(min(4, network.num_addresses))]
        other = next(host for host in hosts if host != own.value.ip and host not in edges)
        if network.num_addresses > 4:
            self._draft.chosen.append(f"the server's address {other}: nothing says which it had")
        return own, ip_interface(f"{other}/{network.prefixlen}")

    # -- client.toml ----------------------------------------------------------------------------
    def _client(
        self,
        endpoints: Sequence[Said[values.Endpoint]],
        address: Said[IPInterface] | None,
        peer: IPInterface,
    ) -> None:
        setup, self._file, self._lines = self._setup, "client.toml", []
        self._put("# Made by `bondvpn import-eql`; what stands behind a # is where it was taken from.")
        self._key("", "private_key_file", "client.key")
        self._put("\n[tunnel]")
        interface = next(name for number in range(100) if (name := f"bond{number}") not in setup.interfaces)
        self._key("tunnel", "interface", interface)
        own = address.value if address is not None else ADDRESS
        self._key("tunnel", "address", [str(own)], address.place if address is not None else None)
        routes = self._prefixes(setup.routes, but=own.network)
        if routes:
            self._key("tunnel", "routes", [str(one.value) for one in routes], *(one.place for one in routes))
        if setup.default_route is not None:
            if own.network.num_addresses > 4:
                self._key("tunnel", "peer", [str(peer.ip)], setup.peer.place if setup.peer else None)
            self._key("tunnel", "default_route", True, setup.default_route)
        self._put("\n[[server]]")
        self._key("server[0]", "public_key", self._keys.server)
        self._key("server[0]", "preshared_key_file", f"{NAME}.psk")
        shown = [str(one.value) for one in endpoints]
        self._key("server[0]", "endpoints", shown, *(one.place for one in endpoints))
        for line in setup.lines[MAX_UPLINKS:]:
            self._skip(f"more than {MAX_UPLINKS} lines", line.profiles[0].source_place)
        lines = setup.lines[:MAX_UPLINKS]
        self._draft.uplinks = len(lines)
        names = _names(lines)
        speeds = self._speeds(lines)
        taken: set[tuple[str, int]] = set()
        for number, (line, name, speed) in enumerate(zip(lines, names, speeds, strict=True)):
            self._uplink(f"uplink[{number}]", line, name, speed, taken)
        for profile in setup.lost:
            self._skip(_why_lost(profile.name, ""), profile.source_place)
            self._put(f"\n# [[uplink]]\n# name = {_toml(profile.name[:32])}")
            self._put('# interface = "..."  # which line this tunnel left by is not known')
        self._draft.client = "\n".join(self._lines) + "\n"

    def _uplink(
        self, table: str, line: Line, name: str, speed: Said[int] | None, taken: set[tuple[str, int]]
    ) -> None:
        self._put("\n[[uplink]]")
        self._key(table, "name", name, *(profile.source_place for profile in line.profiles))
        if line.interface is not None:
            self._key(table, "interface", line.interface.value, line.interface.place)
        if line.source is not None:
            self._key(table, "source", str(line.source.value), line.source.place)
        gateway = line.gateway
        if gateway is not None and (gateway.value.is_multicast or gateway.value.is_unspecified):
            self._skip(f"gateway {gateway.value}: not one host's address", gateway.place)
            gateway = None
        if gateway is not None and line.source and line.source.value.version != gateway.value.version:
            self._skip(f"gateway {gateway.value}: of another family than the source", gateway.place)
            gateway = None
        if gateway is not None:
            self._key(table, "gateway", str(gateway.value), gateway.place)
        self._numbers(table, line, taken)
        if speed is not None:
            note = "eql's speed; without it the speed is learned"
            self._key(table, "up", _rate(speed.value), speed.place, note=note)

    def _numbers(self, table: str, line: Line, taken: set[tuple[str, int]]) -> None:
        """Routing table and mark, unless bondvpn's own numbers must do."""
        for key, said in (("table", line.table), ("mark", line.mark)):
            if said is None:
                continue
            if (key, said.value) in taken or not 0 < said.value < 1 << 32:
                self._skip(f"{key} {said.value}: used twice, or no number for one", said.place)
            elif key == "table" and said.value in KERNEL_TABLES.values():
                self._skip(f"table {said.value}: the kernel's own", said.place)
            else:
                taken.add((key, said.value))
                self._key(
                    table, key, said.value, said.place, note=line.table_name or "" if key == "table" else ""
                )

    def _speeds(self, lines: Sequence[Line]) -> list[Said[int] | None]:
        """In bit/s, or none where they can be no more than ratios."""
        speeds = [line.speed for line in lines]
        slow = next((speed for speed in speeds if speed and speed.value < CREDIBLE_BPS_MIN), None)
        if slow is not None:
            for speed in speeds:
                if speed is not None:
                    why = f"{speed.value} is a ratio, no line's speed in bit/s: speeds are learned"
                    self._skip(f"eql_enslave: {why}", speed.place)
            return [None] * len(speeds)
        return speeds

    def _prefixes(self, said: Iterable[Said[IPNetwork]], but: IPNetwork) -> list[Said[IPNetwork]]:
        unique: dict[IPNetwork, Said[IPNetwork]] = {}
        for one in said:
            if one.value != but and one.value.prefixlen:
                unique.setdefault(one.value, one)
        return list(unique.values())

    # -- server.toml ----------------------------------------------------------------------------
    def _server(self, endpoints: Sequence[Said[values.Endpoint]], peer: IPInterface) -> None:
        setup, self._file, self._lines = self._setup, "server.toml", []
        self._put(
            "# Made by `bondvpn import-eql`, for the root server; it belongs to the client.toml beside it."
        )
        self._key("", "private_key_file", "server.key")
        ports: dict[int, Place] = {}
        for said in endpoints:
            ports.setdefault(said.value.port, said.place)
        listen = [f"{any_}:{port}" for port in ports for any_ in ("0.0.0.0", "[::]")]
        self._key("", "listen", listen, *ports.values())
        self._put("\n[[client]]")
        self._key("client[0]", "name", NAME)
        self._key("client[0]", "public_key", self._keys.client)
        self._key("client[0]", "preshared_key_file", f"{NAME}.psk")
        self._put("[client.tunnel]")
        self._key("client[0].tunnel", "interface", SERVER_INTERFACE)
        self._key("client[0].tunnel", "address", [str(peer)], setup.peer.place if setup.peer else None)
        lans = self._prefixes(setup.lans, but=peer.network)
        if lans:
            self._key(
                "client[0].tunnel", "routes", [str(one.value) for one in lans], *(one.place for one in lans)
            )
        self._draft.chosen.append(
            "no `down`: eql's speeds for that direction were the server's; they are learned"
        )
        self._draft.chosen.append(
            f"port {', '.join(map(str, ports))}: OpenVPN's. End it on the server first, or choose another "
            "in both files"
        )
        self._draft.server = "\n".join(self._lines) + "\n"


def _names(lines: Sequence[Line]) -> list[str]:
    """The interface where it is one line's alone, else the tunnel's name; each once."""
    interfaces = [line.interface.value if line.interface else "" for line in lines]
    names: list[str] = []
    for line, interface in zip(lines, interfaces, strict=True):
        own = bool(interface) and interfaces.count(interface) == 1
        wanted = interface if own else _printable(line.profiles[0].name)
        name, number = wanted, 2
        while name in names:
            name, number = f"{wanted[:28]}-{number}", number + 1
        names.append(name)
    return names


def _printable(name: str) -> str:
    kept = "".join(char for char in name if char.isprintable() and char.isascii())
    return kept[: values.NAME_BYTES] or "line"


def _rate(bps: int) -> str:
    for unit, size in (("gbit", 10**9), ("mbit", 10**6), ("kbit", 10**3)):
        if bps % size == 0 and bps >= size:
            return f"{bps // size}{unit}"
    return f"{bps}bit"


def _why_lost(name: str, file: str) -> str:
    place = f"{file}: " if file else ""
    return (
        f"{place}{name}: which line this tunnel left by is not known (no mark with a table, no SNAT of its "
        "port, no local address): write its [[uplink]] by hand"
    )


def _toml(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(_toml(one) for one in value)}]"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str | bool) else str(value)
