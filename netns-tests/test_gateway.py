"""A gateway and a server that route for others: forwarding, masquerade, TCP's segments; and nothing is left.

    pc 192.168.7.2 --- lan0 gw bond0 ===+== eth1 10.1.0.2/24 == r1 ==+== office0 srv inet --- inet r3
                       192.168.7.1      +== eth2 10.2.0.2/24 == r2 ==+           203.0.113.201   198.51.100.80

    bond0    172.21.1.2/30, fd21::2/127, MTU 1400
    office0  172.21.1.1/30, fd21::3/127, MTU 1400

r3 is the Internet: it has no routes but to srv's 203.0.113.201. gw and srv forward nothing before. The PC is
the lab's `wire`.
"""

import contextlib
import json
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from internet import HOST, HOST6, Internet
from observe import control_socket, eventually, settled_state, status, system_state
from premises import Premises, await_active, configure

from bondvpn.lab import namespace
from bondvpn.lab.tunnel import BONDVPN, Tunnel
from bondvpn.ui import control

pytestmark = pytest.mark.netns

SETTLE_S = 30.0  # on a busy machine
MTU = 1400
SEGMENT, SEGMENT_OF_ETHERNET = MTU - 52, 1500 - 52  # IPv4, TCP, timestamps (RFC 7323)
OUTSIDE, INSIDE, PC = "203.0.113.201", "172.21.1.2", "192.168.7.2"
UPLINKS = "".join(
    f'[[uplink]]\nname = "eth{i}"\ninterface = "eth{i}"\ngateway = "10.{i}.0.1"\n' for i in (1, 2)
)
ROUTER_ADVERTISEMENT = 134  # RFC 4861 section 4.2


class Place(NamedTuple):
    premises: Premises
    internet: Internet
    directory: Path

    def tunnel(self, client: str, server: str, program: Any = None, **settings: Any) -> Tunnel:
        """Both ends, not started; `client` and `server` are lines for their tunnels' tables."""
        own = {"mtu": MTU, "default_route": True} | settings
        configs = configure(self.premises, self.directory, UPLINKS, **own)
        for file, table, one, other, further in (
            (configs.client, "[tunnel]", "172.21.1.2/30", "fd21::2/127", client),
            (configs.server, "[client.tunnel]", "172.21.1.1/30", "fd21::3/127", server),
        ):
            text = file.read_text().replace(f'"{one}"', f'"{one}", "{other}"')
            file.write_text(text.replace(f"{table}\n", f"{table}\n{further}\n", 1))
        return Tunnel(self.premises, configs, wait_s=SETTLE_S, program=program or (lambda _end: BONDVPN))

    def start(self, tunnel: Tunnel) -> None:
        tunnel.start("server")
        eventually(lambda: status(tunnel, "server"), SETTLE_S, "the server has started")
        tunnel.start("client")
        await_active(tunnel, "eth1", "eth2", within_s=SETTLE_S)


@pytest.fixture
def place(premises_with: Callable[[int], Premises], tmp_path: Path) -> Iterator[Place]:
    premises = premises_with(3)
    for i in (1, 2):
        premises.join("gw", f"eth{i}", f"r{i}", "lan", f"10.{i}.0.2/24", f"10.{i}.0.1/24")
        premises.provider(i, f"10.{i}.0.0/24")
    premises.join("gw", "lan0", "wire", "lan0", "192.168.7.1/24", f"{PC}/24")
    premises.ip("wire", "route add default via 192.168.7.1")
    premises.join("srv", "inet", "r3", "inet", f"{OUTSIDE}/30", "203.0.113.202/30", "2001:db8:9::1/64",
                  "2001:db8:9::2/64")  # fmt: skip
    premises.ip("srv", f"route add {HOST} via 203.0.113.202", f"route add {HOST6} via 2001:db8:9::2")
    for where in ("gw", "srv"):
        namespace.sysctl(premises.namespace(where), {"ipv4/ip_forward": "0"})
    with Internet(premises, "r3") as internet:
        yield Place(premises, internet, tmp_path / "etc")


