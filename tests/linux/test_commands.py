"""What goes into the kernel, as commands."""

import pytest

from bondvpn.linux import commands
from bondvpn.linux.journal import Entry, Sysctl, TapDevice
from bondvpn.linux.netlink import Route, Rule


@pytest.mark.parametrize(
    ("entry", "command"),
    [
        (
            Route(version=4, table=4489, interface="eth1", gateway="10.1.0.1", source="10.1.0.2"),
            "ip route add default via 10.1.0.1 dev eth1 table 4489 proto 118 src 10.1.0.2",
        ),
        (
            Route(version=6, table=189, interface="ppp0"),
            "ip -6 route add default dev ppp0 table 189 proto 118",
        ),
        (
            Route(version=4, table=254, destination="10.0.0.0/8", interface="bond0"),
            "ip route add 10.0.0.0/8 dev bond0 proto 118",
        ),
        (
            Rule(version=4, priority=11890, table=4489, mark=0x1189),
            "ip rule add priority 11890 fwmark 0x1189 lookup 4489 protocol 118",
        ),
        (
            Rule(version=6, priority=11891, table=254, source="2001:db8::2", suppress_prefixlength=0),
            "ip -6 rule add priority 11891 from 2001:db8::2 lookup main suppress_prefixlength 0 protocol 118",
        ),
        (
            Sysctl(path="/proc/sys/net/ipv4/conf/eth1/rp_filter", old="1", new="2"),
            "sysctl -w net.ipv4.conf.eth1.rp_filter=2",
        ),
        (
            Sysctl(path="/proc/sys/net/ipv4/conf/eth0.7/rp_filter", old="1", new="2"),
            "sysctl -w net/ipv4/conf/eth0.7/rp_filter=2",
        ),
        (TapDevice(interface="bond0"), "ip tuntap add dev bond0 mode tap vnet_hdr"),
    ],
)
def test_commands(entry: Entry, command: str) -> None:
    assert commands.entry(entry) == command
