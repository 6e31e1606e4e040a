"""Name servers through systemd-resolved itself.

    gw bond0 172.21.1.2 --- eth1 10.1.0.2/24 --- 10.1.0.1 r1 --- srv office0 172.21.1.1   lo 198.51.100.1
       D-Bus, resolved                                               dnsmasq

resolved runs in gw, whose interfaces are then those it knows. dnsmasq answers for host.office.example; only
who comes through the tunnel can ask it.
"""

import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from lines import WAIT_S
from observe import eventually
from premises import Premises, await_active, configure

from bondvpn.lab.tunnel import BONDVPN, Tunnel

pytestmark = pytest.mark.vm

UPLINK = '[[uplink]]\nname = "one"\ninterface = "eth1"\ngateway = "10.1.0.1"\n'
SERVER, NAME, ADDRESS = "172.21.1.1", "host.office.example", "10.9.8.7"
SETTINGS = {"default_route": True, "dns": [SERVER], "dns_search": ["office.example"]}
POLICY = Path("usr/share/dbus-1/system.d/org.freedesktop.resolve1.conf")
USER = "systemd-resolve"
NETWORKD_STATE = Path("/run/systemd/netif")


@pytest.fixture
def premises(premises_with: Callable[[int], Premises]) -> Premises:
    """With resolved at work in gw."""
    # What a networkd that is gone left there names interfaces by number: resolved would leave ours to it.
    shutil.rmtree(NETWORKD_STATE, ignore_errors=True)
    made = premises_with(1)
    made.join("gw", "eth1", "r1", "lan", "10.1.0.2/24", "10.1.0.1/24")
    made.provider(1, "10.1.0.0/24")
    program = shutil.which("resolvectl")
    assert program is not None
    unpacked = Path(program).parents[2]
    shutil.copy(unpacked / POLICY, Path("/") / POLICY)
    subprocess.run(["useradd", "--system", USER], check=True)
    for directory in ("/run/dbus", "/run/systemd/resolve"):
        Path(directory).mkdir(parents=True)
    shutil.chown("/run/systemd/resolve", USER, USER)
    made.popen("gw", ["dbus-daemon", "--system", "--nofork", "--nopidfile"])
    eventually(Path("/run/dbus/system_bus_socket").exists, WAIT_S, "the system bus")
    made.popen("gw", [f"{unpacked}/lib/systemd/systemd-resolved"])
    eventually(lambda: "Global" in resolvectl(made, "status"), WAIT_S, "systemd-resolved")
    return made


def resolvectl(premises: Premises, *words: str) -> str:
    """What it says; nothing when it fails."""
    done = premises.run("gw", ["resolvectl", *words], capture_output=True, text=True, timeout=WAIT_S)
    return "" if done.returncode else done.stdout


def test_it_asks_through_the_tunnel_and_forgets_when_the_tunnel_is_gone(
    premises: Premises, tmp_path: Path
) -> None:
    def asks_the_tunnel() -> bool:
        return f"bond0): {SERVER}" in resolvectl(premises, "dns") and "~." in resolvectl(premises, "domain")

    def asks_nobody() -> bool:
        return SERVER not in resolvectl(premises, "dns") and "office" not in resolvectl(premises, "domain")

    configs = configure(premises, tmp_path / "etc", UPLINK, **SETTINGS)
    with Tunnel(premises, configs, wait_s=WAIT_S) as both:
        await_active(both, "one", within_s=WAIT_S)
        words = ["--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--user=root"]
        words += [f"--listen-address={SERVER}", "--bind-interfaces", f"--address=/{NAME}/{ADDRESS}"]
        premises.popen("srv", ["dnsmasq", *words])
        eventually(asks_the_tunnel, WAIT_S, "the tunnel's name server is known")
        eventually(lambda: ADDRESS in resolvectl(premises, "query", NAME), WAIT_S, "it answers")
        assert both.stop("client") == 0
        assert asks_nobody()
        assert resolvectl(premises, "query", NAME) == ""
        both.start("client")
        await_active(both, "one", within_s=WAIT_S)
        eventually(asks_the_tunnel, WAIT_S, "it is known again")
        both.stop("client", with_signal=signal.SIGKILL)
        premises.run("gw", [*BONDVPN, "down"], env=both.environment("client"), check=True)
        eventually(asks_nobody, WAIT_S, "nothing is left of it")
