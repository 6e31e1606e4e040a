"""The kill switch: nothing but the tunnel's own datagrams and what is local leaves by the lines, ever.

                                               +-- eth1 10.1.0.2/24, 2001:db8:1::2/64 --- r1 --+
    pc 192.168.7.2 --- lan0 192.168.7.1 gw ----+                                               +--- srv
                                    bond0      +-- eth2 10.2.0.2/24 -------------------- r2 --+   office0

    bond0 172.21.1.2/30, office0 172.21.1.1/30: no IPv6 inside           lo of srv   198.51.100.1
    "the Internet", by every line too: 198.51.100.80, 2001:db8:80::1

gw forwards. Meanwhile somebody on gw and somebody on the PC send to the Internet without a pause, in both
families.
"""

import contextlib
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Self

import pytest
from internet import HOST, HOST6, Internet, dual_stack_office
from observe import control_socket, eventually, settled_state, status, system_state
from premises import Premises, await_active, configure

from bondvpn.lab import namespace
from bondvpn.lab.measure import ping
from bondvpn.lab.topology import SERVER_ADDRESS
from bondvpn.lab.tunnel import BONDVPN, PORT, Tunnel
from bondvpn.ui import control

pytestmark = pytest.mark.netns

SETTLE_S = 30.0  # on a busy machine
INSIDE = "172.21.1.2"
LINES = ("eth1", "eth2")
UPLINKS = "".join(f'[[uplink]]\nname = "{line}"\ninterface = "{line}"\n' for line in LINES)
EVERY_S = 0.002
SO_RCVBUFFORCE, SO_MARK = 33, 36  # asm-generic/socket.h
ETH_P_ALL = 0x0003
DISCARD = 9  # RFC 863


class Place(NamedTuple):
    premises: Premises
    internet: Internet
    directory: Path

    def tunnel(
        self, program: Callable[[str], Sequence[str]] = lambda _end: BONDVPN, **settings: object
    ) -> Tunnel:
        own = {"default_route": True, "kill_switch": True, "masquerade": True} | settings
        configs = configure(self.premises, self.directory, UPLINKS, **own)
        return Tunnel(self.premises, configs, wait_s=SETTLE_S, program=program)


@pytest.fixture
def place(premises_with: Callable[[int], Premises], tmp_path: Path) -> Iterator[Place]:
    premises = premises_with(2)
    dual_stack_office(premises)
    for i in (1, 2):
        premises.ip(f"r{i}", f"route add 192.168.7.0/24 via 10.{i}.0.2")
    premises.ip("srv", "route add 192.168.7.0/24 via 203.0.113.10")
    premises.ip("wire", "route add default via 192.168.7.1")
    namespace.sysctl(premises.namespace("gw"), {"ipv4/ip_forward": "1"})
    with Internet(premises) as internet:
        yield Place(premises, internet, tmp_path / "etc")


class Senders:
    """UDP to the Internet from gw, in both families, and from the PC, without a pause while entered."""

    def __init__(self, premises: Premises) -> None:
        self._sockets = []
        for where, family, host in (
            ("gw", socket.AF_INET, HOST),
            ("gw", socket.AF_INET6, HOST6),
            ("wire", socket.AF_INET, HOST),
        ):
            with namespace.entered(premises.namespace(where)):
                sender = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
            self._sockets.append((sender, (host, DISCARD)))
        self._stopping = False
        self._thread = threading.Thread(target=self._send, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping = True
        self._thread.join(5)
        for sender, _ in self._sockets:
            sender.close()

    def _send(self) -> None:
        while not self._stopping:
            for sender, address in self._sockets:
                with contextlib.suppress(OSError):  # refused, as it should be
                    sender.sendto(b"leak", address)
            time.sleep(EVERY_S)


class Lines:
    """What leaves gw by the lines, but for the tunnel's own datagrams to the server and what is local."""

    def __init__(self, premises: Premises) -> None:
        self._sockets = []
        for line in LINES:
            with namespace.entered(premises.namespace("gw")):
                # Protocol 0 until it is bound: a packet socket with one hears every interface until then.
                one = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
            one.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 16 << 20)
            one.bind((line, ETH_P_ALL))
            one.setblocking(False)
            self._sockets.append(one)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for one in self._sockets:
            one.close()

    def leaks(self) -> list[str]:
        """Targets of what leaked since the last call."""
        found = []
        for one in self._sockets:
            with contextlib.suppress(BlockingIOError):
                while True:
                    packet, address = one.recvfrom(65536)
                    if address[2] == socket.PACKET_OUTGOING and (target := _target(packet)):
                        found.append(target)
        return found


