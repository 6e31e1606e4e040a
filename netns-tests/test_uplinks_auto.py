"""Automatic uplinks: whatever has a default route is one, for as long as it has.

gw eth1 10.1.0.2/24 --- 10.1.0.1 r1 --+
   eth2 10.2.0.2/24 --- 10.2.0.1 r2 --+-- srv   lo 198.51.100.1
   ppp0 192.0.2.1   ==================+
   eth9 10.9.0.2/24, excluded
"""

from collections.abc import Callable
from pathlib import Path

import pytest
from observe import Flow, eventually, links
from premises import Dialup, Premises, await_active, tunnel

pytestmark = pytest.mark.netns

SILENCE_MAX_S = 1.0
UPLINKS = """
[[uplink]]
auto = true
exclude = ["eth9", "lo"]
"""


def test_uplinks_come_and_go_with_their_default_routes(
    premises_with: Callable[[int], Premises], tmp_path: Path
) -> None:
    premises = premises_with(2)
    for i in (1, 2):
        premises.join("gw", f"eth{i}", f"r{i}", "lan", f"10.{i}.0.2/24", f"10.{i}.0.1/24")
        premises.provider(i, f"10.{i}.0.0/24")
    premises.join("gw", "eth9", "wire", "gw", "10.9.0.2/24")
    premises.ip("gw", "route add default via 10.9.0.1 metric 9")
    with Dialup(premises, "ppp0") as ppp, tunnel(premises, tmp_path / "etc", UPLINKS, start=False) as both:
        both.start("server")
        both.start("client")
        eventually(
            lambda: links(both, "server") == {} and both.client_log.count("started, 0 uplinks"), 5, "none yet"
        )
        premises.ip("gw", "route add default via 10.1.0.1 metric 100")
        await_active(both, "eth1")
        with Flow(premises, congestion="cubic", bits_per_second=10e6) as flow:
            flow.flows()
            premises.ip("gw", "route add default via 10.2.0.1 metric 200")
            await_active(both, "eth1", "eth2")
            assert links(both, "client")["eth2"]["table"] != links(both, "client")["eth1"]["table"]
            # The connection moves over as the first one goes.
            premises.ip("gw", "route delete default via 10.1.0.1")
            eventually(lambda: set(links(both, "client")) == {"eth2"}, 3, "eth1 has gone")
            assert "eth1" not in premises.ip("gw", "route show table all proto 118")
            flow.flows()
            ppp.dial("192.0.2.1/32")
            premises.ip("gw", "route add default dev ppp0 metric 50")
            await_active(both, "eth2", "ppp0")
            premises.ip("gw", "route add default via 10.1.0.1 metric 100")
            await_active(both, "eth1", "eth2", "ppp0")
            ppp.hang_up()
            eventually(lambda: set(links(both, "client")) == {"eth1", "eth2"}, 3, "ppp0 has gone")
            flow.flows()
            assert flow.failures == []
            assert flow.silence_s(since=0) < SILENCE_MAX_S
        assert "eth9" not in both.client_log
        assert both.client_log.count("uplink eth2: 10.2.0.2") == 1
