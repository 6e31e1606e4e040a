"""systemd-networkd, which deletes each rule that it does not know when a port of its own comes.

          +-- eth1 10.1.0.2/24 --- 10.1.0.1 r1 --+
    gw  --+                                      +-- srv   lo 198.51.100.1
          +-- eth2 10.2.0.2/24 --- 10.2.0.1 r2 --+
          +-- eth3 10.3.0.2/24, plugged in and out

networkd gives the ports their addresses and eth2 the default route, with its defaults:
ManageForeignRoutingPolicyRules=yes and ManageForeignRoutes=yes. Lines 1 and 2 carry 4 Mbit/s both ways.
"""

import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from lines import WAIT_S, shape
from observe import Flow, eventually, links
from premises import Premises, await_active, tunnel

pytestmark = pytest.mark.vm

PORTS = (1, 2)
MBIT, DELAY_MS = 4.0, 10.0
TIMES = 2
SETTINGS = Path("/run/systemd/network")
STATE = Path("/run/systemd/netif")
NETWORK = """\
[Match]
Name=eth{i}
[Network]
Address=10.{i}.0.2/24
IPv6AcceptRA=no
LinkLocalAddressing=no
"""
SILENCE_MAX_S = 3.0
UPLINKS = """
[[uplink]]
name = "one"
interface = "eth1"
gateway = "10.1.0.1"
[[uplink]]
name = "two"
interface = "eth2"
"""


@pytest.fixture
def premises(premises_with: Callable[[int], Premises]) -> Iterator[Premises]:
    """With networkd's settings; nobody has read them."""
    SETTINGS.mkdir(parents=True)
    for name in ("", "links", "leases", "lldp"):
        (STATE / name).mkdir(parents=True, exist_ok=True)
        shutil.chown(STATE / name, "systemd-network", "systemd-network")
    made = premises_with(len(PORTS))
    for i in PORTS:
        made.join("gw", f"eth{i}", f"r{i}", "lan")
        made.ip(f"r{i}", f"address add 10.{i}.0.1/24 dev lan")
        made.provider(i, f"10.{i}.0.0/24")
        shape(made, "gw", f"eth{i}", MBIT, DELAY_MS)
        shape(made, f"r{i}", "lan", MBIT, DELAY_MS)
    for i in (1, 2, 3):
        gateway = "Gateway=10.2.0.1\n" if i == 2 else ""
        (SETTINGS / f"eth{i}.network").write_text(NETWORK.format(i=i) + gateway)
    yield made
    shutil.rmtree(SETTINGS)


def networkd(premises: Premises) -> "subprocess.Popen[bytes]":
    """It waits for udev unless /sys is read-only, as in a container."""
    command = "mount -o remount,ro /sys && exec /lib/systemd/systemd-networkd"
    return premises.popen("gw", ["sh", "-c", command])


def ours(premises: Premises) -> list[str]:
    """bondvpn's rules and routes."""
    rules = [row for row in premises.ip("gw", "rule show").splitlines() if "proto 118" in row]
    return rules + premises.ip("gw", "route show table all proto 118").splitlines()


def deleted(log: Path) -> int:
    """How many of bondvpn's rules were deleted so far. bondvpn itself deletes none while its lines stay."""
    return sum(row.startswith("Deleted") and "proto 118" in row for row in log.read_text().splitlines())


def plug_in(premises: Premises) -> None:
    premises.ip("gw", "link add eth3 type veth peer name switch3", "link set switch3 up")
    eventually(lambda: "10.3.0.2" in premises.ip("gw", "-br address"), WAIT_S, "networkd's address")


def test_what_networkd_deletes_is_put_back(premises: Premises, tmp_path: Path) -> None:
    daemon = networkd(premises)
    eventually(lambda: "10.2.0.1" in premises.ip("gw", "route show default"), WAIT_S, "networkd's route")
    log = tmp_path / "monitor"
    with tunnel(premises, tmp_path / "etc", UPLINKS, wait_s=WAIT_S) as both, log.open("wb") as written:
        await_active(both, "one", "two", within_s=WAIT_S)
        planned = ours(premises)
        rules = [row for row in planned if "lookup" in row]
        assert len(rules) == 6  # docs/operations.md: by mark and, twice, by source, for each uplink
        premises.popen("gw", ["ip", "monitor", "rule"], stdout=written)
        with Flow(premises, congestion="cubic") as flow:
            flow.flows(1_000_000, within_s=WAIT_S)
            for _ in range(TIMES):
                began, before = time.monotonic(), deleted(log)
                plug_in(premises)
                eventually(
                    lambda before=before: deleted(log) >= before + len(rules), WAIT_S, "all are deleted"
                )
                eventually(lambda: ours(premises) == planned, WAIT_S, "all are back")
                premises.ip("gw", "link delete eth3")
                daemon.send_signal(signal.SIGTERM)
                daemon.wait(WAIT_S)
                daemon = networkd(premises)
                flow.flows(1_000_000, within_s=WAIT_S)
                silence_s = flow.silence_s(began)
                print(f"{deleted(log) - before} rules deleted, silent for {silence_s:.2f} s at most")
                assert silence_s < SILENCE_MAX_S
                assert {link["state"] for link in links(both, "client").values()} == {"active"}
                assert ours(premises) == planned
            assert flow.failures == []
