"""What single commands of the old setup say: eql_enslave, ip, iptables, route, ifconfig.

Deletions say nothing (the scripts delete what they add again), negated matches and chains of their own
are no facts. Words that are not known hold a `$` and are treated as absent.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_interface, ip_network
from typing import TypeVar

from bondvpn.migration.interfaces import link_of_two
from bondvpn.migration.sources import Place
from bondvpn.migration.walk import Command
from bondvpn.values import IPAddress, IPInterface, IPNetwork

Kind = TypeVar("Kind")

MAIN = "main"

# Part of the old plumbing; bondvpn needs none of it, or does it itself.
_PLUMBING = {
    "modprobe": "no kernel module is needed",
    "rmmod": "no kernel module is needed",
    "insmod": "no kernel module is needed",
    "openvpn": "bondvpn takes its place",
    "service": "bondvpn takes its place",
    "systemctl": "bondvpn takes its place",
    "invoke-rc.d": "bondvpn takes its place",
    "killall": "bondvpn takes its place",
    "sysctl": "bondvpn loosens rp_filter on its lines itself; keep forwarding in sysctl.d, or set `forward`",
    "eql_emancipate": "not needed",
}

# They look, wait or tidy up; what they look for is not known, so the scripts are followed either way.
_HARMLESS = frozenset(
    """
    awk basename cat chmod chown cp cut date dirname egrep expr fgrep find grep head kill ln ls mkdir mv
    pidof ps rm sed sort tail tee touch tr uniq wait wc which
    """.split()  # noqa: SIM905 - short words
)


@dataclass(frozen=True, slots=True)
class Speed:
    """`eql_enslave EQL DEVICE SPEED`"""

    eql: str
    device: str
    speed: int | None
    place: Place


@dataclass(frozen=True, slots=True)
class Mark:
    """Packets to these ends get the firewall mark."""

    mark: int
    server: str | None
    port: int | None
    local_port: int | None
    place: Place


@dataclass(frozen=True, slots=True)
class Exit:
    """Packets to these ends, or with the mark, leave by the interface with its address (SNAT)."""

    interface: str
    server: str | None
    port: int | None
    mark: int | None
    place: Place


@dataclass(frozen=True, slots=True)
class Lookup:
    """`ip rule`: packets with the mark, or from the source, ask the table."""

    table: str
    mark: int | None
    source: str | None
    server: str | None
    place: Place


@dataclass(frozen=True, slots=True)
class TableRoute:
    """A route; destination None: default."""

    table: str
    destination: IPNetwork | None
    interface: str | None
    gateway: IPAddress | None
    place: Place


@dataclass(frozen=True, slots=True)
class Address:
    """An interface's own address, given by a command."""

    interface: str
    address: IPInterface
    place: Place


Fact = Speed | Mark | Exit | Lookup | TableRoute | Address


class Facts:
    """Each fact once, however many scripts state it, by the first that does."""

    def __init__(self) -> None:
        self._found: dict[object, Fact] = {}

    def add(self, fact: Fact) -> None:
        names = [name for name in fact.__dataclass_fields__ if name != "place"]
        self._found.setdefault((type(fact), *(getattr(fact, name) for name in names)), fact)

    def of_kind(self, kind: type[Kind]) -> list[Kind]:
        """Those that are of it, in the order in which they were found."""
        return [fact for fact in self._found.values() if isinstance(fact, kind)]


@dataclass(frozen=True, slots=True)
class Unused:
    """A command that was understood and has nothing to give, or was not understood; and why."""

    why: str
    place: Place


def of(command: Command, interface: str | None = None) -> Iterator[Fact | Unused]:
    """What the command says, nothing for most; `interface`: the one that the script was called for."""
    words = list(command.argv[1:])
    place = command.place
    match command.name:
        case "eql_enslave":
            yield from _enslaved(words, place)
        case "ip":
            yield from _ip(words, place)
        case "iptables" | "iptables-nft" | "iptables-legacy" | "ipt":
            yield from _iptables(words, place, interface)
        case "route":
            yield from _old_route(words, place)
        case "ifconfig":
            yield from _ifconfig(words, place)
        case name if name in _PLUMBING:
            yield Unused(f"{' '.join(command.argv)[:80]}: {_PLUMBING[name]}", place)
        case name if name not in _HARMLESS:
            yield Unused(f"{' '.join(command.argv)[:80]}: not understood", place)


def _enslaved(words: Sequence[str], place: Place) -> Iterator[Fact | Unused]:
    """Documentation/networking/eql.rst: `eql_enslave <master> <slave> <estimated speed in bit/s>`."""
    if len(words) < 2 or not _known(words[1]):
        yield Unused("eql_enslave: which device is not known", place)
        return
    speed = _number(words[2]) if len(words) > 2 else None
    yield Speed(words[0], words[1], speed, place)


def _ip(words: list[str], place: Place) -> Iterator[Fact | Unused]:
    while words and words[0].startswith("-"):
        words.pop(0)
    if len(words) < 2:
        return
    what, verb, rest = words[0], words[1], words[2:]
    adds = bool(verb) and any(
        full.startswith(verb) for full in ("add", "replace", "change", "append", "prepend")
    )
    if not adds:
        return
    if len(what) > 1 and "rule".startswith(what):
        yield from _rule(rest, place)
    elif "route".startswith(what):
        yield from _route(rest, place)
    elif "address".startswith(what) and rest:
        options = _pairs(rest[1:])
        device = options.get("dev", "")
        own = _interface(rest[0], options.get("peer"))
        if own is not None and _known(device):
            yield Address(device, own, place)


