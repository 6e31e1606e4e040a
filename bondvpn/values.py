"""Single configuration values: text to typed value, or why not and what would do.

Every parser takes what TOML gave (any type) and returns the typed value, or raises `UnacceptableError`
with the two halves of a finding: what is wrong, and what is accepted.
"""

import base64
import binascii
import re
from collections.abc import Callable
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_interface,
    ip_network,
)
from pathlib import Path
from typing import NamedTuple, TypeVar

T = TypeVar("T")

IPAddress = IPv4Address | IPv6Address
IPInterface = IPv4Interface | IPv6Interface
IPNetwork = IPv4Network | IPv6Network

KEY_BYTES = 32
IFNAME_CHARS = 15  # IFNAMSIZ - 1, linux/if.h
NAME_BYTES = 32
U32_MAX = 0xFFFF_FFFF

RT_TABLES = (  # iproute2, lib/rt_names.c
    "/etc/iproute2/rt_tables",
    "/etc/iproute2/rt_tables.d/*.conf",
    "/usr/share/iproute2/rt_tables",
    "/usr/lib/iproute2/rt_tables",
)

_BITS_PER_S = {"bit": 1, "kbit": 1_000, "mbit": 1_000_000, "gbit": 1_000_000_000}
_SECONDS = {"ms": 1e-3, "s": 1.0}
_RATE = re.compile(r"([0-9]+(?:\.[0-9]+)?)(bit|kbit|mbit|gbit)")
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s)")
_HOSTNAME = re.compile(r"(?=.{1,253}$)(?!-)[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\.?")
# Directories beside the interfaces' own in /proc/sys/net/*/conf, or no name at all.
_RESERVED_IFNAMES = frozenset({".", "..", "all", "default"})


class Endpoint(NamedTuple):
    """Where a datagram goes or arrives; a socket address as it stands once `host` is an address."""

    host: str
    """IPv4 or IPv6 address without brackets, or a host name."""
    port: int

    @property
    def ipv6(self) -> bool:
        """Whether `host` is an IPv6 address."""
        return ":" in self.host

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class UnacceptableError(ValueError):
    """A value that will not do."""

    def __init__(self, wrong: str, accepted: str) -> None:
        super().__init__(f"{wrong}; accepted: {accepted}")
        self.wrong = wrong
        self.accepted = accepted


def _text(value: object, accepted: str) -> str:
    if not isinstance(value, str):
        raise UnacceptableError(f"{_kind(value)}, not a string", accepted)
    return value


def _kind(value: object) -> str:
    kinds = {
        bool: "a boolean",
        int: "an integer",
        float: "a float",
        str: "a string",
        list: "a list",
        dict: "a table",
    }
    return kinds.get(type(value), f"a {type(value).__name__}")


def rate(value: object) -> int:
    """`"1.5mbit"` to bit/s (decimal multiples, as tc counts them)."""
    accepted = 'a rate such as "500kbit", "6mbit" or "1.5gbit", from "1kbit" to "1000gbit"'
    match = _RATE.fullmatch(_text(value, accepted))
    if match is None:
        raise UnacceptableError("not a rate", accepted)
    bps = float(match[1]) * _BITS_PER_S[match[2]]
    if not 1_000 <= bps <= 1e12:
        raise UnacceptableError("out of range", accepted)
    return round(bps)


def duration(shortest_s: float, longest_s: float) -> Callable[[object], float]:
    """A parser of `"30ms"`, `"2s"` to seconds within the bounds."""
    accepted = f'a duration such as "30ms" or "2s", from "{shortest_s:g}s" to "{longest_s:g}s"'

    def parse(value: object) -> float:
        match = _DURATION.fullmatch(_text(value, accepted))
        if match is None:
            raise UnacceptableError("not a duration", accepted)
        seconds = float(match[1]) * _SECONDS[match[2]]
        if not shortest_s <= seconds <= longest_s:
            raise UnacceptableError("out of range", accepted)
        return seconds

    return parse


