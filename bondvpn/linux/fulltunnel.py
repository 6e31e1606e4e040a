"""The full tunnel: everything leaves by it but what is local, and our own datagrams.

As wg-quick(8) does it, behind the uplinks' rules of `linux.policy`:

    11893  fwmark MARK, for each uplink             -> main: our own never enter the tunnel, whatever else
    11894  main table but for its default routes    -> connected and configured networks stay direct
    11895                                           -> the tunnel's table: a default route through it

The main table is not touched, so its default routes go on to make automatic uplinks, and no route to the
server is needed. A family in which the tunnel has no address stays as it was; unless the kill switch is on,
a table in the packet filter that lets nothing else leave by any other interface:

    lo, the tunnel; what carries an uplink's mark; local networks; DHCP; neighbour and router discovery

Local are the networks of all addresses of this machine; on interfaces with an uplink only those that are
nobody's on the Internet: who hands out addresses there could claim any network to be local.
"""

from collections.abc import Collection, Iterator, Sequence
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_network

from bondvpn.config import Route as TunnelRoute
from bondvpn.config import Tunnel
from bondvpn.errors import SystemFault
from bondvpn.linux import nftables
from bondvpn.linux.journal import entries_of, journal_path, journals, owner_runs, process_name
from bondvpn.linux.netlink import DEFAULT, TABLE_MAIN, Route, Rule
from bondvpn.linux.network import Network
from bondvpn.linux.nftables import ACCEPT, REJECT, Chain, Expression, NftTable, Table
from bondvpn.values import IPNetwork

NUMBER = ""  # what the tunnel's table is numbered by; no uplink is called so
PRIORITY_OWN = 11893
PRIORITY_LOCAL = 11894
PRIORITY_TUNNEL = 11895
KILL_SWITCH = "bondvpn-kill-switch"  # there can be only one; no interface's table is called so

_PRIORITY_FILTER = 0  # NF_IP_PRI_FILTER, linux/netfilter_ipv4.h
# Never beyond the link: RFC 3927, RFC 5771 section 4, RFC 919; RFC 4291 sections 2.5.6 and 2.7.
LINK_LOCAL: tuple[IPNetwork, ...] = tuple(
    ip_network(one)
    for one in ("169.254.0.0/16", "224.0.0.0/24", "255.255.255.255/32", "fe80::/10", "ff02::/16")
)
# Nobody's on the Internet: RFC 1918, RFC 6598, RFC 4193.
PRIVATE: tuple[IPNetwork, ...] = tuple(
    ip_network(one) for one in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7")
)
_DISCOVERY = ("nd-router-solicit", "nd-neighbor-solicit", "nd-neighbor-advert")  # RFC 4861
_DHCP = ((68, 67), (546, 547))  # client and server ports: RFC 2131, RFC 8415


def routes(default_routes: Sequence[TunnelRoute], interface: str, table: int) -> Iterator[Route]:
    """The default routes through the tunnel, in its table."""
    for route in default_routes:
        yield Route(
            version=route.prefix.version,
            table=table,
            destination=DEFAULT,
            interface=interface,
            gateway=None if route.gateway is None else str(route.gateway),
        )


def rules(versions: Collection[int], table: int, marks: Collection[int]) -> Iterator[Rule]:
    """The rules above, in these families."""
    for version in sorted(versions):
        for mark in marks:
            yield Rule(version=version, priority=PRIORITY_OWN, table=TABLE_MAIN, mark=mark)
        yield Rule(version=version, priority=PRIORITY_LOCAL, table=TABLE_MAIN, suppress_prefixlength=0)
        yield Rule(version=version, priority=PRIORITY_TUNNEL, table=table)


def kill_switch(tunnel: str, marks: Collection[int], uplinks: Collection[str], network: Network) -> Table:
    """Nothing else leaves, of this machine's or of what it forwards. `uplinks`: their interfaces."""
    local = tuple(_locals(local_networks(tunnel, uplinks, network)))
    inside = (nftables.meta("oifname", "lo", tunnel), ACCEPT)
    own = [(nftables.meta("mark", mark), ACCEPT) for mark in sorted(marks)]
    asking = [
        *(
            (nftables.field("udp", "sport", ours), nftables.field("udp", "dport", theirs), ACCEPT)
            for ours, theirs in _DHCP
        ),
        (nftables.field("icmpv6", "type", *_DISCOVERY), ACCEPT),
    ]
    return Table(
        KILL_SWITCH,
        (
            _filter("output", (inside, *own, *local, *asking, (REJECT,))),
            _filter("forward", (inside, *local, (REJECT,))),
        ),
    )


def local_networks(tunnel: str, uplinks: Collection[str], network: Network) -> list[IPNetwork]:
    """What may be reached beside the tunnel: IPv4 first, sorted, none within another."""
    found = set(LINK_LOCAL)
    for interface in network.interfaces.values():
        if interface.name != tunnel:
            connected = {address.network for address in interface.addresses}
            found |= {one for one in connected if interface.name not in uplinks or _is_private(one)}
    four = collapse_addresses(one for one in found if isinstance(one, IPv4Network))
    six = collapse_addresses(one for one in found if isinstance(one, IPv6Network))
    return [*four, *six]


def _is_private(network: IPNetwork) -> bool:
    return any(network.version == one.version and network.subnet_of(one) for one in PRIVATE)  # type: ignore[arg-type]


def _locals(networks: Sequence[IPNetwork]) -> Iterator[tuple[Expression, ...]]:
    for version, protocol in ((4, "ip"), (6, "ip6")):
        values = [nftables.prefix(one) for one in networks if one.version == version]
        yield nftables.field(protocol, "daddr", *values), ACCEPT


def _filter(hook: str, rules: tuple[tuple[Expression, ...], ...]) -> Chain:
    return Chain(hook, "filter", hook, _PRIORITY_FILTER, rules)


def refuse_conflicts(process: str, tunnel: Tunnel | None = None) -> None:
    """Raises SystemFault where another process of bondvpn's and this one, a server or a client with its
    `tunnel`, cannot both have their way."""
    own = journal_path(process)
    for path in journals():
        if path == own:
            continue
        entries, other = entries_of(path), process_name(path)
        full = any(isinstance(entry, Rule) and entry.priority == PRIORITY_TUNNEL for entry in entries)
        remedy = "end that one first" if owner_runs(path) else "a killed process left it: bondvpn down"
        if NftTable(name=KILL_SWITCH) in entries:
            raise SystemFault(f"the kill switch of {other} lets no lines but its own through: {remedy}")
        if tunnel is None:
            continue
        if full and tunnel.default_route:
            raise SystemFault(f"{other} has the default route already, and there can be only one: {remedy}")
        if tunnel.kill_switch and owner_runs(path):
            raise SystemFault(f"tunnel.kill_switch would cut off {other}, which runs beside this: {remedy}")
