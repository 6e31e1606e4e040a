"""DHCP: a real server hands out another address and another router, and a real client takes them.

                +-- eth1 (udhcpc) --- 10.1.0.1, 10.1.0.9 r1 (dnsmasq) --+
gw bond0 .1.2 --+                                                       +-- srv   lo 198.51.100.1
                +-- eth2 10.2.0.2/24 --------------- 10.2.0.1 r2 -------+
"""

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from observe import Flow, eventually, links
from premises import Premises, await_active, tunnel

pytestmark = pytest.mark.netns

SILENCE_MAX_S = 1.0
UPLINKS = """
[[uplink]]
name = "dhcp"
interface = "eth1"
[[uplink]]
name = "fixed"
interface = "eth2"
gateway = "10.2.0.1"
"""
# What every client's own script does, and nothing to /etc.
SCRIPT = """#!/bin/sh
case "$1" in
deconfig) ip -4 address flush dev "$interface"; ip link set "$interface" up ;;
bound|renew)
    ip -4 address flush dev "$interface"
    ip address add "$ip/$mask" dev "$interface"
    ip route replace default via "$router" dev "$interface" metric 100
    ;;
esac
"""


class Dhcp:
    """r1's server and gw's client."""

    def __init__(self, premises: Premises, directory: Path) -> None:
        self._premises = premises
        self._directory = directory
        self._server: subprocess.Popen[Any] | None = None
        script = directory / "udhcpc.sh"
        script.write_text(SCRIPT)
        script.chmod(0o755)
        self._script = script

    def offer(self, host: int, router: str) -> None:
        """From now on the address 10.1.0.<host> and that router."""
        if self._server is not None:
            self._server.kill()
            self._server.wait()
        (self._directory / "leases").unlink(missing_ok=True)
        argv = ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--user=root",
                "--interface=lan", "--bind-interfaces", "--no-ping", "--pid-file=", "--dhcp-authoritative",
                f"--dhcp-leasefile={self._directory / 'leases'}",
                f"--dhcp-range=10.1.0.{host},10.1.0.{host},255.255.255.0,120",
                f"--dhcp-option=option:router,{router}"]  # fmt: skip
        self._server = self._premises.popen("r1", argv)

    def start(self) -> subprocess.Popen[Any]:
        argv = ["udhcpc", "-f", "-i", "eth1", "-s", str(self._script), "-t", "20", "-T", "1", "-A", "1"]
        return self._premises.popen("gw", argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def test_an_uplink_follows_its_lease(premises_with: Callable[[int], Premises], tmp_path: Path) -> None:
    premises = premises_with(2)
    premises.join("gw", "eth1", "r1", "lan")
    premises.ip("r1", "address add 10.1.0.1/24 dev lan", "address add 10.1.0.9/24 dev lan")
    premises.join("gw", "eth2", "r2", "lan", "10.2.0.2/24", "10.2.0.1/24")
    for i in (1, 2):
        premises.provider(i, f"10.{i}.0.0/24")
    dhcp = Dhcp(premises, tmp_path)
    dhcp.offer(100, "10.1.0.1")
    with tunnel(premises, tmp_path / "etc", UPLINKS) as both:
        await_active(both, "fixed", only=False)
        assert links(both, "client")["dhcp"]["reason"] == "eth1 has no address"
        client = dhcp.start()
        with Flow(premises, congestion="cubic", bits_per_second=20e6) as flow:
            for host, router in ((100, "10.1.0.1"), (150, "10.1.0.9"), (151, "10.1.0.1")):
                if host != 100:
                    dhcp.offer(host, router)
                    client.send_signal(signal.SIGUSR2)  # release
                    # Of two signals that wait the kernel delivers the lower one first: ask, then release.
                    eventually(lambda: "inet 10.1." not in premises.ip("gw", "address show dev eth1"), 10)
                    client.send_signal(signal.SIGUSR1)  # and ask again
                wanted = {"source": f"10.1.0.{host}", "gateway": router, "table": 4489}
                eventually(
                    lambda wanted=wanted: wanted.items() <= links(both, "client")["dhcp"].items(),
                    10,
                    str(wanted),
                )
                await_active(both, "dhcp", "fixed")
                route = premises.ip("gw", "route show table 4489").split()
                assert route[:5] == ["default", "via", router, "dev", "eth1"]
                flow.flows()
            assert flow.failures == []
            assert flow.silence_s(since=0) < SILENCE_MAX_S
        assert both.client_log.count("uplink fixed: ") == 1
