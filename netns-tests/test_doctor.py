"""`bondvpn doctor`: all well, then one thing after the other is broken, found, and mended by what it says.

    10.64.1.2  a  ==== 5 Mbit/s, 10 ms === a  10.64.1.1
    gw bond0 172.21.1.2                                         srv office0 172.21.1.1
    10.64.2.2  b  ==== 5 Mbit/s, 10 ms === b  10.64.2.1         lo 198.51.100.1

So slow that a busy machine fills them. The lab switches GRO off on its lines; b gets it back.
"""

import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from observe import all_active, eventually, ip, rp_filter, settled_state, status

from bondvpn.lab.shape import twins

pytestmark = pytest.mark.netns

SETTLE_S = 10.0


@pytest.fixture(scope="module")
def machine(shared_bond_over: Callable[..., Any]) -> Any:
    bond = shared_bond_over(twins(mbit=5), start=False, scheduler="adaptive", speeds=False)
    bond.lab.run("gw", ["ethtool", "-K", "b", "gro", "on"], check=True)
    return bond


@pytest.fixture
def bond(machine: Any) -> Iterator[Any]:
    """With a server and no client."""
    machine.tunnel.start("server")
    eventually(lambda: status(machine.tunnel, "server"), SETTLE_S, "the server has started")
    yield machine
    for end in list(machine.tunnel.ends):
        machine.tunnel.stop(end)


def doctor(bond: Any, *words: str, end: str = "client") -> tuple[int, dict[str, Any]]:
    """Exit status and report."""
    done = bond.tunnel.command(end, "doctor", "--config", str(bond.configs.of(end)), "--json", *words)
    assert done.stderr == ""
    report = json.loads(done.stdout)
    assert report["well"] == (done.returncode == 0)
    return done.returncode, report


def wrong(report: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(one["check"], one["subject"]): one for one in report["findings"] if not one["well"]}


def unordered(state: dict[str, str]) -> dict[str, list[str]]:
    """Rules of one priority stand in the order in which they came."""
    return {key: sorted(text.splitlines()) for key, text in state.items()}


def mend(bond: Any, report: dict[str, Any]) -> None:
    """Do as it says."""
    for one in wrong(report).values():
        bond.lab.run("gw", ["sh", "-ec", one["mend"]], check=True, capture_output=True)


def test_lines_of_a_client_that_does_not_run(bond: Any) -> None:
    # The kernel tells of a carrier once a second at the most.
    eventually(lambda: "NO-CARRIER" not in ip(bond.lab, "gw", "link", "show"), 5, "the lines have a carrier")
    code, report = doctor(bond)
    assert code == 1
    assert [(key, one["mend"]) for key, one in wrong(report).items()] == [
        (("offload", "a"), "ethtool -K a gro on")
    ]
    mend(bond, report)
    before = settled_state(bond.lab, "gw")
    code, report = doctor(bond, "--speed")
    assert (code, wrong(report)) == (0, {})
    assert settled_state(bond.lab, "gw") == before
    assert (report["role"], report["running"]) == ("client", False)
    assert [(line["uplink"], line["endpoint"]) for line in report["lines"]] == [
        ("a", "198.51.100.1:1189"),
        ("b", "198.51.100.1:1189"),
    ]
    for line in report["lines"]:
        assert line["reached"]
        assert 20 <= line["rtt_ms"] < 1000
        assert line["path_mtu"] == 1500
        assert 2e6 < line["up_bps"] < 5.5e6

    key: Path = bond.configs.client.parent / "client.key"
    key.chmod(0o640)
    ip(bond.lab, "gw", "link", "set", "dev", "b", "mtu", "1400")
    bond.lab.cut("a")
    code, report = doctor(bond)
    assert code == 1
    found = wrong(report)
    assert set(found) == {("key", str(key)), ("reach", "a to 198.51.100.1:1189")}
    assert found["key", str(key)]["mend"] == f"chmod 600 {key}"
    assert "ping -I a 198.51.100.1" in found["reach", "a to 198.51.100.1:1189"]["mend"]
    (narrow,) = [line for line in report["lines"] if line["reached"]]
    assert (narrow["uplink"], narrow["path_mtu"]) == ("b", 1400)
    bond.lab.restore("a")
    key.chmod(0o600)
    ip(bond.lab, "gw", "link", "set", "dev", "b", "mtu", "1500")


