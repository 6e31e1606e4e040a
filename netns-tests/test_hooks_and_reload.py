"""Commands run at events, and configuration files read anew, while a tunnel carries.

10.64.1.2  a  === 50 Mbit/s, 10 ms === a  10.64.1.1
gw bond0 172.21.1.2                                         srv office0 172.21.1.1
10.64.2.2  b  === 50 Mbit/s, 10 ms === b  10.64.2.1         lo 198.51.100.1
"""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from observe import all_active, control_socket, eventually, ip, links

from bondvpn.lab import measure
from bondvpn.lab.shape import twins
from bondvpn.lab.tunnel import PEER_ADDRESS
from bondvpn.ui import control

pytestmark = pytest.mark.netns

SETTLE_S = 10.0
NOTE = 'echo "$BONDVPN_ROLE $BONDVPN_TUNNEL $BONDVPN_INTERFACE $BONDVPN_EVENT $BONDVPN_LINK" >> "$0"'


def hooks(noted: Path, *events: str) -> str:
    command = ", ".join(f"'{word}'" for word in ("/bin/sh", "-c", NOTE.replace("'", ""), str(noted)))
    return "\n[hooks]\n" + "".join(f"{event} = [{command}]\n" for event in events)


ALL = ("up", "down", "link_up", "link_down")


@pytest.fixture
def bond(bond_over: Callable[..., Any], tmp_path: Path) -> Any:
    """Both ends note every event."""

    def prepare(bond: Any) -> None:
        for file, noted in ((bond.configs.client, "gw"), (bond.configs.server, "srv")):
            file.write_text(file.read_text() + hooks(tmp_path / noted, *ALL))

    bond = bond_over(twins(), prepare=prepare)
    eventually(lambda: all_active(bond.tunnel, bond.lab), SETTLE_S, "both lines are used")
    return bond


