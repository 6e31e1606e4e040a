"""What bondvpn leaves behind: nothing, however it ended; and how it ends.

    10.64.1.2  a  === 50 Mbit/s, 10 ms === a  10.64.1.1
    gw bond0 172.21.1.2                                         srv office0 172.21.1.1
    10.64.2.2  b  === 50 Mbit/s, 10 ms === b  10.64.2.1         lo 198.51.100.1

gw filters strictly by reverse path on line a, which bondvpn has to loosen and to restore.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from observe import all_active, control_socket, eventually, links, rp_filter, settled_state, system_state

from bondvpn.lab import measure
from bondvpn.lab.shape import twins
from bondvpn.lab.tunnel import PEER_ADDRESS

pytestmark = pytest.mark.netns

SETTLE_S = 10.0
ENDS = {"client": "gw", "server": "srv"}
STRICT, LOOSE = "1", "2"


@pytest.fixture(scope="module")
def machine(shared_bond_over: Callable[..., Any]) -> Any:
    """A lab and its configuration; nothing started."""
    bond = shared_bond_over(twins(), start=False)
    for name, value in (("all", "0"), ("a", STRICT), ("b", LOOSE)):
        rp_filter(bond.lab, "gw", name, value)
    return bond


@pytest.fixture
def before(machine: Any) -> Any:
    """The state of both machines, and after the test the end of what it started."""
    found = {where: settled_state(machine.lab, where) for where in ENDS.values()}
    yield found
    for end in list(machine.tunnel.ends):
        machine.tunnel.stop(end)


def start_both(bond: Any) -> None:
    bond.tunnel.start("server")
    bond.tunnel.start("client")
    bond.tunnel.await_echo(SETTLE_S)
    eventually(lambda: all_active(bond.tunnel, bond.lab), SETTLE_S, "both lines are used")


def state(bond: Any) -> dict[str, dict[str, str]]:
    return {where: system_state(bond.lab, where) for where in ENDS.values()}


def leftovers(bond: Any) -> list[str]:
    """Files in the runtime directories."""
    return sorted(
        str(path) for end in ENDS for path in (bond.tunnel.root / end / "run").glob("*") if path.exists()
    )


@pytest.mark.parametrize("with_signal", [signal.SIGTERM, signal.SIGINT])
def test_a_clean_end_leaves_nothing(machine: Any, before: Any, with_signal: signal.Signals) -> None:
    start_both(machine)
    during = state(machine)
    changed = {where: {key for key in during[where] if during[where][key] != before[where].get(key)}
               for where in ENDS.values()}  # fmt: skip
    assert {"rules -4", "routes -4", "interfaces", "rp_filter a"} <= changed["gw"]
    assert "interfaces" in changed["srv"]
    assert rp_filter(machine.lab, "gw", "a") == LOOSE
    for end in ENDS:
        assert machine.tunnel.stop(end, with_signal=with_signal) == 0
    assert state(machine) == before
    assert leftovers(machine) == []


def test_after_sigkill_down_cleans_up(machine: Any, before: Any) -> None:
    start_both(machine)
    for end in ENDS:
        refused = machine.tunnel.command(end, "down")
        assert refused.returncode == 1
        assert f"process {machine.tunnel.ends[end].pid} runs" in refused.stderr
    for end in ENDS:
        machine.tunnel.stop(end, with_signal=signal.SIGKILL)
    assert rp_filter(machine.lab, "gw", "a") == LOOSE
    assert state(machine) != before
    for end in ENDS:
        done = machine.tunnel.command(end, "down")
        assert (done.returncode, done.stderr) == (0, "")
    assert state(machine) == before
    assert leftovers(machine) == []


def test_after_sigkill_the_next_start_cleans_up(machine: Any, before: Any) -> None:
    start_both(machine)
    for end in ENDS:
        machine.tunnel.stop(end, with_signal=signal.SIGKILL)
    start_both(machine)
    for end in ENDS:
        assert machine.tunnel.stop(end) == 0
    assert state(machine) == before
    assert leftovers(machine) == []


def test_starting_twice_is_refused_and_harms_nothing(machine: Any, before: Any) -> None:
    start_both(machine)
    during = {where: settled_state(machine.lab, where) for where in ENDS.values()}
    for end in ENDS:
        config = machine.configs.client if end == "client" else machine.configs.server
        second = machine.tunnel.command(end, end, "--config", str(config))
        assert second.returncode == 1
        assert f"process {machine.tunnel.ends[end].pid} runs" in second.stderr
        assert "Traceback" not in second.stderr
    assert state(machine) == during
    assert all(link["state"] == "active" for link in links(machine.tunnel, "client").values())
    assert len(measure.ping(machine.lab, PEER_ADDRESS, count=5, interval_s=0.05)) == 5


def test_an_interface_that_another_owns_is_refused(machine: Any, before: Any) -> None:
    """The same TAP name in other directories: the device itself tells."""
    start_both(machine)
    environment = os.environ | {"BONDVPN_RUNTIME_DIR": str(machine.tunnel.root / "other")}
    argv = [sys.executable, "-m", "bondvpn", "client", "--config", str(machine.configs.client)]
    second = machine.lab.run("gw", argv, env=environment, capture_output=True, text=True)
    assert second.returncode == 1
    assert "bond0" in second.stderr
    assert "Traceback" not in second.stderr
    assert len(measure.ping(machine.lab, PEER_ADDRESS, count=5, interval_s=0.05)) == 5


def test_status_tells_by_its_exit_code(machine: Any, before: Any) -> None:
    for end in ENDS:
        none = machine.tunnel.command(end, "status")
        assert none.returncode == 1
        assert "is running" in none.stderr
    start_both(machine)
    for end in ENDS:
        assert control_socket(machine.tunnel, end).stat().st_mode & 0o077 == 0
        some = machine.tunnel.command(end, "status")
        assert some.returncode == 0
        assert "active" in some.stdout
    for end in ENDS:
        machine.tunnel.stop(end, with_signal=signal.SIGKILL)
        assert machine.tunnel.command(end, "status").returncode == 1
        assert machine.tunnel.command(end, "down").returncode == 0


@pytest.mark.parametrize("end", ["client", "server"])
def test_bad_configuration_changes_nothing(machine: Any, before: Any, end: str) -> None:
    config = machine.configs.client if end == "client" else machine.configs.server
    bad = config.with_name(f"bad-{end}.toml")
    text = config.read_text()
    assert "mtu = 1500" in text
    bad.write_text(text.replace("mtu = 1500", 'mtu = 15\ncolour = "blue"'))
    done = machine.tunnel.command(end, end, "--config", str(bad))
    assert done.returncode == 2
    for word in (bad.name, "mtu", "15", "colour"):
        assert word in done.stderr
    missing = machine.tunnel.command(end, end, "--config", str(bad.with_name("none.toml")))
    assert missing.returncode == 2
    assert machine.tunnel.command(end, end, "--no-such-option").returncode == 2
    assert state(machine) == before
    assert leftovers(machine) == []


def test_a_failed_start_leaves_nothing(machine: Any, before: Any) -> None:
    """The server's port is taken: it gives up after the TAP was made."""
    argv = ["python3", "-c", "import socket, sys\ns = socket.socket(type=socket.SOCK_DGRAM)\n"
            "s.bind(('0.0.0.0', 1189))\nprint('bound', flush=True)\nsys.stdin.read()"]  # fmt: skip
    squatter = machine.lab.popen("srv", argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert squatter.stdout.readline() == "bound\n"
        refused = machine.tunnel.command("server", "server", "--config", str(machine.configs.server))
        assert refused.returncode == 1
        assert "1189" in refused.stderr
        assert "Traceback" not in refused.stderr
    finally:
        squatter.communicate()
    assert state(machine) == before
    assert leftovers(machine) == []
