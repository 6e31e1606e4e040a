"""The old setup itself, in /etc: ifupdown's interfaces, an OpenVPN per line, eql over their tunnels.

    the machine's own namespace                                       srv
    tun0 client1 by dsl1 10.64.1.2/24 --netem---netem-- 10.64.1.1/24  dsl1   server1 tun0
    tun1 client2 by dsl2 10.64.2.2/24 --netem---netem-- 10.64.2.1/24  dsl2   server2 tun1
    eql  172.21.1.2                                                   lo     172.21.1.1, 198.51.100.1

eql enslaves what is in the first namespace only, and there is one of it: so the gateway is there, and what
goes up is bundled. What comes down takes the tunnel of line 2, which stays alive: kinder than another eql
there.

The tunnels are tun: eql sends its packets without an Ethernet header, which the other end of a tap looks for.
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from lines import WAIT_S, shape, silence
from observe import eventually

from bondvpn.lab import namespace
from bondvpn.lab.measure import ping
from bondvpn.lab.topology import SERVER_ADDRESS, Lab
from bondvpn.lab.tunnel import BONDVPN, CLIENT_ADDRESS, PEER_ADDRESS, Configs, Tunnel

LINES = (1, 2)
DELAY_MS = 15.0
TUN_MTU = 1400
DOWN_S = 1.0  # how long an end that restarts is away, as systemd's RestartSec would have it
ETC = Path("/etc")
ENSLAVE = Path("/usr/local/sbin/eql_enslave")
NEW = ETC / "bondvpn"

INTERFACES = f"""\
auto lo dsl1 dsl2 eql
iface lo inet loopback
{{lines}}
iface eql inet static
	pre-up modprobe eql
	address {CLIENT_ADDRESS}
	netmask 255.255.255.252
	pointopoint {PEER_ADDRESS}
	mtu {TUN_MTU}
"""
LINE = """
iface dsl{i} inet static
	address 10.64.{i}.2
	netmask 255.255.255.0
	up ip route add default via 10.64.{i}.1 dev dsl{i} table vpn{port}
	up ip rule add from 10.64.{i}.2 table vpn{port}
	down ip rule del from 10.64.{i}.2 table vpn{port}
"""
OPENVPN = f"""\
dev tun{{tun}}
proto udp
port {{port}}
secret static.key
cipher AES-256-CBC
keepalive 10 60
tun-mtu {TUN_MTU}
script-security 2
persist-key
"""
CLIENT = f"remote {SERVER_ADDRESS}\nlocal 10.64.{{i}}.2\nup /etc/openvpn/eql-up.sh\n"
SERVER = f"local {SERVER_ADDRESS}\nup /etc/openvpn/server-up.sh\n"
EQL_UP = """\
#!/bin/sh
ip link set $1 up
case "$1" in
	tun0)	SPEED={0} ;;
	tun1)	SPEED={1} ;;
esac
eql_enslave eql $1 $SPEED
"""
SERVER_UP = f"""\
#!/bin/sh
ip link set $1 up
ip address replace {PEER_ADDRESS}/32 dev lo
[ $1 != tun1 ] || ip route replace {CLIENT_ADDRESS} dev tun1
"""


class Site(Lab):
    """The gateway in the machine's own namespace, a server in another, two lines between them."""

    def __init__(self, speeds: Sequence[float]) -> None:
        super().__init__((), "vm")
        self.speeds = tuple(speeds)
        """Of the lines, in Mbit/s, in both directions."""

    def _clear(self) -> None:
        for child in self._children:
            child.kill()
            child.wait()
        self._children.clear()
        subprocess.run(["ifdown", "--all", "--force"], check=False, capture_output=True)
        for i in LINES:  # else they go some time after the namespace with their other ends
            self.run("gw", ["ip", "link", "delete", f"dsl{i}"], capture_output=True)
        namespace.remove(self.namespace("srv"))

    def _build(self) -> None:
        home = Path("/run/netns", self.namespace("gw"))
        if not home.exists():
            subprocess.run(["ip", "netns", "attach", home.name, "1"], check=True)
        namespace.create(self.namespace("srv"))
        for where in ("gw", "srv"):
            # rp_filter is off, as the old setup has it: tun0 and tun1 have no addresses.
            settings = {"ipv4/conf/all/rp_filter": "0", "ipv4/tcp_no_metrics_save": "1"}
            namespace.sysctl(self.namespace(where), settings)
        self._ip("srv", "link set lo up")
        self._ip("srv", f"address add {SERVER_ADDRESS}/32 dev lo")
        for i in LINES:
            self._ip("gw", f"link add dsl{i} type veth peer name dsl{i} netns {self.namespace('srv')}")
            self._ip("srv", f"address add 10.64.{i}.1/24 dev dsl{i}")
            self._ip("srv", f"link set dsl{i} up")
            self.restore(i)
        write_files(self.speeds)
        self.ifup("dsl1", "dsl2")

    def _ip(self, where: str, words: str) -> None:
        self.run(where, ["ip", *words.split()], check=True)

    def restore(self, i: int) -> None:
        """Line `i` carries what it does."""
        for where in ("gw", "srv"):
            shape(self, where, f"dsl{i}", self.speeds[i - 1], DELAY_MS)

    def cut(self, i: int) -> None:
        """Line `i` is silent; its interfaces stay up."""
        for where in ("gw", "srv"):
            silence(self, where, f"dsl{i}")

    def ifup(self, *interfaces: str) -> None:
        """As /etc/network/interfaces says."""
        subprocess.run(["ifup", *interfaces], check=True)


