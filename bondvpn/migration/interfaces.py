"""ifupdown's interfaces(5): what each `iface` stanza says."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Interface, ip_address, ip_interface

from bondvpn.migration.sources import Place, Said, Source
from bondvpn.values import IPAddress, IPInterface

# The commands of a stanza, in the order in which ifup runs them.
COMMANDS = ("pre-up", "up", "post-up")
_NEW_STANZA = ("auto", "mapping", "source", "source-directory", "no-auto-down", "no-scripts")


@dataclass(slots=True)
class Stanza:
    """One `iface NAME FAMILY METHOD`."""

    interface: str
    method: str
    place: Place
    address: Said[IPInterface] | None = None
    peer: Said[IPAddress] | None = None
    gateway: Said[IPAddress] | None = None
    mtu: Said[str] | None = None
    commands: list[Said[str]] = field(default_factory=list)


def is_interfaces(source: Source) -> bool:
    """/etc/network/interfaces, a copy of it by that name, or a file of interfaces.d."""
    return source.name == "interfaces" or "interfaces.d" in source.directories


def read(source: Source) -> list[Stanza]:
    """The stanzas in their order; what is no address or no option of interest is passed over."""
    return [_stanza(place, head, options) for place, head, options in _stanzas(source)]


def _stanzas(source: Source) -> Iterator[tuple[Place, list[str], list[tuple[Place, str, str]]]]:
    head: list[str] = []
    begun = Place(source.file, 0)
    options: list[tuple[Place, str, str]] = []
    for place, line in source.lines():
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if words[0] == "iface" or words[0] in _NEW_STANZA or words[0].startswith("allow-"):
            if head:
                yield begun, head, options
            head, begun, options = [], place, []
            if words[0] == "iface" and len(words) > 1:
                head = words[1:]
        elif head:
            options.append((place, words[0], line.strip()[len(words[0]) :].strip()))
    if head:
        yield begun, head, options


def _stanza(place: Place, head: list[str], options: list[tuple[Place, str, str]]) -> Stanza:
    stanza = Stanza(head[0], head[2] if len(head) > 2 else "", place)
    given: dict[str, Said[str]] = {}
    for where, option, value in options:
        if option in COMMANDS:
            stanza.commands.append(Said(value, where))
        else:
            given.setdefault(option, Said(value, where))
    stanza.commands.sort(key=lambda command: command.place)
    stanza.mtu = given.get("mtu")
    stanza.gateway = _address(given.get("gateway"))
    stanza.peer = _address(given.get("pointopoint"))
    stanza.address = _own(given.get("address"), given.get("netmask"), stanza.peer)
    return stanza


def _address(said: Said[str] | None) -> Said[IPAddress] | None:
    if said is None:
        return None
    try:
        return Said(ip_address(said.value), said.place)
    except ValueError:
        return None


def _own(
    address: Said[str] | None, netmask: Said[str] | None, peer: Said[IPAddress] | None
) -> Said[IPInterface] | None:
    """The address with its prefix length; that of a link of two when there is only a peer."""
    if address is None:
        return None
    text = address.value
    if "/" not in text and netmask is not None:
        text += f"/{netmask.value}"
    try:
        own = ip_interface(text)
    except ValueError:
        return None
    if peer is not None and own.network.prefixlen == own.max_prefixlen:
        own = link_of_two(own, peer.value) or own
    return Said(own, address.place)


def link_of_two(own: IPInterface, peer: IPAddress) -> IPInterface | None:
    """`own` with the longest prefix, of /30 or /31 (IPv6: /126 or /127), that holds both ends as hosts."""
    if own.version != peer.version:
        return None
    for bits in (2, 1):
        wider = ip_interface(f"{own.ip}/{own.max_prefixlen - bits}")
        edges = {wider.network.network_address, wider.network.broadcast_address}
        hosts = bits == 1 or not isinstance(own, IPv4Interface) or not edges & {own.ip, peer}
        if peer in wider.network and hosts:
            return wider
    return None