def test_a_wrong_key_a_line_down_and_a_route_in_the_way(bond: Any) -> None:
    psk: Path = bond.configs.client.parent / "office.psk"
    good = psk.read_text()
    text = bond.configs.client.read_text()
    bond.configs.client.write_text(text.replace('name = "b"', 'name = "b"\ntable = 190'))
    psk.write_text(bond.configs.client.parent.joinpath("client.key").read_text())
    ip(bond.lab, "gw", "link", "set", "dev", "a", "down")
    ip(bond.lab, "gw", "route", "add", "default", "via", "10.64.2.9", "dev", "b", "table", "190")
    code, report = doctor(bond)
    found = wrong(report)
    assert code == 1
    assert found["uplink", "a"]["mend"] == "ip link set dev a up"
    (route,) = [one for one in found.values() if one["check"] == "route"]
    assert route["mend"] == "ip route del default table 190"
    assert "no answer by b" in found["reach", "198.51.100.1:1189"]["found"]
    psk.write_text(good)
    bond.lab.run("gw", ["sh", "-ec", f"{route['mend']}; {found['uplink', 'a']['mend']}"], check=True)
    bond.configs.client.write_text(text)
    # The lab's permanent neighbours and its route went with the interface.
    ip(bond.lab, "gw", "neigh", "replace", "10.64.1.1", "lladdr", "02:64:00:01:00:01", "dev", "a")


def test_what_was_changed_under_a_client_that_runs(bond: Any) -> None:
    bond.tunnel.start("client")
    eventually(lambda: all_active(bond.tunnel, bond.lab), SETTLE_S, "both lines are used")
    bond.lab.run("gw", ["ethtool", "-K", "a", "gro", "on"], check=True)
    code, report = doctor(bond)
    assert (code, wrong(report), report["running"]) == (0, {}, True)
    assert all(20 <= line["rtt_ms"] < 1000 for line in report["lines"])

    # One that stands still mends nothing itself.
    process = bond.tunnel.ends["client"]
    process.send_signal(signal.SIGSTOP)
    rp_filter(bond.lab, "gw", "all", "0")
    before = unordered(settled_state(bond.lab, "gw"))
    ip(bond.lab, "gw", "rule", "del", "priority", "11890", "fwmark", "0x1189")
    ip(bond.lab, "gw", "route", "flush", "table", "4490")
    ip(bond.lab, "gw", "address", "del", "172.21.1.2/30", "dev", "bond0")
    rp_filter(bond.lab, "gw", "a", "1")
    code, report = doctor(bond)
    assert code == 1
    found = wrong(report)
    assert set(found) == {
        ("process", "bond0"),
        ("rule", "priority 11890 fwmark 0x1189 lookup 4489"),
        ("route", "default via 10.64.2.1 dev b table 4490"),
        ("rp_filter", "a"),
        ("tunnel", "bond0"),
    }
    assert found["tunnel", "bond0"]["mend"] == "ip address add 172.21.1.2/30 dev bond0"
    for what in ("rule", "route"):
        (one,) = [one for one in found.values() if one["check"] == what]
        bond.lab.run("gw", ["sh", "-ec", one["mend"].partition("# or ")[2]], check=True)
    rp_filter(bond.lab, "gw", "a", found["rp_filter", "a"]["mend"].rpartition("=")[2])
    ip(bond.lab, "gw", "address", "add", "172.21.1.2/30", "dev", "bond0")
    assert unordered(settled_state(bond.lab, "gw")) == before

    process.send_signal(signal.SIGKILL)
    process.wait()
    code, report = doctor(bond)
    assert code == 1
    assert wrong(report)["leftovers", "bond0"]["mend"] == "bondvpn down"
    assert bond.tunnel.command("client", "down").returncode == 0
    del bond.tunnel.ends["client"]


def test_a_server(bond: Any) -> None:
    code, report = doctor(bond, end="server")
    assert (code, report["role"], report["running"]) == (0, "server", True)
    bond.tunnel.stop("server")
    text = bond.configs.server.read_text()
    routed = text.replace("[client.tunnel]\n", '[client.tunnel]\nroutes = ["192.168.10.0/24"]\n')
    bond.configs.server.write_text(routed + '\n[hooks]\nup = ["/no/such/hook"]\n')
    squatter = (
        "import socket, sys; s = socket.socket(2, 2); s.bind(('0.0.0.0', 1189)); "
        "print(flush=True); sys.stdin.read()"
    )
    with bond.lab.popen("srv", ["python3", "-c", squatter], stdin=-1, stdout=-1) as other:
        other.stdout.readline()
        code, report = doctor(bond, end="server")
        assert code == 1
        found = wrong(report)
        assert found["listen", "0.0.0.0:1189"]["mend"] == "ss -ulpn 'sport = :1189'"
        mend = "sysctl -w net.ipv4.ip_forward=1  # or tunnel.forward = true"
        assert found["forwarding", "net.ipv4.ip_forward"]["mend"] == mend
        assert found["hook", "up"]["mend"] == "ls -l /no/such/hook"
        other.stdin.close()
    bond.configs.server.write_text(text)
