"""Two VLANs on one cable as two uplinks: 802.1Q for real.

              +-- eth1.10 10.1.0.2/24 --+          +-- trunk.10 -- r1 lan 10.1.0.1 --+
    gw eth1 ==+                         +== wire ==+                                 +-- srv  lo 198.51.100.1
              +-- eth1.20 10.2.0.2/24 --+  trunk   +-- trunk.20 -- r2 lan 10.2.0.1 --+

`wire` is the switch: each VLAN leaves it at another port. Each carries 4 Mbit/s in both directions.
"""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from lines import WAIT_S, shape
from observe import Flow, eventually, links
from premises import Premises, await_active, tunnel

pytestmark = pytest.mark.vm

VLANS = ((1, 10), (2, 20))  # router, 802.1Q VID
MBIT, DELAY_MS = 4.0, 10.0
MEASURE_S = 3.0
BOTH_MIN = 1.6  # times what one of them carries
UPLINKS = """
[[uplink]]
name = "ten"
interface = "eth1.10"
gateway = "10.1.0.1"
[[uplink]]
name = "twenty"
interface = "eth1.20"
"""


@pytest.fixture
def premises(premises_with: Callable[[int], Premises]) -> Premises:
    made = premises_with(2)
    made.join("gw", "eth1", "wire", "trunk")
    for i, vid in VLANS:
        made.provider(i, f"10.{i}.0.0/24")
        made.ip("wire", f"link add link trunk name lan netns {made.namespace(f'r{i}')} type vlan id {vid}")
        made.ip(f"r{i}", f"address add 10.{i}.0.1/24 dev lan", "link set lan up")
        shape(made, f"r{i}", "lan", MBIT, DELAY_MS)
        plug_in(made, i, vid)
    return made


def plug_in(premises: Premises, i: int, vid: int) -> None:
    """The gateway's end of a VLAN."""
    premises.ip(
        "gw",
        f"link add link eth1 name eth1.{vid} type vlan id {vid}",
        f"address add 10.{i}.0.2/24 dev eth1.{vid}",
        f"link set eth1.{vid} up",
    )
    if i == 2:
        premises.ip("gw", f"route add default via 10.{i}.0.1 dev eth1.{vid}")
    shape(premises, "gw", f"eth1.{vid}", MBIT, DELAY_MS)


def state(running: object, name: str) -> str:
    return str(links(running, "client")[name]["state"])  # type: ignore[arg-type]


def test_two_vlans_carry_the_sum_and_fail_one_by_one_or_with_their_cable(
    premises: Premises, tmp_path: Path
) -> None:
    with tunnel(premises, tmp_path / "etc", UPLINKS, wait_s=WAIT_S) as both:
        await_active(both, "ten", "twenty", within_s=WAIT_S)
        for table, (i, vid) in zip((4489, 4490), VLANS, strict=True):
            route = premises.ip("gw", f"route show table {table}").split()
            assert route[:5] == ["default", "via", f"10.{i}.0.1", "dev", f"eth1.{vid}"]
        with Flow(premises, congestion="cubic") as flow:
            flow.flows(1_000_000, within_s=WAIT_S)
            began = time.monotonic()
            time.sleep(MEASURE_S)
            times = flow.bits_per_second(began, time.monotonic()) / (MBIT * 1e6)
            print(f"one flow has {times:.2f} times the rate of one VLAN")
            assert times > BOTH_MIN

            premises.ip("gw", "link delete eth1.20")
            eventually(lambda: state(both, "twenty") == "down", WAIT_S)
            flow.flows(500_000, within_s=WAIT_S)
            assert state(both, "ten") == "active"
            plug_in(premises, 2, 20)
            await_active(both, "ten", "twenty", within_s=WAIT_S)

            premises.ip("gw", "link set eth1 down")  # the cable that both are on
            eventually(lambda: state(both, "ten") == state(both, "twenty") == "down", WAIT_S)
            premises.ip("gw", "link set eth1 up")
            # The kernel took the default route with the interface; a DHCP client would put it back.
            eventually(lambda: "eth1.20" in premises.ip("gw", "-br link show up"), WAIT_S)
            premises.ip("gw", "route replace default via 10.2.0.1 dev eth1.20")
            await_active(both, "ten", "twenty", within_s=WAIT_S)
            flow.flows(1_000_000, within_s=WAIT_S)
            assert flow.failures == []
