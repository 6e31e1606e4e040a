"""An uplink of IPv4 only beside one of IPv6 only, and a server known by a name with several addresses.

                    +-- eth1 10.1.0.2/24 ----------- 10.1.0.1 r1 ------+
    gw bond0 .1.2 --+                                                  +-- srv   lo 198.51.100.1
                    +-- eth2 2001:db8:2::2/64 --- 2001:db8:2::1 r2 ----+             2001:db8::1

Nobody answers at 198.51.100.77, which the name has too, and first.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
from observe import Flow, Sniffer, eventually, links
from premises import Premises, await_active, tunnel

pytestmark = pytest.mark.netns

NAME = "bond.example"
UPLINKS = """
[[uplink]]
name = "four"
interface = "eth1"
gateway = "10.1.0.1"
[[uplink]]
name = "six"
interface = "eth2"
"""


@pytest.mark.parametrize(
    ("endpoints", "hosts"),
    [
        ([f"{NAME}:1189"], ["198.51.100.77", "198.51.100.1", "2001:db8::1"]),
        (["198.51.100.1:1189", "[2001:db8::1]:1189"], []),
    ],
    ids=["name", "addresses"],
)
def test_each_uplink_finds_an_address_that_answers(
    premises_with: Callable[[int], Premises], tmp_path: Path, endpoints: list[str], hosts: list[str]
) -> None:
    premises = premises_with(2)
    premises.join("gw", "eth1", "r1", "lan", "10.1.0.2/24", "10.1.0.1/24")
    premises.join("gw", "eth2", "r2", "lan", "2001:db8:2::2/64", "2001:db8:2::1/64")
    premises.ip("gw", "route add default via 2001:db8:2::1 dev eth2")
    premises.provider(1, "10.1.0.0/24")
    premises.provider(2, "2001:db8:2::/64")
    premises.name(NAME, *hosts)
    with tunnel(premises, tmp_path / "etc", UPLINKS, endpoints=endpoints, wait_s=15) as both:
        await_active(both, "four", "six")
        paths = {name: link["path"] for name, link in links(both, "client").items()}
        assert paths == {"four": "198.51.100.1:1189", "six": "2001:db8::1:1189"}
        with Flow(premises, congestion="cubic", bits_per_second=20e6) as flow:
            flow.flows()
            with Sniffer(premises, "r1", "lan") as sniffer:
                assert eventually(lambda: [each.target for each in sniffer.datagrams()], 2, "by four too")
            before = links(both, "client")["six"]["tx_bytes"]
            eventually(lambda: links(both, "client")["six"]["tx_bytes"] > before, 2, "by six too")
            assert flow.failures == []