def integer(*ranges: tuple[int, int]) -> Callable[[object], int]:
    """A parser of integers within one of the inclusive ranges."""
    accepted = "an integer " + " or ".join(f"from {low} to {high}" for low, high in ranges)

    def parse(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise UnacceptableError(f"{_kind(value)}, not an integer", accepted)
        if not any(low <= value <= high for low, high in ranges):
            raise UnacceptableError("out of range", accepted)
        return value

    return parse


def boolean(value: object) -> bool:
    """`true` or `false`."""
    if not isinstance(value, bool):
        raise UnacceptableError(f"{_kind(value)}, not a boolean", "true or false")
    return value


def choice(*words: T) -> Callable[[object], T]:
    """A parser of one word out of several."""
    accepted = " or ".join(f'"{word}"' for word in words)

    def parse(value: object) -> T:
        for word in words:
            if word == value:
                return word
        raise UnacceptableError("not one of the choices", accepted)

    return parse


def command(value: object) -> tuple[str, ...]:
    """A program and its arguments; no shell reads them."""
    accepted = 'a program and its arguments, such as ["/etc/bondvpn/hook", "office"]'
    if not isinstance(value, list):
        raise UnacceptableError(f"{_kind(value)}, not a list", accepted)
    words = tuple(_text(word, accepted) for word in value)
    if not words or not words[0]:
        raise UnacceptableError("names no program", accepted)
    if any("\0" in word for word in words):
        raise UnacceptableError("contains a NUL", accepted)
    return words


def name(value: object) -> str:
    """A label for status and logs: 1 to 32 bytes of UTF-8 without control characters."""
    accepted = f"a name of 1 to {NAME_BYTES} bytes without control characters"
    text = _text(value, accepted)
    if not 1 <= len(text.encode("utf-8", "surrogatepass")) <= NAME_BYTES:
        raise UnacceptableError("empty" if not text else "too long", accepted)
    if not text.isprintable():
        raise UnacceptableError("contains a control character", accepted)
    return text


def ifname(value: object) -> str:
    """A network interface's name as `dev_valid_name` in the kernel takes it (ASCII, and no `%` pattern)."""
    accepted = f"an interface name of 1 to {IFNAME_CHARS} characters without spaces, '/', ':' or '%'"
    text = _text(value, accepted)
    if not 1 <= len(text) <= IFNAME_CHARS:
        raise UnacceptableError("empty" if not text else f"{len(text)} characters long", accepted)
    if text in _RESERVED_IFNAMES:
        raise UnacceptableError("a reserved name", accepted)
    if not text.isascii() or not text.isprintable() or any(c in " /:%" for c in text):
        raise UnacceptableError("contains a character that no interface name has", accepted)
    return text


def ifname_pattern(value: object) -> str:
    """What interface names may look like, as a shell's patterns: `*`, `?`, `[a-z]`."""
    accepted = 'a pattern such as "eth*" or "wwan?", or an interface name'
    text = _text(value, accepted)
    if not text:
        raise UnacceptableError("empty", accepted)
    if not text.isascii() or not text.isprintable() or any(c in " /:%" for c in text):
        raise UnacceptableError("contains a character that no interface name has", accepted)
    return text


def routing_table(value: object) -> int:
    """A routing table's number, or its name as rt_tables(5) has it."""
    accepted = f"an integer from 1 to 252 or from 256 to {U32_MAX}, or a name out of {RT_TABLES[0]}"
    if isinstance(value, str):
        found = _tables_by_name().get(value)
        if found is None:
            raise UnacceptableError("no such name there", accepted)
        value = found
    # 253 to 255 are the kernel's own tables: default, main, local (linux/rtnetlink.h)
    if not isinstance(value, int) or isinstance(value, bool):
        raise UnacceptableError(f"{_kind(value)}, not an integer", accepted)
    if not 1 <= value <= U32_MAX or 253 <= value <= 255:
        raise UnacceptableError("out of range", accepted)
    return value


def _tables_by_name() -> dict[str, int]:
    """What iproute2 calls its tables: `NUMBER NAME` a line; the first file to name one wins."""
    found: dict[str, int] = {}
    for pattern in RT_TABLES:
        for path in sorted(Path("/").glob(pattern.lstrip("/"))):
            for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
                match line.partition("#")[0].split():
                    case [number, name] if number.isdecimal():
                        found.setdefault(name, int(number))
    return found


def address(value: object) -> IPAddress:
    """One host's address."""
    accepted = 'an address such as "192.168.1.2" or "2001:db8::2"'
    try:
        host = ip_address(_text(value, accepted))
    except UnacceptableError:
        raise
    except ValueError:
        raise UnacceptableError("not an address", accepted) from None
    if host.is_multicast or host.is_unspecified:
        raise UnacceptableError("not one host's address", accepted)
    return host


def interface_address(value: object) -> IPInterface:
    """An interface's own address with its prefix length, `"172.21.1.2/30"`."""
    accepted = 'an address with its prefix length, such as "172.21.1.2/30" or "fd00::2/64"'
    text = _text(value, accepted)
    if "/" not in text:
        raise UnacceptableError("no prefix length", accepted)
    try:
        own = ip_interface(text)
    except ValueError:
        raise UnacceptableError("not an address with a prefix length", accepted) from None
    if own.is_multicast or own.is_unspecified:
        raise UnacceptableError("not one host's address", accepted)
    if own.version == 4 and own.network.prefixlen < 31:
        if own.ip == own.network.network_address:
            raise UnacceptableError("the network's own address, not a host in it", accepted)
        if own.ip == own.network.broadcast_address:
            raise UnacceptableError("the network's broadcast address, not a host in it", accepted)
    return own


def prefix(value: object) -> IPNetwork:
    """A destination, `"192.168.10.0/24"`, no host bits set."""
    accepted = 'a prefix such as "192.168.10.0/24" or "2001:db8::/32"'
    text = _text(value, accepted)
    if "/" not in text:
        raise UnacceptableError("no prefix length", accepted)
    try:
        return ip_network(text)
    except ValueError:
        pass
    try:
        meant = ip_network(text, strict=False)
    except ValueError:
        raise UnacceptableError("not a prefix", accepted) from None
    raise UnacceptableError("host bits are set", f'"{meant}"')


def domain(value: object) -> str:
    """A domain, as names are looked for in it."""
    accepted = 'a domain such as "office.example"'
    text = _text(value, accepted)
    if _HOSTNAME.fullmatch(text) is None:
        raise UnacceptableError("not a domain", accepted)
    return text


def endpoint(value: object) -> Endpoint:
    """`"host:port"` or `"[v6]:port"`; the host may be a name."""
    accepted = '"HOST:PORT" or "[IPV6]:PORT", such as "198.51.100.1:1189", port from 1 to 65535'
    text = _text(value, accepted)
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit() or len(port) > 5 or not 1 <= int(port) <= 65535:
        raise UnacceptableError("no valid port", accepted)
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    try:
        family: int = ip_address(host).version
    except ValueError:
        family = 0
    if bracketed != (family == 6):
        raise UnacceptableError("an IPv6 address goes in brackets, and nothing else does", accepted)
    looks_numeric = bool(re.fullmatch(r"[0-9.]*", host))
    if family == 0 and (looks_numeric or _HOSTNAME.fullmatch(host) is None):
        raise UnacceptableError("neither an address nor a host name", accepted)
    return Endpoint(host, int(port))


def listen_endpoint(value: object) -> Endpoint:
    """As `endpoint`, but an address: what to listen on must not depend on a name server."""
    accepted = '"ADDRESS:PORT" or "[IPV6]:PORT", such as "0.0.0.0:1189" or "[::]:1189"'
    here = endpoint(value)
    try:
        ip_address(here.host)
    except ValueError:
        raise UnacceptableError("a host name", accepted) from None
    return here


def key(value: object) -> bytes:
    """32 bytes in base64, as `bondvpn genkey`, `pubkey` and `genpsk` (and `wg`) print them."""
    accepted = "32 bytes in base64, as `bondvpn genkey`, `pubkey` and `genpsk` print them"
    text = _text(value, accepted)
    try:
        raw = base64.b64decode(text.strip().encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise UnacceptableError("not base64", accepted) from None
    if len(raw) != KEY_BYTES:
        raise UnacceptableError(f"{len(raw)} bytes long", accepted)
    return raw
