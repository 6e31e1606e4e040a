"""`--dry-run` changes nothing, and what it prints is what a start does.

One namespace at a time; the uplinks' other ends lie in the same one, idle:

    eth1 10.1.0.2/24   gateway 10.1.0.1, rp_filter strict       bond0 (TAP)  172.21.1.2/30, fd21::2/127
    eth2 10.2.0.2/24   default via 10.2.0.254 in table 190, an administrator's
    ppp0 10.3.0.2 (TUN: point-to-point)                         ppp1: not there
"""

import base64
import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bondvpn.lab import namespace

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

NAMESPACE = f"bvdry{os.getpid()}"
KEY = base64.b64encode(bytes([64] * 32)).decode()
CLIENT = f"""
private_key_file = "key"
[tunnel]
interface = "bond0"
address = ["172.21.1.2/30", "fd21::2/127"]
mtu = 1400
routes = ["192.168.10.0/24", "fd22::/64"]
default_route = true
kill_switch = true
forward = true
masquerade = true
dns = ["172.21.1.1"]
[[server]]
public_key = "{KEY}"
endpoints = ["198.51.100.1:1189"]
[[uplink]]
name = "dsl"
interface = "eth1"
gateway = "10.1.0.1"
[[uplink]]
name = "cable"
interface = "eth2"
gateway = "10.2.0.1"
table = 190
[[uplink]]
name = "lte"
interface = "ppp0"
mark = 7
[[uplink]]
name = "spare"
interface = "ppp1"
"""
SERVER = f"""
private_key_file = "key"
listen = ["0.0.0.0:1189"]
[[client]]
name = "office"
public_key = "{KEY}"
[client.tunnel]
interface = "office0"
address = ["172.21.1.1/30"]
routes = ["192.168.11.0/24"]
forward = true
masquerade = true
"""


def _in(words: str) -> str:
    argv = ["ip", "netns", "exec", NAMESPACE, "sh", "-ec", words]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextlib.contextmanager
def _machine() -> Iterator[None]:
    subprocess.run(["ip", "netns", "add", NAMESPACE], check=True)
    try:
        _in("""
            ip link set lo up
            for n in 1 2; do
                ip link add eth$n type veth peer name peer$n
                ip link set peer$n addrgenmode none up; ip link set eth$n addrgenmode none up
                ip address add 10.$n.0.2/24 dev eth$n
            done
            ip route add default via 10.2.0.254 dev eth2 table 190
            ip tuntap add ppp0 mode tun; ip link set ppp0 addrgenmode none up
            ip address add 10.3.0.2 peer 10.3.0.1 dev ppp0
            echo 0 > /proc/sys/net/ipv4/conf/all/rp_filter
            echo 1 > /proc/sys/net/ipv4/conf/eth1/rp_filter""")
        # A TUN that nobody holds has no carrier: hold it.
        with _holding("ppp0"):
            yield
    finally:
        namespace.remove(NAMESPACE)


@contextlib.contextmanager
def _holding(interface: str) -> Iterator[None]:
    import fcntl
    import struct

    with namespace.entered(NAMESPACE):
        descriptor = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(descriptor, 0x400454CA, struct.pack("16sH22x", interface.encode(), 0x1001))
    try:
        yield
    finally:
        os.close(descriptor)


def _state(interface: str) -> dict[str, object]:
    """What a start changes; not what follows from a TAP's carrier."""
    shown = {}
    for family in ("-4", "-6"):
        shown[f"rules {family}"] = _in(f"ip {family} rule show")
        routes = _in(f"ip {family} route show table all").replace(" linkdown", "")
        routes = "\n".join(line for line in routes.splitlines() if "multicast" not in line)
        shown[f"routes {family}"] = sorted(line.rstrip() for line in routes.splitlines())
    shown["rp_filter"] = _in("cat /proc/sys/net/ipv4/conf/eth[12]/rp_filter")
    shown["forwarding"] = _in("cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/all/forwarding")
    shown["nft"] = _in("nft list ruleset")
    addresses = _in("ip -o address show").splitlines()
    shown["addresses"] = sorted(line.split(maxsplit=3)[1:4] for line in addresses if "fe80::" not in line)
    links = _in("ip -o link show").splitlines()
    shown["MTU"] = [line.split("mtu ")[1].split()[0] for line in links if f" {interface}:" in line]
    return shown


