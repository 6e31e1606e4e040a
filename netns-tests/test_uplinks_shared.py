"""Two routers on one Ethernet, and one address for both: only the mark tells which of them a packet takes.

                               +-- 10.1.0.1 r1, translates to 203.0.113.10 --+
    gw eth1 10.1.0.2 -- bridge +                                             +-- srv   lo 198.51.100.1
                               +-- 10.1.0.9 r2, translates to 203.0.113.18 --+

The bridge is in the namespace "wire".
"""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from observe import Flow, eventually, heard, links
from premises import Premises, await_active, tunnel
from pyroute2 import NFCTSocket

from bondvpn.lab import namespace
from bondvpn.lab.tunnel import Tunnel

pytestmark = pytest.mark.netns

NEW_PORT_MAX_S = 1.0
UPLINKS = """
[[uplink]]
name = "one"
interface = "eth1"
gateway = "10.1.0.1"
[[uplink]]
name = "two"
interface = "eth1"
gateway = "10.1.0.9"
"""
MASQUERADE = """
table ip translate {{
    chain out {{
        type nat hook postrouting priority srcnat;
        oifname "wan" meta l4proto udp masquerade to :{first}-{last}
    }}
}}
"""


@pytest.fixture
def premises(premises_with: Callable[[int], Premises]) -> Premises:
    premises = premises_with(2)
    premises.ip("wire", "link add lan type bridge", "link set lan up")
    premises.join("gw", "eth1", "wire", "gw", "10.1.0.2/24")
    for i, host in ((1, 1), (2, 9)):
        premises.join("wire", f"r{i}", f"r{i}", "lan")
        premises.ip(f"r{i}", f"address add 10.1.0.{host}/24 dev lan")
        premises.provider(i)
        translate(premises, f"r{i}", 4000)
    premises.ip("wire", *(f"link set {port} master lan" for port in ("gw", "r1", "r2")))
    return premises


def translate(premises: Premises, router: str, first_port: int) -> None:
    """The router gives its own address and ports from `first_port` on, and forgets what it gave before."""
    premises.run(router, ["nft", "flush", "ruleset"], check=True)
    premises.nft(router, MASQUERADE.format(first=first_port, last=first_port + 99))
    with namespace.entered(premises.namespace(router)), NFCTSocket() as tracked:
        tracked.flush()


def sources(premises: Premises) -> dict[str, set[str]]:
    """By router, the addresses that its line's datagrams come from as the server sees them."""
    return {router: heard(premises, "srv", router) for router in premises.routers}


def test_each_uplink_takes_its_router(
    premises: Premises, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    with tunnel(premises, tmp_path / "etc", UPLINKS) as both:
        await_active(both, "one", "two")
        with Flow(premises, congestion="cubic", bits_per_second=20e6) as flow:
            flow.flows()
            assert sources(premises) == {"r1": {"203.0.113.10"}, "r2": {"203.0.113.18"}}
            paths = {name: link["path"].split(":")[0] for name, link in links(both, "server").items()}
            assert paths == {"one": "203.0.113.10", "two": "203.0.113.18"}
            port = links(both, "server")["one"]["path"]
            for first in (5000, 6000, 7000):
                took_s, silence_s = moved(premises, both, flow, first)
                record_property("new_port_s", took_s)
                record_property("new_port_silence_s", silence_s)
            assert links(both, "server")["one"]["path"] != port
            assert flow.failures == []


def moved(premises: Premises, both: Tunnel, flow: Flow, first_port: int) -> tuple[float, float]:
    """r1 forgets what it translated, and takes other ports: what a modem does when it dials anew.

    Returns after how many seconds both ends use the line by the new one, and the flow's longest silence.
    """
    two = links(both, "server")["two"]["path"]
    translate(premises, "r1", first_port)
    since = time.monotonic()

    def follows() -> bool:
        one = links(both, "server")["one"]
        return one["path"].startswith(f"203.0.113.10:{first_port // 1000}") and one["state"] == "active"

    eventually(follows, 3, "the server follows to the new port")
    eventually(lambda: links(both, "client")["one"]["state"] == "active", 3, "used by the client")
    took_s = time.monotonic() - since
    print(f"used by its new port after {took_s * 1e3:.0f} ms")
    assert took_s < NEW_PORT_MAX_S
    flow.flows()
    silence_s = flow.silence_s(since)
    assert silence_s < NEW_PORT_MAX_S
    assert links(both, "server")["two"]["path"] == two
    return took_s, silence_s
