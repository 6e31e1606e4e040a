"""What a router for the networks behind a tunnel has in the packet filter: one table for each process.

    clamp_mss    TCP that passes hears of segments that fit through the tunnel
    forward      what passes between the tunnel and anything else is accepted, and counted
    masquerade   a client: what enters the tunnel gets its address; a server: what came from a client and
                 leaves by anything but a tunnel gets the address of the interface it leaves by

Forwarding itself is switched on by `linux.sysctl`.
"""

from collections.abc import Iterable, Iterator, Sequence

from bondvpn.config import Tunnel
from bondvpn.linux import nftables
from bondvpn.linux.nftables import ACCEPT, CLAMP_TO_PATH_MTU, COUNTER, MASQUERADE, Chain, Expression, Table

ETHERNET_MTU_BYTES = 1500  # a narrower tunnel between Ethernets: TCP has to be told
_PRIORITY_MANGLE, _PRIORITY_FILTER, _PRIORITY_SOURCE_NAT = -150, 0, 100  # linux/netfilter_ipv4.h


def table(process: str, tunnels: Sequence[Tunnel], *, server: bool) -> Table | None:
    """The table of a client's tunnel, or of a server's tunnels; None where they ask for nothing."""
    masquerading = [one.interface for one in tunnels if one.masquerade]
    clamping = [one.interface for one in tunnels if clamps(one)]
    forwarding = [one.interface for one in tunnels if one.forward]
    chains: list[Chain] = []
    rules: list[tuple[Expression, ...]]
    if clamping:
        syn = nftables.field("tcp", "flags", "syn", op="in")
        rules = [(way, syn, CLAMP_TO_PATH_MTU) for way in _ways(clamping)]
        chains.append(_chain("clamp_mss", "forward", _PRIORITY_MANGLE, rules))
    if forwarding:
        rules = [(way, COUNTER, ACCEPT) for way in _ways(forwarding)]
        chains.append(_chain("forward", "forward", _PRIORITY_FILTER, rules))
    if masquerading:
        leaving: tuple[Expression, ...] = (nftables.meta("oifname", *masquerading),)
        if server:
            inside = (one.interface for one in tunnels)
            leaving = (
                nftables.meta("iifname", *masquerading),
                nftables.meta("oifname", "lo", *inside, but=True),
            )
        rules = [(*leaving, MASQUERADE)]
        chains.append(_chain("postrouting", "postrouting", _PRIORITY_SOURCE_NAT, rules, kind="nat"))
    if not chains:
        return None
    wished = any(one.forward or one.masquerade or one.clamp_mss for one in tunnels)
    return Table(nftables.table_name(process), tuple(chains), optional=not wished)


def clamps(tunnel: Tunnel) -> bool:
    """As configured; else where the tunnel is narrower than Ethernet."""
    return tunnel.mtu < ETHERNET_MTU_BYTES if tunnel.clamp_mss is None else tunnel.clamp_mss


def _ways(interfaces: Sequence[str]) -> Iterator[Expression]:
    for key in ("iifname", "oifname"):
        yield nftables.meta(key, *interfaces)


def _chain(
    name: str, hook: str, priority: int, rules: Iterable[tuple[Expression, ...]], kind: str = "filter"
) -> Chain:
    return Chain(name, kind, hook, priority, tuple(rules))


def versions(tunnels: Iterable[Tunnel]) -> tuple[int, ...]:
    """The families (4, 6) that are to be forwarded."""
    return tuple(sorted({own.version for one in tunnels if one.forward for own in one.address}))