def _without_link_local(state: dict[str, object]) -> dict[str, object]:
    """A TAP has a link-local address, and its routes, only once somebody holds it."""
    lines = state["routes -6"]
    assert isinstance(lines, list)
    return state | {"routes -6": [line for line in lines if "fe80::" not in line]}


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    (tmp_path / "key").write_text(KEY)
    (tmp_path / "key").chmod(0o600)
    (tmp_path / "client.toml").write_text(CLIENT)
    (tmp_path / "server.toml").write_text(SERVER)
    return tmp_path


def _argv(etc: Path, *words: str) -> tuple[list[str], dict[str, str]]:
    own = {"BONDVPN_RUNTIME_DIR": str(etc / "run"), "BONDVPN_STATE_DIR": str(etc / "state")}
    argv = ["ip", "netns", "exec", NAMESPACE, sys.executable, "-W", "error", "-m", "bondvpn", *words]
    return argv, os.environ | own


def _dry_run(etc: Path, end: str) -> str:
    argv, environment = _argv(etc, end, "--config", str(etc / f"{end}.toml"), "--dry-run")
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_what_it_prints_is_what_a_start_does(etc: Path) -> None:
    with _machine():
        before = _state("bond0")
        printed = _dry_run(etc, "client")
        assert _state("bond0") == before
        assert not (etc / "run").exists()
        assert "# uplink spare: waits: there is no interface ppp1\n" in printed
        assert "# refused: table 190 already has a route to default that is not ours" in printed
        assert "10.2.0.1" not in printed
        settings = re.findall(r"^sysctl -w (\S+)=(\d)$", printed, re.MULTILINE)
        listeners = [(name, value) for name, value in settings if name.endswith(".accept_ra")]
        assert ("net.ipv6.conf.eth1.accept_ra", "2") in listeners
        assert [one for one in settings if one not in listeners] == [
            ("net.ipv4.conf.eth1.rp_filter", "2"),
            ("net.ipv4.ip_forward", "1"),
            ("net.ipv6.conf.all.forwarding", "1"),
        ]
        for line in ("nft add table inet bondvpn-kill-switch", "nft add table inet bondvpn_bond0"):
            assert printed.count(f"{line}\n") == 1
        # A shell passes over what cannot be: it is a comment. sysctl(8) and resolvectl(1) are not everywhere.
        own = 'sysctl() { echo "${2#*=}" > "/proc/sys/$(echo "${2%=*}" | tr . /)"; }; resolvectl() { :; }\n'
        _in(own + printed)
        by_hand = _without_link_local(_state("bond0"))
        assert by_hand != _without_link_local(before)
    with _machine():
        argv, environment = _argv(etc, "client", "--config", str(etc / "client.toml"))
        with (etc / "log").open("w") as log:
            process = subprocess.Popen(argv, env=environment, stderr=log)
        give_up_at = time.monotonic() + 10
        while "started" not in (etc / "log").read_text() and time.monotonic() < give_up_at:
            time.sleep(0.02)
        started = _without_link_local(_state("bond0"))
        process.terminate()
        assert process.wait(10) == 0
        assert started == by_hand
        assert _state("bond0") == before


def test_a_servers(etc: Path) -> None:
    with _machine():
        assert _dry_run(etc, "server").splitlines() == [
            "# listens at 0.0.0.0:1189",
            "# client office",
            "ip tuntap add dev office0 mode tap vnet_hdr",
            "ip link set dev office0 mtu 1500",
            "ip address add 172.21.1.1/30 dev office0",
            "ip link set dev office0 up",
            "ip route add 192.168.11.0/24 via 172.21.1.2 dev office0 proto 118",
            "nft add table inet bondvpn_server",
            "nft 'add chain inet bondvpn_server forward "
            "{ type filter hook forward priority 0; policy accept; }'",
            "nft 'add rule inet bondvpn_server forward meta iifname office0 counter accept'",
            "nft 'add rule inet bondvpn_server forward meta oifname office0 counter accept'",
            "nft 'add chain inet bondvpn_server postrouting "
            "{ type nat hook postrouting priority 100; policy accept; }'",
            "nft 'add rule inet bondvpn_server postrouting meta iifname office0 "
            "meta oifname != { lo, office0 } masquerade'",
            "sysctl -w net.ipv4.ip_forward=1",
        ]
