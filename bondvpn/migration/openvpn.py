"""OpenVPN's configuration files, as openvpn(8) describes them: one option a line, without its dashes.

A `#` or `;` where a word may begin starts a comment; single and double quotes hold words together, a
backslash takes the next character as it is, but not in single quotes. `<name>` to `</name>` encloses a
file's text, and `<connection>` options of one connection.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_network

from bondvpn import values
from bondvpn.migration.options import BY_ITSELF, SILENT
from bondvpn.migration.sources import Place, Said, Source, Sources
from bondvpn.values import U32_MAX, IPAddress, IPNetwork

PORT = 1194  # openvpn(8), --port
INCLUDES_MAX = 8
_DEVICE_OPTIONS = {"remote", "dev", "secret", "client", "tls-client"}


@dataclass(frozen=True, slots=True)
class Remote:
    """Where a client connects to."""

    host: str
    port: int
    place: Place


@dataclass(slots=True)
class Profile:
    """One client's configuration: a tunnel over one line."""

    source: Source
    device: Said[str] | None = None
    remotes: list[Remote] = field(default_factory=list)
    local: Said[IPAddress] | None = None
    local_port: Said[int] | None = None
    mark: Said[int] | None = None
    bind_device: Said[str] | None = None
    shaper_bps: Said[int] | None = None
    up: Said[list[str]] | None = None
    routes: list[Said[IPNetwork]] = field(default_factory=list)
    default_route: Place | None = None
    not_taken: list[Said[str]] = field(default_factory=list)
    """Options and why they were not carried over."""

    @property
    def name(self) -> str:
        return self.source.name.rpartition(".")[0] or self.source.name

    @property
    def source_place(self) -> Place:
        return Place(self.source.file, 1)

    @property
    def ports(self) -> set[int]:
        return {remote.port for remote in self.remotes}

    @property
    def hosts(self) -> set[str]:
        return {remote.host for remote in self.remotes}


def looks_like_profile(source: Source) -> bool:
    """Whether the file is a client's: it has a device and a remote, or is named as one and has either."""
    if not source.name.endswith((".conf", ".ovpn")):
        return False
    options = {words[0] for _, words in _options(source)} & _DEVICE_OPTIONS
    return {"dev", "remote"} <= options or (source.name.startswith("client") and bool(options))


def read(source: Source, sources: Sources) -> Profile:
    """What the file says, what it includes too."""
    profile = Profile(source)
    reader = _Reader(profile, sources)
    reader.read(source, 0)
    reader.finish()
    return profile


def words_of(line: str) -> list[str]:
    """The words of one line; unclosed quotes end with it."""
    words: list[str] = []
    word: str | None = None
    quote = ""
    escaped = False
    for char in line:
        if escaped:
            word, escaped = (word or "") + char, False
        elif char == "\\" and quote != "'":
            escaped = True
        elif quote:
            if char == quote:
                quote = ""
            else:
                word = (word or "") + char
        elif char in "\"'":
            quote, word = char, word or ""
        elif char.isspace():
            if word is not None:
                words.append(word)
            word = None
        elif char in "#;" and word is None:
            break
        else:
            word = (word or "") + char
    if word is not None:
        words.append(word)
    return words


def _options(source: Source) -> Iterator[tuple[Place, list[str]]]:
    """Each option; of an inline file only that it is there."""
    inline = ""
    for number, line in enumerate(source.text.split("\n"), 1):
        stripped = line.strip()
        if inline:
            if stripped == f"</{inline}>":
                inline = ""
            continue
        words = words_of(line)
        if not words:
            continue
        place = Place(source.file, number)
        if stripped.startswith("<") and stripped.endswith(">"):
            tag = stripped[1:-1]
            if tag in {"connection", "/connection"}:
                yield place, [tag]
                continue
            inline = tag
            words = [tag, "(inline)"]
        words[0] = words[0].removeprefix("--")
        yield place, words