def _target(packet: bytes) -> str:
    """Where it goes to; "" if it may."""
    if packet[0] >> 4 == 4 and len(packet) >= 28:
        target = socket.inet_ntop(socket.AF_INET, packet[16:20])
        own = target == SERVER_ADDRESS and struct.unpack_from("!H", packet, 22)[0] == PORT
        return "" if own or target.startswith(("10.", "224.0.0.")) else target
    if packet[0] >> 4 == 6 and len(packet) >= 40:
        target = socket.inet_ntop(socket.AF_INET6, packet[24:40])
        return "" if target.startswith(("fe80:", "ff02:")) else target
    return ""  # ARP


def answers(premises: Premises, where: str, address: str) -> bool:
    return bool(ping(premises, address, where=where, count=1))


def test_nothing_leaves_whatever_happens(place: Place) -> None:
    premises, internet = place.premises, place.internet
    assert internet.sees("gw", HOST6) == "2001:db8:1::2"
    before = settled_state(premises, "gw")
    tunnel = place.tunnel()
    with Lines(premises) as lines, Senders(premises), tunnel:
        await_active(tunnel, *LINES, within_s=SETTLE_S)
        assert lines.leaks()  # until it was up; else this test sees nothing
        # Up: all through the tunnel, what is local direct, no IPv6 beside it.
        assert (internet.sees("gw"), internet.sees("wire")) == (INSIDE, INSIDE)
        assert internet.sees("gw", HOST6, timeout_s=1) == ""
        for local in ("192.168.7.2", "10.1.0.1", "10.2.0.1", "127.0.0.1", "172.21.1.1"):
            assert answers(premises, "gw", local), local
        assert answers(premises, "wire", "10.1.0.1")
        assert answers(premises, "wire", "192.168.7.1")
        assert status(tunnel, "client")["machine"]["kill_switch"] is True
        assert "kill switch on" in tunnel.command("client", "status").stdout
        assert lines.leaks() == []

        # The server has gone.
        tunnel.stop("server")
        eventually(lambda: status(tunnel, "client")["tunnels"][0]["state"] != "up", SETTLE_S, "down")
        assert internet.sees("gw", timeout_s=1) == ""
        assert lines.leaks() == []

        # Somebody throws the packet filter away: it is back in a moment.
        premises.nft("gw", "flush ruleset")
        eventually(lambda: "reject" in system_state(premises, "gw")["nft"], 2, "it is back")
        lines.leaks()
        assert internet.sees("gw", timeout_s=1) == ""
        assert lines.leaks() == []

        # The client is killed, and started anew: it stands all the time.
        tunnel.stop("client", with_signal=signal.SIGKILL)
        assert internet.sees("gw", timeout_s=1) == ""
        assert answers(premises, "gw", "192.168.7.2")
        tunnel.start("server")
        tunnel.start("client")
        await_active(tunnel, *LINES, within_s=SETTLE_S)
        assert internet.sees("gw") == INSIDE
        assert lines.leaks() == []

        # Who ends it lifts it.
        assert tunnel.stop("client") == 0
        assert system_state(premises, "gw") == before
        assert (internet.sees("gw"), internet.sees("gw", HOST6)) == ("10.1.0.2", "2001:db8:1::2")


def test_down_lifts_it_after_a_kill(place: Place) -> None:
    premises = place.premises
    before = settled_state(premises, "gw")
    with place.tunnel() as tunnel:
        await_active(tunnel, *LINES, within_s=SETTLE_S)
        tunnel.stop("client", with_signal=signal.SIGKILL)
        assert place.internet.sees("gw", timeout_s=1) == ""
        done = tunnel.command("client", "down")
        assert (done.returncode, done.stderr) == (0, "")
        assert system_state(premises, "gw") == before
        assert place.internet.sees("gw") == "10.1.0.2"