def write_files(speeds: Sequence[float]) -> None:
    """The old setup's files for lines of these speeds, in Mbit/s."""
    assert "BONDVPN_VM" in os.environ, "this /etc is not the machine's"
    openvpn = ETC / "openvpn"
    for directory in (ETC / "network" / "if-up.d", Path("/run/network"), openvpn, ENSLAVE.parent):
        directory.mkdir(parents=True, exist_ok=True)
    ports = {i: 1188 + i for i in LINES}
    (ETC / "iproute2" / "rt_tables").write_text("".join(f"{189 + i}\tvpn{ports[i]}\n" for i in LINES))
    lines = "".join(LINE.format(i=i, port=ports[i]) for i in LINES)
    (ETC / "network" / "interfaces").write_text(INTERFACES.format(lines=lines))
    for i in LINES:
        common = OPENVPN.format(tun=i - 1, port=ports[i])
        (openvpn / f"client{i}.conf").write_text(common + CLIENT.format(i=i))
        (openvpn / f"server{i}.ovpn").write_text(common + SERVER)
    scripts = {"eql-up.sh": EQL_UP.format(*(round(mbit * 1e6) for mbit in speeds)), "server-up.sh": SERVER_UP}
    for name, text in scripts.items():
        (openvpn / name).write_text(text)
        (openvpn / name).chmod(0o755)
    subprocess.run(["openvpn", "--genkey", "secret", openvpn / "static.key"], check=True)
    shutil.copy(Path(__file__).with_name("eql_enslave"), ENSLAVE)


class Eql:
    """The old setup at work; a context manager."""

    name = "eql"

    def __init__(self, site: Site) -> None:
        self._site = site
        self._server: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> "Eql":
        self._site.ifup("eql")
        self._start_server()
        for i in LINES:
            self._openvpn("gw", f"client{i}.conf")
        eventually(lambda: ping(self._site, PEER_ADDRESS, count=1), WAIT_S, "an echo through eql")
        return self

    def __exit__(self, *_: object) -> None:
        """The site ends the processes."""

    def restart_server(self) -> None:
        """Its processes die; the init system starts them again."""
        for process in self._server:
            process.kill()
            process.wait()
        time.sleep(DOWN_S)
        self._start_server()

    def _start_server(self) -> None:
        self._server = [self._openvpn("srv", f"server{i}.ovpn") for i in LINES]

    def _openvpn(self, where: str, file: str) -> "subprocess.Popen[bytes]":
        words = ["openvpn", "--cd", str(ETC / "openvpn"), "--config", file]
        with Path(f"/run/{file}.log").open("ab") as log:
            return self._site.popen(where, words, stdout=log, stderr=log)


class Bond:
    """bondvpn, made from the old setup by `bondvpn import-eql /etc`; a context manager."""

    name = "bondvpn"

    def __init__(self, site: Site) -> None:
        shutil.rmtree(NEW, ignore_errors=True)
        self._tunnel = Tunnel(site, Configs(NEW / "client.toml", NEW / "server.toml"), wait_s=WAIT_S)
        words = [*BONDVPN, "import-eql", str(ETC), "--output", str(NEW)]
        print(site.run("gw", words, check=True, capture_output=True, text=True).stdout)

    def __enter__(self) -> "Bond":
        self._tunnel.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        print(f"--- client ---\n{self._tunnel.client_log}\n--- server ---\n{self._tunnel.server_log}")
        self._tunnel.__exit__()

    def restart_server(self) -> None:
        self._tunnel.stop("server", with_signal=signal.SIGKILL)
        time.sleep(DOWN_S)
        self._tunnel.start("server")