def forwards(premises: Premises, where: str) -> tuple[str, str]:
    with namespace.entered(premises.namespace(where)):
        return tuple(
            Path("/proc/sys/net", path).read_text().strip()
            for path in ("ipv4/ip_forward", "ipv6/conf/all/forwarding")
        )  # type: ignore[return-value]


def rules(premises: Premises, where: str) -> list[dict[str, Any]]:
    """Of all tables there."""
    listed = premises.run(where, ["nft", "-j", "list", "ruleset"], check=True, capture_output=True, text=True)
    return [one["rule"] for one in json.loads(listed.stdout)["nftables"] if "rule" in one]


def counted(premises: Premises, where: str) -> int:
    """Packets that the rules of the chain `forward` have seen."""
    return sum(
        part["counter"]["packets"]
        for rule in rules(premises, where)
        for part in rule["expr"]
        if rule["chain"] == "forward" and "counter" in part
    )


def reload(tunnel: Tunnel, end: str) -> dict[str, Any]:
    return control.ask(control_socket(tunnel, end), "reload", SETTLE_S) or {}


BOTH = "forward = true\nmasquerade = true"


def test_a_pc_reaches_the_internet(place: Place) -> None:
    premises = place.premises
    tunnel = place.tunnel(BOTH, BOTH)
    with tunnel:
        for where in ("gw", "srv"):
            assert forwards(premises, where) == ("1", "1")
        await_active(tunnel, "eth1", "eth2", within_s=SETTLE_S)
        assert place.internet.sees("wire", segment_max=True) == f"{OUTSIDE} {SEGMENT}"
        assert place.internet.sees("gw") == OUTSIDE
        assert place.internet.sees("gw", HOST6) == "2001:db8:9::1"
        for where in ("gw", "srv"):
            assert counted(premises, where) > 4
        shown = status(tunnel, "client")["machine"]
        assert (shown["forward"], shown["nftables"]) == ([4, 6], ["bondvpn_bond0"])
        assert status(tunnel, "server")["machine"]["nftables"] == ["bondvpn_server"]
        told = tunnel.command("client", "status").stdout
        assert "forwards IPv4 and IPv6  ·  nftables bondvpn_bond0" in told


def test_nothing_unless_asked(place: Place) -> None:
    premises = place.premises
    tunnel = place.tunnel("", "", mtu=1500)
    with tunnel:
        await_active(tunnel, "eth1", "eth2", within_s=SETTLE_S)
        for where in ("gw", "srv"):
            assert forwards(premises, where) == ("0", "0")
            assert rules(premises, where) == []
        assert place.internet.sees("wire", timeout_s=0.5) == ""


@pytest.mark.parametrize(
    ("client", "server", "seen"),
    [
        ("masquerade = true\nforward = true", "forward = true", INSIDE),
        ("forward = true", 'forward = true\nroutes = ["192.168.7.0/24"]', PC),
        ("forward = true", f'{BOTH}\nroutes = ["192.168.7.0/24"]', OUTSIDE),
    ],
    ids=["client", "nobody", "server"],
)
def test_who_masquerades(place: Place, client: str, server: str, seen: str) -> None:
    place.premises.ip("r3", "route add default via 203.0.113.201")
    with place.tunnel(client, server) as tunnel:
        await_active(tunnel, "eth1", "eth2", within_s=SETTLE_S)
        assert place.internet.sees("wire") == seen


