"""What two lines carry together: every kind of traffic, both directions, whatever packets the lines take.

    10.64.1.2  a  === 50 Mbit/s, 10 ms === a  10.64.1.1
    gw bond0 172.21.1.2, fd21::2                                srv office0 172.21.1.1, fd21::1
    10.64.2.2  b  === 50 Mbit/s, 10 ms === b  10.64.2.1         lo 198.51.100.1

The lines' path MTU is 1500, or smaller in silence: the line drops what is larger and says nothing.
"""

from collections.abc import Callable
from typing import Any

import pytest
from observe import Flow, all_active, drops, echoes6, eventually, fragments, ip, links, status

from bondvpn.lab import measure
from bondvpn.lab.shape import twins
from bondvpn.lab.tunnel import CLIENT_ADDRESS, PEER_ADDRESS

pytestmark = pytest.mark.netns

PEER_ADDRESS6 = "fd21::1"
TCP_SHARE = 1448 / 1514  # of a line's rate: plain TCP with timestamps on Ethernet
SUM_BPS = 2 * 50e6 * TCP_SHARE
SHARE_MIN = 0.80  # two noisy cores; the benchmark asserts 0.95
SETTLE_S = 10.0


def _also_ipv6(bond: Any) -> None:
    """Give both TAPs an IPv6 address beside the other."""
    for path, number in ((bond.configs.client, 2), (bond.configs.server, 1)):
        text = path.read_text()
        own = f'"172.21.1.{number}/30"'
        assert own in text
        path.write_text(text.replace(own, f'{own}, "fd21::{number}/126"'))


@pytest.fixture(scope="module")
def bond(shared_bond_over: Callable[..., Any]) -> Any:
    made = shared_bond_over(twins(), prepare=_also_ipv6)
    eventually(lambda: all_active(made.tunnel, made.lab), SETTLE_S, "both lines are used")
    return made


def test_echoes_of_any_size_come_back(bond: Any) -> None:
    for payload_bytes in (56, 1472):
        trips = measure.ping(bond.lab, PEER_ADDRESS, count=5, interval_s=0.05, payload_bytes=payload_bytes)
        assert len(trips) == 5
        assert min(trips) > 0.020  # it did go by the lines
    back = measure.ping(bond.lab, CLIENT_ADDRESS, where="srv", count=5, interval_s=0.05)
    assert len(back) == 5
    assert echoes6(bond.lab, PEER_ADDRESS6, count=5, payload_bytes=1452) == 5


@pytest.mark.parametrize("congestion", ["cubic", "bbr"])
@pytest.mark.parametrize("reverse", [False, True], ids=["up", "down"])
def test_one_tcp_connection_gets_the_sum(bond: Any, congestion: str, reverse: bool) -> None:
    result = measure.tcp(bond.lab, PEER_ADDRESS, 4, congestion=congestion, reverse=reverse, omit_s=1)
    assert result.congestion == congestion
    assert result.bits_per_second >= SHARE_MIN * SUM_BPS
    sending = links(bond.tunnel, "server" if reverse else "client")
    assert all(link["tx_bytes"] > 4_000_000 for link in sending.values())


@pytest.mark.parametrize("reverse", [False, True], ids=["up", "down"])
def test_tcp_over_ipv6_inside(bond: Any, reverse: bool) -> None:
    result = measure.tcp(bond.lab, PEER_ADDRESS6, 2, congestion="cubic", reverse=reverse, omit_s=1)
    assert result.bits_per_second >= 0.6 * SUM_BPS


@pytest.mark.parametrize("reverse", [False, True], ids=["up", "down"])
def test_udp_below_the_sum_is_not_lost(bond: Any, reverse: bool) -> None:
    result = measure.udp(bond.lab, PEER_ADDRESS, 3, bits_per_second=40e6, reverse=reverse, payload_bytes=1472)
    assert result.bits_per_second == pytest.approx(40e6, rel=0.1)
    assert result.lost <= 0.01 * result.sent


@pytest.mark.parametrize("upload", [True, False], ids=["up", "down"])
def test_every_byte_is_the_right_one(bond: Any, upload: bool) -> None:
    with Flow(bond.lab, upload=upload) as flow:
        flow.flows(12_000_000, within_s=10)
        assert flow.failures == []


def test_nothing_was_fragmented_or_refused(bond: Any) -> None:
    """After all of the above; alone it says less."""
    assert measure.ping(bond.lab, PEER_ADDRESS, count=1, payload_bytes=1472)
    assert fragments(bond.lab) == 0
    for end in ("client", "server"):
        assert {link["path_mtu"] for link in links(bond.tunnel, end).values()} == {1500}
        # What TCP overruns the queue by, and chunks it no longer waits for, are no faults.
        assert drops(bond.tunnel, end).keys() <= {"queue", "late", "frame", "timestamp"}


@pytest.mark.parametrize("mtu", [1492, 1428])
@pytest.mark.parametrize("told", [True, False], ids=["interface", "silent"])
def test_lines_of_smaller_packets(bond_over: Callable[..., Any], mtu: int, told: bool) -> None:
    """PPPoE (1492) and a tunnel below us (1428), told by the interface or found out by losing packets."""

    def smaller_interfaces(bond: Any) -> None:
        for name in ("a", "b"):
            ip(bond.lab, "gw", "link", "set", "dev", name, "mtu", str(mtu))

    # A line takes no larger packet in either case: what the server sends must fit too.
    bond = bond_over(twins(mtu=mtu), prepare=smaller_interfaces if told else None)

    def path_mtus() -> set[int]:
        return {link["path_mtu"] for end in ("client", "server") for link in links(bond.tunnel, end).values()}

    eventually(lambda: all_active(bond.tunnel, bond.lab), SETTLE_S, "both lines are used")
    eventually(lambda: path_mtus() == {mtu}, SETTLE_S, f"path MTU {mtu}: {path_mtus()}")
    trips = measure.ping(bond.lab, PEER_ADDRESS, count=5, interval_s=0.05, payload_bytes=1472)
    assert len(trips) == 5  # larger than any line's packet
    for reverse in (False, True):
        result = measure.tcp(bond.lab, PEER_ADDRESS, 2, congestion="cubic", reverse=reverse)
        assert result.bits_per_second >= 0.6 * SUM_BPS
    assert path_mtus() == {mtu}
    assert fragments(bond.lab) == 0
    chunk_bytes = status(bond.tunnel, "client")["tunnels"][0]["chunk_bytes"]
    assert chunk_bytes == mtu - 72  # docs/protocol.md: the budget of a packet over IPv4


def test_an_interface_takes_smaller_packets_all_at_once(bond_over: Callable[..., Any]) -> None:
    """Its MTU is lowered under a transfer: our own kernel refuses what is larger, so it is known at once."""
    bond = bond_over(twins())

    def path_mtu() -> int:
        return int(links(bond.tunnel, "client")["a"]["path_mtu"])

    with Flow(bond.lab, upload=True) as flow:
        flow.flows(4_000_000)
        eventually(lambda: path_mtu() == 1500, SETTLE_S, "the search is over")
        ip(bond.lab, "gw", "link", "set", "dev", "a", "mtu", "1400")
        flow.flows(8_000_000, within_s=10)
        eventually(lambda: path_mtu() == 1400, SETTLE_S, f"path MTU 1400: {path_mtu()}")
        flow.flows(4_000_000, within_s=10)
        assert flow.failures == []
    assert links(bond.tunnel, "client")["a"]["state"] == "active"
