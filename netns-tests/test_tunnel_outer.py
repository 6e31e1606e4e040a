"""Outside the tunnel: a server of several addresses, and IPv6.

    10.64.1.2  2001:db8:1::2  a  === 50 Mbit/s, 10 ms === a  10.64.1.1  2001:db8:1::1
    gw bond0 172.21.1.2                                         srv office0 172.21.1.1
    10.64.2.2  2001:db8:2::2  b  === 50 Mbit/s, 10 ms === b  10.64.2.1  2001:db8:2::1
                                                            lo 198.51.100.1  2001:db8::1

The server listens on its wildcard address, and its lines' own addresses are not the one it is known by.
"""

from collections.abc import Callable
from typing import Any

import pytest
from observe import Sniffer, all_active, drops, eventually, fragments, ip, links

from bondvpn.lab import measure
from bondvpn.lab.shape import twins
from bondvpn.lab.tunnel import PEER_ADDRESS

pytestmark = pytest.mark.netns

SETTLE_S = 10.0
SUM_BPS = 2 * 50e6 * 1448 / 1514
ENDPOINT6 = "[2001:db8::1]:1189"


def _replace(text: str, old: str, new: str) -> str:
    assert old in text, (old, text)
    return text.replace(old, new)


def test_answers_come_from_the_address_that_was_asked(bond_over: Callable[..., Any]) -> None:
    """Uplink b reaches the server by the address of line a's interface: it leaves by b all the same."""

    def known_by_line_a(bond: Any) -> None:
        text = bond.configs.client.read_text()
        bond.configs.client.write_text(_replace(text, "198.51.100.1:1189", "10.64.1.1:1189"))

    bond = bond_over(twins(), prepare=known_by_line_a)
    eventually(lambda: all_active(bond.tunnel, bond.lab), SETTLE_S, "both lines are used")
    with Sniffer(bond.lab, "gw", "a") as on_a, Sniffer(bond.lab, "gw", "b") as on_b:
        measure.ping(bond.lab, PEER_ADDRESS, count=50, interval_s=0.01)
        for sniffer, own in ((on_a, "10.64.1.2"), (on_b, "10.64.2.2")):
            ways = {(each.source, each.target) for each in sniffer.datagrams()}
            assert ways == {(own, "10.64.1.1"), ("10.64.1.1", own)}


def _ipv6_outside(bond: Any) -> None:
    """Addresses and routes for IPv6 on the lines, and a configuration that uses nothing else."""
    for where, host in (("gw", 2), ("srv", 1)):
        for i, line in enumerate(bond.lab.lines, 1):
            ip(bond.lab, where, "address", "add", f"2001:db8:{i}::{host}/64", "dev", line.name, "nodad")
    ip(bond.lab, "srv", "address", "add", "2001:db8::1/128", "dev", "lo")
    client = _replace(bond.configs.client.read_text(), "198.51.100.1:1189", ENDPOINT6)
    for i, line in enumerate(bond.lab.lines, 1):
        client = _replace(client, bond.lab.gateway(line.name), f"2001:db8:{i}::1")
    bond.configs.client.write_text(client)
    server = _replace(bond.configs.server.read_text(), "0.0.0.0:1189", "[::]:1189")
    bond.configs.server.write_text(server)


@pytest.mark.parametrize("mtu", [1500, 1428])
def test_ipv6_lines(bond_over: Callable[..., Any], mtu: int) -> None:
    bond = bond_over(twins(mtu=mtu), prepare=_ipv6_outside)
    eventually(lambda: all_active(bond.tunnel, bond.lab), SETTLE_S, "both lines are used")
    for end in ("client", "server"):
        eventually(
            lambda end=end: {link["path_mtu"] for link in links(bond.tunnel, end).values()} == {mtu},
            SETTLE_S,
            f"path MTU {mtu} at the {end}",
        )
        assert all("2001:db8:" in link["path"] for link in links(bond.tunnel, end).values())
    assert len(measure.ping(bond.lab, PEER_ADDRESS, count=5, interval_s=0.05, payload_bytes=1472)) == 5
    for reverse in (False, True):
        result = measure.tcp(bond.lab, PEER_ADDRESS, 2, congestion="cubic", reverse=reverse, omit_s=1)
        assert result.bits_per_second >= 0.6 * SUM_BPS
    assert fragments(bond.lab) == 0
    bond.lab.cut("a")
    for end in ("client", "server"):
        eventually(
            lambda end=end: links(bond.tunnel, end)["a"]["state"] in ("stalled", "dead"),
            3,
            f"a is given up by the {end}",
        )
    assert len(measure.ping(bond.lab, PEER_ADDRESS, count=5, interval_s=0.02)) == 5
    assert "auth" not in drops(bond.tunnel, "server")