def test_segments_alone(place: Place) -> None:
    """On a gateway that forwards anyway: a narrow tunnel is told of, unless that is not wanted."""
    premises = place.premises
    premises.ip("r3", "route add default via 203.0.113.201")
    for where in ("gw", "srv"):
        namespace.sysctl(premises.namespace(where), {"ipv4/ip_forward": "1"})
    tunnel = place.tunnel("", 'clamp_mss = false\nroutes = ["192.168.7.0/24"]')
    with tunnel:
        await_active(tunnel, "eth1", "eth2", within_s=SETTLE_S)
        assert place.internet.sees("wire", segment_max=True) == f"{PC} {SEGMENT}"
        assert rules(premises, "srv") == []
        file = place.directory / "client.toml"
        file.write_text(file.read_text().replace("[tunnel]\n", "[tunnel]\nclamp_mss = false\n"))
        assert reload(tunnel, "client")["applied"] == ["tunnel.clamp_mss"]
        assert rules(premises, "gw") == []
        assert place.internet.sees("wire", segment_max=True) == f"{PC} {SEGMENT_OF_ETHERNET}"


@pytest.mark.parametrize("workers", [1, 2])
def test_who_flushes_the_packet_filter_does_not_cut_the_office_off(place: Place, workers: int) -> None:
    premises = place.premises
    tunnel = place.tunnel(BOTH, BOTH, workers=workers, clients=workers)
    if workers == 2:  # the second one has no lines of its own to test by
        file = place.directory / "server.toml"
        file.write_text(file.read_text().replace('"office1"', '"office1"\nmasquerade = true'))
    with tunnel:
        await_active(tunnel, "eth1", "eth2", within_s=SETTLE_S)
        for where, delete in (
            ("gw", "flush ruleset"),
            ("srv", "flush ruleset"),
            ("gw", "delete table inet bondvpn_bond0"),
            ("srv", "flush chain inet bondvpn_server postrouting"),
        ):
            before = len(rules(premises, where))
            assert before > 0
            started = time.monotonic()
            premises.nft(where, delete)
            eventually(
                lambda where=where, before=before: len(rules(premises, where)) == before,
                5,
                f"{delete} is undone",
            )
            print(f"{where} {delete}: mended after {time.monotonic() - started:.2f} s")
            assert place.internet.sees("wire") == OUTSIDE
        assert "was changed by somebody: made anew" in tunnel.client_log
        # What is others' is theirs.
        premises.nft("gw", "add table inet mine; delete table inet mine")
        quiet = tunnel.client_log.count("made anew")
        time.sleep(0.5)
        assert tunnel.client_log.count("made anew") == quiet


def test_a_reload_applies(place: Place) -> None:
    premises = place.premises
    premises.ip("r3", "route add default via 203.0.113.201")
    tunnel = place.tunnel("", 'routes = ["192.168.7.0/24"]', mtu=1500)
    with tunnel:
        await_active(tunnel, "eth1", "eth2", within_s=SETTLE_S)
        assert place.internet.sees("wire", timeout_s=0.5) == ""
        for end, table in (("client", "[tunnel]\n"), ("server", "[client.tunnel]\n")):
            file = place.directory / f"{end}.toml"
            file.write_text(file.read_text().replace(table, f"{table}forward = true\n"))
            assert reload(tunnel, end)["faults"] == []
        assert place.internet.sees("wire") == PC
        file = place.directory / "server.toml"
        file.write_text(file.read_text().replace("forward = true\n", "forward = true\nmasquerade = true\n"))
        assert reload(tunnel, "server")["applied"] == ["client office: tunnel.masquerade"]
        assert place.internet.sees("wire") == OUTSIDE
        for end in ("client", "server"):
            file = place.directory / f"{end}.toml"
            text = file.read_text().replace("forward = true\n", "").replace("masquerade = true\n", "")
            file.write_text(text)
            assert reload(tunnel, end)["faults"] == []
        for where in ("gw", "srv"):
            assert forwards(premises, where) == ("0", "0")
            assert rules(premises, where) == []