def _rule(words: list[str], place: Place) -> Iterator[Fact]:
    options = _pairs(words)
    table = options.get("table") or options.get("lookup")
    if table is None or not _known(table):
        return
    mark = _number((options.get("fwmark") or "").partition("/")[0])
    source, server = options.get("from"), options.get("to")
    source = None if source in {None, "all"} or not _known(source or "") else source
    yield Lookup(table, mark, source, server if server and _known(server) else None, place)


def _route(words: list[str], place: Place) -> Iterator[Fact]:
    if words and words[0] in {"unicast", "to"}:
        words = words[1:]
    if not words:
        return
    options = _pairs(words[1:])
    table = options.get("table", MAIN)
    device = options.get("dev")
    gateway = _address(options.get("via"))
    destination = None if words[0] == "default" else _network(words[0])
    if (words[0] != "default" and destination is None) or not _known(table):
        return
    if destination is not None and destination.prefixlen == 0:
        destination = None
    if device is not None and not _known(device):
        device = None
    yield TableRoute(table, destination, device, gateway, place)


def _old_route(words: list[str], place: Place) -> Iterator[Fact]:
    """route(8): `route add [-net|-host] TARGET [netmask M] [gw G] [[dev] IF]`."""
    words = [word for word in words if word not in {"-net", "-host", "-A", "inet"}]
    if len(words) < 2 or words[0] != "add":
        return
    options = _pairs(words[2:])
    bare = words[-1] if len(words) > 2 and len(words[2:]) % 2 else None
    destination = None
    if words[1] != "default":
        destination = _network(words[1] + (f"/{options['netmask']}" if "netmask" in options else ""))
        if destination is None:
            return
    device = options.get("dev") or bare
    interface = device if device is not None and _known(device) else None
    if destination is not None and destination.prefixlen == 0:
        destination = None
    yield TableRoute(MAIN, destination, interface, _address(options.get("gw")), place)


def _ifconfig(words: list[str], place: Place) -> Iterator[Fact]:
    """ifconfig(8): `ifconfig IF ADDRESS [netmask M] [pointopoint PEER] ...`."""
    if len(words) < 2 or not _known(words[0]):
        return
    options = _pairs(words[2:])
    text = words[1] + (f"/{options['netmask']}" if "netmask" in options else "")
    own = _interface(text, options.get("pointopoint"))
    if own is not None:
        yield Address(words[0], own, place)


def _iptables(words: list[str], place: Place, called_for: str | None) -> Iterator[Fact | Unused]:
    if any(word.startswith(("-D", "-F", "-X", "-Z", "-P", "-N", "--delete", "--flush")) for word in words):
        return
    if "!" in words:
        yield Unused("iptables with a negated match: not understood", place)
        return
    options = _dashed(words)
    server = _get(options, "-d", "--dst", "--destination")
    port = _number(_get(options, "--dport", "--destination-port", "--dports") or "")
    local_port = _number(_get(options, "--sport", "--source-port") or "")
    target = _get(options, "-j", "--jump")
    if target == "MARK":
        text = _get(options, "--set-mark", "--set-xmark") or ""
        mark = _number(text.partition("/")[0])
        if mark and (server or port or local_port):
            yield Mark(mark, server, port, local_port, place)
        else:
            yield Unused("iptables -j MARK: which tunnel it marks is not known", place)
    elif target in {"SNAT", "MASQUERADE"}:
        interface = _get(options, "-o", "--out-interface")
        if interface is None and "$" in (options.get("--to-source") or options.get("--to") or ""):
            interface = called_for  # to the address that the interface has just got
        mark = _number((_get(options, "--mark") or "").partition("/")[0])
        if interface and (server or port or mark):
            yield Exit(interface, server, port, mark, place)
    elif target is not None:
        yield Unused(f"iptables -j {target}: keep it with the firewall's own rules", place)


def _get(options: dict[str, str], *names: str) -> str | None:
    value = next((options[name] for name in names if name in options), None)
    return value if value is not None and _known(value) else None


def _pairs(words: Sequence[str]) -> dict[str, str]:
    """`key value key value`, the way iproute2 and net-tools write options."""
    return dict(itertools.pairwise(words))


def _dashed(words: Sequence[str]) -> dict[str, str]:
    options: dict[str, str] = {}
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word.startswith("-"):
            key, equals, value = word.partition("=")
            options.setdefault(key, value if equals else following)
    return options


def _known(word: str) -> bool:
    return bool(word) and "$" not in word


def _number(text: str) -> int | None:
    try:
        number = int(text, 0)
    except ValueError:
        return int(text) if text.isascii() and text.isdigit() and len(text) < 11 else None
    return number if 0 < number <= 0xFFFF_FFFF else None


def _address(text: str | None) -> IPAddress | None:
    try:
        return None if text is None else ip_address(text)
    except ValueError:
        return None


def _network(text: str) -> IPNetwork | None:
    try:
        return ip_network(text, strict=False)
    except ValueError:
        return None


def _interface(text: str, peer: str | None) -> IPInterface | None:
    try:
        own = ip_interface(text)
    except ValueError:
        return None
    other = _address((peer or "").partition("/")[0])
    if other is not None and own.network.prefixlen == own.max_prefixlen:
        own = link_of_two(own, other) or own
    return own