def noted(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def reload(bond: Any, end: str) -> dict[str, Any]:
    return control.ask(control_socket(bond.tunnel, end), "reload", 10.0) or {}


def carries(bond: Any) -> bool:
    return len(measure.ping(bond.lab, PEER_ADDRESS, count=5, interval_s=0.02)) == 5


def test_events_run_commands_at_both_ends(bond: Any, tmp_path: Path) -> None:
    gw, srv = tmp_path / "gw", tmp_path / "srv"
    for path, who in ((gw, "client bond0 bond0"), (srv, "server office office0")):
        told = eventually(lambda path=path: len(noted(path)) >= 3 and noted(path), SETTLE_S)
        assert sorted(told) == sorted([f"{who} up ", f"{who} link_up a", f"{who} link_up b"])
        assert told[1] == f"{who} up "  # as soon as the first link is there
    bond.lab.cut("a")
    for path, who in ((gw, "client bond0 bond0"), (srv, "server office office0")):
        eventually(lambda path=path, who=who: noted(path)[3:] == [f"{who} link_down a"], SETTLE_S)
    bond.lab.restore("a")
    eventually(lambda: noted(gw)[4:] == ["client bond0 bond0 link_up a"], SETTLE_S)
    bond.tunnel.stop("client")
    assert noted(gw)[-1] == "client bond0 bond0 down "
    assert {"client bond0 bond0 link_down a", "client bond0 bond0 link_down b"} <= set(noted(gw)[-3:])
    eventually(lambda: noted(srv)[-1:] == ["server office office0 down "], SETTLE_S)


def test_a_reload_applies_what_it_can_and_names_the_rest(bond: Any, tmp_path: Path) -> None:
    file = bond.configs.client
    good = file.read_text()
    assert reload(bond, "client") == {"applied": [], "restart": [], "faults": []}

    # A bad file changes nothing.
    file.write_text(good.replace('scheduler = "weighted"', 'scheduler = "fastest"'))
    told = bond.tunnel.command("client", "reload")
    assert (told.returncode, told.stdout) == (2, "bond0: nothing changed\n")
    assert 'tunnel.scheduler = "fastest"' in told.stderr
    assert carries(bond)

    # Speeds, a tier, routes, hooks; the scheduler takes a restart.
    changed = (
        good.replace('up = "50000kbit"', 'up = "20mbit"\ntier = 1', 1)
        .replace('scheduler = "weighted"', 'scheduler = "adaptive"')
        .replace("mtu = 1500", 'mtu = 1500\nroutes = ["10.99.0.0/16"]')
    )
    assert changed.count("tier = 1") == changed.count("10.99.0.0/16") == 1
    file.write_text(changed.partition("[hooks]")[0] + hooks(tmp_path / "anew", "link_down"))
    told = bond.tunnel.command("client", "reload")
    assert told.returncode == 0, told.stderr
    lines = told.stdout.splitlines()
    assert "bond0: applied uplink a: up, tier" in lines
    assert "bond0: applied tunnel.routes" in lines
    assert "bond0: needs a restart: tunnel.scheduler" in lines
    assert "10.99.0.0/16 via 172.21.1.1 dev bond0 proto 118" in ip(bond.lab, "gw", "route")
    eventually(lambda: all_active(bond.tunnel, bond.lab), SETTLE_S, "a has joined again")
    for end in ("client", "server"):
        assert links(bond.tunnel, end)["a"]["tier"] == 1  # the server was told
    assert links(bond.tunnel, "client")["a"]["up_bps"] == 20_000_000
    assert carries(bond)

    # An uplink goes and comes; the other one carries on.
    only = changed[: changed.index("[[uplink]]")] + changed[changed.rindex("[[uplink]]") :]
    file.write_text(only)
    assert "uplink a: removed" in reload(bond, "client")["applied"]
    assert set(links(bond.tunnel, "client")) == {"b"}
    assert carries(bond)
    assert "link_down a" in eventually(lambda: noted(tmp_path / "anew")[-1:], SETTLE_S)[0]
    file.write_text(good)
    os.kill(bond.tunnel.ends["client"].pid, signal.SIGHUP)
    eventually(lambda: all_active(bond.tunnel, bond.lab), SETTLE_S, "a is back")
    assert "SIGHUP: reloaded: " in bond.tunnel.client_log
    assert "10.99.0.0/16" not in ip(bond.lab, "gw", "route")
    assert carries(bond)
    assert "Traceback" not in bond.tunnel.client_log


def test_a_servers_workers_get_new_hooks_and_routes(bond_over: Callable[..., Any], tmp_path: Path) -> None:
    bond = bond_over(twins(), clients=2, workers=2)
    eventually(lambda: all_active(bond.tunnel, bond.lab), SETTLE_S, "both lines are used")
    file = bond.configs.server
    file.write_text(file.read_text() + hooks(tmp_path / "srv", "link_down"))
    assert reload(bond, "server") == {"applied": ["hooks.link_down"], "restart": [], "faults": []}
    text = file.read_text().replace("[client.tunnel]\n", '[client.tunnel]\nroutes = ["10.98.0.0/16"]\n', 1)
    file.write_text(text.replace("workers = 2", "workers = 3"))
    assert reload(bond, "server") == {
        "applied": ["client office: tunnel.routes"],
        "restart": ["workers"],
        "faults": [],
    }
    assert "10.98.0.0/16 via 172.21.1.2 dev office0 proto 118" in ip(bond.lab, "srv", "route")
    bond.lab.cut("a")
    eventually(lambda: noted(tmp_path / "srv") == ["server office office0 link_down a"], SETTLE_S)
    os.kill(bond.tunnel.ends["server"].pid, signal.SIGHUP)
    eventually(lambda: "SIGHUP: needs a restart: workers" in bond.tunnel.server_log, SETTLE_S)
    assert bond.tunnel.ends["server"].poll() is None


def test_a_command_that_hangs_delays_no_packet(bond_over: Callable[..., Any]) -> None:
    def prepare(bond: Any) -> None:
        file = bond.configs.client
        slow = '["/bin/sh", "-c", "sleep 600"]'
        file.write_text(file.read_text() + f'\n[hooks]\nup = {slow}\ntimeout = "700ms"\n')

    bond = bond_over(twins(), prepare=prepare)
    assert carries(bond)
    eventually(lambda: "hook up: /bin/sh: killed after 0.7 s" in bond.tunnel.client_log, SETTLE_S)
    assert bond.tunnel.stop("client") == 0