class _Reader:
    """Collects one profile over its files."""

    def __init__(self, profile: Profile, sources: Sources) -> None:
        self._profile = profile
        self._sources = sources
        self._remotes: list[tuple[Place, str, int | None, bool]] = []
        self._port: int | None = None
        self._in_connection = False

    def read(self, source: Source, depth: int) -> None:
        for place, words in _options(source):
            option, arguments = words[0], words[1:]
            if option == "config" and arguments:
                included = self._sources.find(arguments[0], source.file)
                if included is not None and depth < INCLUDES_MAX:
                    self.read(included, depth + 1)
                else:
                    self._refuse(place, f"config {arguments[0]}", "the file is not there")
                continue
            self._option(place, option, arguments)

    def finish(self) -> None:
        """Ports that stood after the remotes they are for."""
        for place, host, port, udp in self._remotes:
            if not udp:
                self._refuse(place, f"remote {host}", "TCP: bondvpn uses UDP on the same port")
            self._profile.remotes.append(Remote(host, port or self._port or PORT, place))

    def _refuse(self, place: Place, what: str, why: str) -> None:
        self._profile.not_taken.append(Said(f"{what}: {why}", place))

    def _option(self, place: Place, option: str, arguments: list[str]) -> None:
        first = arguments[0] if arguments else ""
        whole = " ".join([option, *arguments])
        read = self._READ.get(option)
        if read is not None:
            read(self, place, first, whole)
        elif option == "remote":
            self._remote(place, arguments, whole)
        elif option == "route":
            self._route(place, arguments, whole)
        elif option == "up":
            self._profile.up = Said(words_of(first) + arguments[1:], place)
        elif option in BY_ITSELF:
            self._refuse(place, option, BY_ITSELF[option])
        elif option not in SILENT:
            self._refuse(place, whole[:80], "has no counterpart")

    def _connection(self, place: Place, first: str, whole: str) -> None:
        self._in_connection = not whole.startswith("/")

    def _device(self, place: Place, first: str, whole: str) -> None:
        self._profile.device = Said(first, place)

    def _bind_device(self, place: Place, first: str, whole: str) -> None:
        self._profile.bind_device = Said(first, place)

    def _both_ports(self, place: Place, first: str, whole: str) -> None:
        self._remote_port(place, first, whole)
        self._profile.local_port = self._profile.local_port or _said_port(place, first)

    def _local_port(self, place: Place, first: str, whole: str) -> None:
        self._profile.local_port = _said_port(place, first) or self._profile.local_port

    def _remote_port(self, place: Place, text: str, whole: str) -> None:
        port = _port(text)
        if port is None:
            self._refuse(place, whole, "not a port")
        elif self._in_connection and self._remotes:
            where, host, own, udp = self._remotes[-1]
            self._remotes[-1] = (where, host, own or port, udp)
        else:
            self._port = port

    def _protocol(self, place: Place, first: str, whole: str) -> None:
        if first.startswith("tcp"):
            self._refuse(place, whole, "bondvpn uses UDP on the same port")

    def _ifconfig(self, place: Place, first: str, whole: str) -> None:
        self._refuse(place, whole, "the lines have no addresses of their own in the tunnel")

    def _default_route(self, place: Place, first: str, whole: str) -> None:
        self._profile.default_route = place

    def _remote(self, place: Place, arguments: list[str], whole: str) -> None:
        if not arguments or (len(arguments) > 1 and _port(arguments[1]) is None):
            self._refuse(place, whole, "no host and port")
            return
        port = _port(arguments[1]) if len(arguments) > 1 else None
        udp = len(arguments) < 3 or not arguments[2].startswith("tcp")
        self._remotes.append((place, arguments[0], port, udp))

    def _address(self, place: Place, text: str, whole: str) -> None:
        try:
            self._profile.local = Said(values.address(text), place)
        except values.UnacceptableError:
            self._refuse(place, whole, "no address by numbers; give it to the uplink as `source`")

    def _mark(self, place: Place, first: str, whole: str) -> None:
        number = self._number(place, first, whole)
        self._profile.mark = None if number is None else Said(number, place)

    def _shaper(self, place: Place, first: str, whole: str) -> None:
        number = self._number(place, first, whole)
        self._profile.shaper_bps = None if number is None else Said(number * 8, place)  # bytes per second

    def _number(self, place: Place, text: str, whole: str) -> int | None:
        with contextlib.suppress(ValueError):
            if 0 < (number := int(text, 0)) <= U32_MAX:
                return number
        self._refuse(place, whole, "not a number")
        return None

    def _route(self, place: Place, arguments: list[str], whole: str) -> None:
        mask = arguments[1] if len(arguments) > 1 and arguments[1] != "default" else "255.255.255.255"
        try:
            network = ip_network(f"{arguments[0]}/{mask}", strict=False)
        except (ValueError, IndexError):
            self._refuse(place, whole, "not a network by numbers; add it to tunnel.routes")
            return
        if network.prefixlen == 0:
            self._profile.default_route = place
        else:
            self._profile.routes.append(Said(network, place))

    _READ: Mapping[str, Callable[["_Reader", Place, str, str], None]] = {
        "connection": _connection, "/connection": _connection, "dev": _device, "bind-dev": _bind_device,
        "port": _both_ports, "rport": _remote_port, "lport": _local_port, "local": _address,
        "proto": _protocol, "proto-force": _protocol, "mark": _mark, "shaper": _shaper,
        "ifconfig": _ifconfig, "redirect-gateway": _default_route,
    }  # fmt: skip


def _said_port(place: Place, text: str) -> Said[int] | None:
    port = _port(text)
    return None if port is None else Said(port, place)


def _port(text: str) -> int | None:
    return (
        int(text) if text.isascii() and text.isdigit() and len(text) <= 5 and 0 < int(text) < 65536 else None
    )