@pytest.mark.parametrize("end", ["SIGTERM", "down", "next start"])
def test_nothing_is_left(place: Place, end: str) -> None:
    """Forwarding on one interface only, and no redirects: what switching ip_forward on and off would lose."""
    premises = place.premises
    for where, interface in (("gw", "lan0"), ("srv", "inet")):
        own = {f"ipv{version}/conf/{interface}/forwarding": "1" for version in (4, 6)}
        namespace.sysctl(premises.namespace(where), own | {"ipv4/conf/all/accept_redirects": "0"})
    before = {where: settled_state(premises, where) for where in ("gw", "srv")}
    tunnel = place.tunnel(BOTH, BOTH)
    ends = ("client", "server")
    with contextlib.ExitStack() as stack:
        stack.callback(tunnel.__exit__)
        place.start(tunnel)
        for where in ("gw", "srv"):
            assert system_state(premises, where)["nft"] != before[where]["nft"]
            assert forwards(premises, where) == ("1", "1")
        if end != "SIGTERM":
            for one in ends:
                tunnel.stop(one, with_signal=signal.SIGKILL)
            assert forwards(premises, "gw") == ("1", "1")
        if end == "next start":
            place.start(tunnel)
        for one in ends:
            if end == "down":
                done = tunnel.command(one, "down")
                assert (done.returncode, done.stderr) == (0, "")
            else:
                assert tunnel.stop(one) == 0
        assert {where: system_state(premises, where) for where in ("gw", "srv")} == before


def test_a_default_route_by_router_advertisement_outlives_forwarding(place: Place) -> None:
    premises = place.premises
    with namespace.entered(premises.namespace("r1")):
        router = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
        router.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        lan = socket.if_nametoindex("lan")
    advertisement = struct.pack("!BBHBBHII", ROUTER_ADVERTISEMENT, 0, 0, 64, 0, 1800, 0, 0)

    def has_route() -> bool:
        return "proto ra" in premises.ip("gw", "-6 route show default")

    def advertise() -> bool:
        with contextlib.suppress(OSError):  # its own address is not settled yet
            router.sendto(advertisement, ("ff02::1", 0, 0, lan))
        time.sleep(0.05)
        return has_route()

    with router:
        eventually(advertise, 5, "a default route by the advertisement")
        before = settled_state(premises, "gw")["sysctl"]
        tunnel = place.tunnel("forward = true", "")
        with tunnel:
            await_active(tunnel, "eth1", "eth2", within_s=SETTLE_S)
            assert forwards(premises, "gw")[1] == "1"
            assert has_route()
            premises.ip("gw", "-6 route flush default")
            premises.ip("gw", "link set eth2 down")  # a look at the machine meanwhile
            premises.ip("gw", "link set eth2 up")
            await_active(tunnel, "eth1", "eth2", within_s=SETTLE_S)
            eventually(advertise, 5, "it still listens")
        assert system_state(premises, "gw")["sysctl"] == before


def test_without_nft(place: Place) -> None:
    """Asked for: refused. Only good for a narrow tunnel: a warning."""

    def without(_end: str) -> tuple[str, ...]:
        return ("env", "PATH=/nowhere", *BONDVPN)

    tunnel = place.tunnel("masquerade = true", "masquerade = true", without)
    before = {where: settled_state(place.premises, where) for where in ("gw", "srv")}
    with contextlib.ExitStack() as stack:
        stack.callback(tunnel.__exit__)
        for end in ("server", "client"):
            tunnel.start(end)
            assert tunnel.ends[end].wait(SETTLE_S) == 1
        for log in (tunnel.client_log, tunnel.server_log):
            assert log == "there is no nft (apt-get install nftables)\n"
        assert {where: system_state(place.premises, where) for where in ("gw", "srv")} == before


def test_without_nft_a_narrow_tunnel_works(place: Place) -> None:
    def without(_end: str) -> tuple[str, ...]:
        return ("env", "PATH=/nowhere", *BONDVPN)

    with place.tunnel("", "", without) as tunnel:
        await_active(tunnel, "eth1", "eth2", within_s=SETTLE_S)
        warning = "there is no nft (apt-get install nftables): TCP is not told how narrow the tunnel is"
        for log in (tunnel.client_log, tunnel.server_log):
            assert log.count(warning) == 1
