"""What is put into the kernel, as the commands that an administrator would type (iproute2, sysctl, nft,
resolvectl)."""

from collections.abc import Iterator

from bondvpn import config
from bondvpn.linux import nftables, resolver
from bondvpn.linux.journal import Entry, Sysctl, TapDevice
from bondvpn.linux.netlink import TABLE_MAIN, Route, Rule
from bondvpn.linux.network import PROTOCOL
from bondvpn.linux.nftables import NftTable
from bondvpn.linux.resolver import Resolver

_PROC_SYS = "/proc/sys/"


def device(settings: config.Tunnel) -> Iterator[str]:
    """The TAP with its addresses, up."""
    name = settings.interface
    yield entry(TapDevice(interface=name))
    yield f"ip link set dev {name} mtu {settings.mtu}"
    for address in settings.address:
        nodad = " nodad" if address.version == 6 else ""
        yield f"{_ip(address.version)} address add {address} dev {name}{nodad}"
    yield f"ip link set dev {name} up"


def entry(one: Entry) -> str:
    """The command that makes it."""
    match one:
        case Route():
            return route(one)
        case Rule():
            return rule(one)
        case Sysctl():
            return sysctl(one.path, one.new)
        case TapDevice():
            return f"ip tuntap add dev {one.interface} mode tap vnet_hdr"
        case NftTable():
            return f"nft add table {nftables.FAMILY} {one.name}"
        case Resolver():
            return " && ".join(" ".join(words) for words in resolver.commands(one))


def route(one: Route, verb: str = "add") -> str:
    """`ip route add`, `replace` or `del`."""
    via = f" via {one.gateway}" if one.gateway else ""
    device = f" dev {one.interface}" if one.interface else ""
    table = "" if one.table == TABLE_MAIN else f" table {one.table}"
    source = f" src {one.source}" if one.source else ""
    return f"{_ip(one.version)} route {verb} {one.destination}{via}{device}{table} proto {PROTOCOL}{source}"


def rule(one: Rule, verb: str = "add") -> str:
    """`ip rule add` or `del`."""
    selector = f" from {one.source}" if one.source else ""
    if one.mark is not None:
        selector += f" fwmark {one.mark:#x}"
    table = "main" if one.table == TABLE_MAIN else str(one.table)
    suppressed = (
        "" if one.suppress_prefixlength is None else f" suppress_prefixlength {one.suppress_prefixlength}"
    )
    words = f"rule {verb} priority {one.priority}{selector} lookup {table}{suppressed} protocol {PROTOCOL}"
    return f"{_ip(one.version)} {words}"


def sysctl(path: str, value: str) -> str:
    """`sysctl -w`."""
    return f"sysctl -w {sysctl_name(path)}={value}"


def sysctl_name(path: str) -> str:
    """A setting's name; with slashes where an interface's name has a dot (sysctl(8))."""
    name = path.removeprefix(_PROC_SYS)
    return name if "." in name else name.replace("/", ".")


def _ip(version: int) -> str:
    return "ip" if version == 4 else "ip -6"
