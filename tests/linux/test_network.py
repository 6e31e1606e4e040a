"""rtnetlink's messages as plain data: which addresses are sent from, in which order; which routes count."""

from ipaddress import ip_address
from socket import AF_INET, AF_INET6
from typing import Any

from bondvpn.linux import network
from bondvpn.linux.network import PROTOCOL, DefaultRoute

UP, CARRIER, ARPLESS = 0x1, 0x40, 0x80


class Message(dict[str, Any]):
    """As pyroute2's: fields by index, attributes by `get`."""


def link(index: int, name: str, flags: int = UP | CARRIER) -> Message:
    return Message(index=index, ifname=name, flags=flags, mtu=1500)


def address(index: int, local: str, bits: int, flags: int = 0x80, scope: int = 0) -> Message:
    return Message(index=index, local=local, prefixlen=bits, flags=flags, scope=scope)


def route(**changes: Any) -> Message:
    found = {
        "family": AF_INET,
        "dst_len": 0,
        "type": 1,
        "proto": 3,
        "table": 254,
        "oif": 2,
        "gateway": "10.0.0.1",
    }
    return Message({key: value for key, value in (found | changes).items() if value is not None})


ETH0 = link(2, "eth0")


def test_states_of_an_interface() -> None:
    links = [ETH0, link(3, "down", 0), link(4, "unplugged", UP), link(5, "ppp0", UP | CARRIER | ARPLESS)]
    found = network.parse(links, [], []).interfaces
    states = {name: (one.up, one.running, one.point_to_point) for name, one in found.items()}
    assert states == {
        "eth0": (True, True, False),
        "down": (False, False, False),
        "unplugged": (True, False, False),
        "ppp0": (True, True, True),
    }


def test_addresses_in_the_order_of_preference() -> None:
    """Secondary, temporary and deprecated ones last; what may not be sent from not at all."""
    addresses = [
        address(2, "2001:db8::9", 64, flags=0x01),
        address(2, "2001:db8::5", 64),
        address(2, "2001:db8::4", 64, flags=0x20),
        address(2, "2001:db8::3", 64, flags=0x40),
        address(2, "2001:db8::2", 64, flags=0x40 | 0x04),
        address(2, "2001:db8::1", 64, flags=0x08),
        address(2, "fe80::1", 64, scope=253),
        address(2, "169.254.1.1", 16),
        address(2, "10.0.0.9", 24),
        address(2, "10.0.0.2", 24, flags=0x01),
        address(2, "10.1.0.3", 24),
        address(7, "10.9.0.1", 24),
    ]
    own = network.parse([ETH0], addresses, []).interfaces["eth0"].addresses
    by_version = [[str(one.ip) for one in own if one.version == version] for version in (4, 6)]
    assert by_version == [
        ["10.0.0.9", "10.1.0.3", "10.0.0.2"],
        ["2001:db8::2", "2001:db8::5", "2001:db8::4", "2001:db8::9"],
    ]


def test_default_routes_best_first() -> None:
    routes = [
        route(priority=200, gateway="10.0.0.2"),
        route(),
        route(family=AF_INET6, gateway="fe80::1", priority=1024),
        route(dst_len=24),
        route(type=7),  # RTN_UNREACHABLE
        route(proto=PROTOCOL),
        route(oif=99),
        route(gateway=None, via={"family": AF_INET6, "addr": "fe80::1"}),
        route(
            oif=None, gateway=None, priority=5, multipath=[Message(oif=2, gateway="10.0.0.7"), Message(oif=3)]
        ),
    ]
    found = network.parse([ETH0, link(3, "ppp0")], [], routes)
    assert found.defaults == (
        DefaultRoute(4, "eth0", ip_address("10.0.0.1"), 0),
        DefaultRoute(4, "eth0", ip_address("10.0.0.7"), 5),
        DefaultRoute(4, "ppp0", None, 5),
        DefaultRoute(4, "eth0", ip_address("10.0.0.2"), 200),
        DefaultRoute(6, "eth0", ip_address("fe80::1"), 1024),
    )
    assert found.default("eth0", 6) == found.defaults[-1]
    assert found.default("ppp0", 6) is None


def test_tables_that_somebody_else_has_filled() -> None:
    further = [route(table=189), route(table=190, proto=PROTOCOL), route(table=191, dst_len=8)]
    assert network.parse([ETH0], [], [], further).filled == {(4, 189)}