def test_a_start_that_fails_does_not_lift_it(place: Place) -> None:
    """Without nft, which could not lift it; and with another device in the way, which could."""
    premises = place.premises
    path = [os.environ["PATH"]]
    with place.tunnel(program=lambda _end: ("env", f"PATH={path[0]}", *BONDVPN)) as tunnel:
        await_active(tunnel, *LINES, within_s=SETTLE_S)
        tunnel.stop("client", with_signal=signal.SIGKILL)
        path[0] = "/nowhere"
        tunnel.start("client")
        assert tunnel.ends.pop("client").wait(SETTLE_S) == 1
        assert "there is no nft" in tunnel.client_log
        assert place.internet.sees("gw", timeout_s=1) == ""
        path[0] = os.environ["PATH"]
        premises.ip("gw", "link add bond0 type veth peer name other0")
        tunnel.start("client")
        assert tunnel.ends.pop("client").wait(SETTLE_S) == 1
        assert place.internet.sees("gw", timeout_s=1) == ""
        assert "reject" in system_state(premises, "gw")["nft"]
        # Started without it, it goes.
        premises.ip("gw", "link delete bond0")
        file = place.directory / "client.toml"
        file.write_text(file.read_text().replace("kill_switch = true", "kill_switch = false"))
        tunnel.start("client")
        await_active(tunnel, *LINES, within_s=SETTLE_S)
        assert "reject" not in system_state(premises, "gw")["nft"]
        assert place.internet.sees("gw", HOST6) == "2001:db8:1::2"


def test_what_is_needed_to_have_lines_passes(place: Place) -> None:
    """DHCP, and another uplink that comes; an address that claims the Internet to be local does not."""
    premises = place.premises
    with place.tunnel() as tunnel, Lines(premises) as lines:
        await_active(tunnel, *LINES, within_s=SETTLE_S)
        with namespace.entered(premises.namespace("gw")):
            dhcp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            dhcp.bind(("10.1.0.2", 68))
            dhcp6 = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
            dhcp6.bind(("2001:db8:1::2", 546))
        with dhcp, dhcp6:
            dhcp.sendto(b"renew", (HOST, 67))  # a server beyond a relay
            dhcp6.sendto(b"renew", (HOST6, 547))
        assert lines.leaks() == [HOST, HOST6]
        premises.ip("gw", "address add 198.51.100.90/24 dev eth2")
        eventually(lambda: "198.51.100.90" in premises.ip("gw", "rule show"), SETTLE_S, "it was seen")
        assert place.internet.sees("gw", timeout_s=1) == ""
        assert lines.leaks() == []
        premises.ip("gw", "address add 192.0.2.1/24 dev lan0")  # no line: its networks are local
        eventually(lambda: "192.0.2.0/24" in system_state(premises, "gw")["nft"], SETTLE_S, "it is local")


def test_it_waits_for_nobodys_name(place: Place) -> None:
    premises = place.premises
    premises.resolve_by(HOST)  # where nobody answers
    tunnel = place.tunnel(endpoints=["root.example:1189"])
    with contextlib.ExitStack() as stack:
        stack.callback(tunnel.__exit__)
        tunnel.start("client")
        machine = eventually(lambda: status(tunnel, "client"), SETTLE_S, "it has started")["machine"]
        assert machine["kill_switch"] is True
        assert place.internet.sees("gw", timeout_s=1) == place.internet.sees("gw", HOST6, timeout_s=1) == ""


def test_a_reload_switches_it(place: Place) -> None:
    with place.tunnel(kill_switch=False) as tunnel:
        await_active(tunnel, *LINES, within_s=SETTLE_S)
        file = place.directory / "client.toml"
        for was, becomes, seen in (("false", "true", ""), ("true", "false", "2001:db8:1::2")):
            file.write_text(file.read_text().replace(f"kill_switch = {was}", f"kill_switch = {becomes}"))
            reply = control.ask(control_socket(tunnel, "client"), "reload", SETTLE_S)
            assert reply == {"applied": ["tunnel.kill_switch"], "restart": [], "faults": []}
            assert place.internet.sees("gw", HOST6, timeout_s=SETTLE_S if seen else 1) == seen


def test_others_of_ours_are_not_cut_off_unseen(place: Place) -> None:
    with place.tunnel() as tunnel:
        text = (place.directory / "client.toml").read_text()
        second = place.directory / "second.toml"
        second.write_text(
            text.replace('"bond0"', '"bond1"').replace("default_route = true\nkill_switch = true\n", "")
        )
        assert "kill_switch" not in second.read_text()
        for role, file in (("client", second), ("server", place.directory / "server.toml")):
            refused = tunnel.command("client", role, "--config", str(file))
            assert refused.returncode == 1
            assert refused.stderr == (
                "the kill switch of bond0 lets no lines but its own through: end that one first\n"
            )
