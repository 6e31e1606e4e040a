"""What a reload applies and what it leaves to a restart."""

from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path

from bondvpn.config import Client, ClientConfig, Hooks, Route, Server, ServerConfig, Tunnel, Uplink
from bondvpn.runtime.reload import client_changes, server_changes
from bondvpn.values import Endpoint

TUNNEL = Tunnel(interface="bond0", address=(ip_interface("172.21.1.2/30"),))
DSL, LTE = Uplink(name="dsl", interface="ppp0"), Uplink(name="lte", interface="wwan0", tier=1)
CLIENT = ClientConfig(
    path=Path("client.toml"),
    private_key=bytes(32),
    tunnel=TUNNEL,
    server=Server(public_key=bytes(32), endpoints=(Endpoint("198.51.100.1", 1189),)),
    uplinks=(DSL, LTE),
)
ROUTE = Route(ip_network("10.0.0.0/8"), ip_address("172.21.1.1"))
SERVER = ServerConfig(
    path=Path("server.toml"),
    private_key=bytes(32),
    listen=(Endpoint("0.0.0.0", 1189),),
    clients=(
        Client(name="office", public_key=bytes(32), tunnel=TUNNEL),
        Client(name="van", public_key=bytes(31) + b"x", tunnel=replace(TUNNEL, interface="van0")),
    ),
)


def test_nothing() -> None:
    assert client_changes(CLIENT, replace(CLIENT, path=Path("elsewhere"))) == (
        CLIENT,
        {"applied": [], "restart": [], "faults": []},
    )


def test_uplinks_endpoints_routes_and_hooks_change_while_a_client_runs() -> None:
    new = replace(
        CLIENT,
        uplinks=(replace(DSL, up_bps=500_000, interface="ppp1"), Uplink(name="cable", interface="eth1")),
        server=replace(CLIENT.server, endpoints=(Endpoint("root", 1189),)),
        tunnel=replace(TUNNEL, routes=(ROUTE,)),
        hooks=Hooks(up=("/bin/true",), timeout_s=1.0),
    )
    runs, reply = client_changes(CLIENT, new)
    assert runs == new
    assert reply["restart"] == []
    assert set(reply["applied"]) == {
        "uplink dsl: interface, up", "uplink lte: removed", "uplink cable: added",
        "server.endpoints", "tunnel.routes", "hooks.up", "hooks.timeout",
    }  # fmt: skip


def test_what_stands_outside_of_the_device_changes_while_it_runs() -> None:
    changed = replace(
        TUNNEL,
        peer=(ip_address("172.21.1.1"),),
        default_route=True,
        kill_switch=True,
        dns=(ip_address("172.21.1.1"),),
        dns_search=("office.example",),
        forward=True,
        masquerade=True,
        clamp_mss=True,
    )
    keys = {
        "tunnel.default_route", "tunnel.kill_switch", "tunnel.dns", "tunnel.dns_search", "tunnel.forward",
        "tunnel.masquerade", "tunnel.clamp_mss", "tunnel.peer",
    }  # fmt: skip
    runs, reply = client_changes(CLIENT, replace(CLIENT, tunnel=changed))
    assert (runs.tunnel, set(reply["applied"]), reply["restart"]) == (changed, keys, [])
    office, van = SERVER.clients
    new = replace(SERVER, clients=(replace(office, tunnel=replace(TUNNEL, masquerade=True)), van))
    served, reply = server_changes(SERVER, new)
    assert (served, reply["applied"], reply["restart"]) == (new, ["client office: tunnel.masquerade"], [])


def test_what_takes_a_restart_is_named_until_it_was_had() -> None:
    new = replace(
        CLIENT,
        private_key=b"k" * 32,
        tunnel=replace(TUNNEL, mtu=1400, scheduler="backup", routes=(ROUTE,)),
        server=replace(CLIENT.server, preshared_key=b"p" * 32),
    )
    runs, reply = client_changes(CLIENT, new)
    assert reply["applied"] == ["tunnel.routes"]
    wanted = {"private_key_file", "tunnel.mtu", "tunnel.scheduler", "server.preshared_key_file"}
    assert set(reply["restart"]) == wanted
    assert runs == replace(CLIENT, tunnel=replace(TUNNEL, routes=(ROUTE,)))
    _, again = client_changes(runs, new)
    assert (again["applied"], set(again["restart"])) == ([], wanted)
    assert "k" * 32 not in str(reply)  # secrets are not told


def test_routes_and_hooks_change_while_a_server_runs() -> None:
    office, van = SERVER.clients
    new = replace(
        SERVER,
        listen=(Endpoint("0.0.0.0", 1190),),
        workers=4,
        clients=(
            replace(office, tunnel=replace(TUNNEL, routes=(ROUTE,), mtu=1400)),
            Client(name="farm", public_key=b"f" * 32, tunnel=replace(TUNNEL, interface="farm0")),
        ),
        hooks=Hooks(down=("/bin/true",)),
    )
    runs, reply = server_changes(SERVER, new)
    assert set(reply["applied"]) == {"hooks.down", "client office: tunnel.routes"}
    assert set(reply["restart"]) == {
        "listen", "workers", "client office: tunnel.mtu", "client van: removed", "client farm: added",
    }  # fmt: skip
    assert runs.clients == (replace(office, tunnel=replace(TUNNEL, routes=(ROUTE,))), van)
    assert (runs.listen, runs.hooks) == (SERVER.listen, new.hooks)
