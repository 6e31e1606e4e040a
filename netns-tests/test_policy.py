"""Policy routing, the journal and the TAP's set-up in a real kernel.

One namespace for each test; eth1 and eth2 are veths whose other ends lie in the same namespace, idle:

    eth1 10.1.0.2/24   gateway 10.1.0.1          bond0 (TAP)  172.21.1.2/30, fd21::2/127
    eth2 10.2.0.2/24   gateways 10.2.0.1, .254   ppp0 192.0.2.7/32, 2001:db8::7/64 (TUN: point-to-point)
"""

import contextlib
import fcntl
import json
import os
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bondvpn.lab import namespace

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
]

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000  # linux/if_tun.h
NAMESPACE = f"bondpol{os.getpid()}"

# What each script run in the namespace starts with.
PRELUDE = """
import sys, time
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from bondvpn.config import Route as TunnelRoute, Uplink
from bondvpn.errors import SystemFault
from bondvpn.linux import journal, policy
from bondvpn.linux.journal import Journal, TapDevice
from bondvpn.linux.netlink import Netlink, Route, Rule, tunnel_routes
PATH = journal.journal_path("bond0")
UPLINKS = [
    Uplink(name="dsl", interface="eth1", gateway=ip_address("10.1.0.1"), source=ip_address("10.1.0.2")),
    Uplink(name="cable", source=ip_address("10.2.0.2"), gateway=ip_address("10.2.0.1")),
    Uplink(name="cable2", interface="eth2", gateway=ip_address("10.2.0.254"), table=189, mark=7),
    Uplink(name="lte", interface="ppp0"),
]
def install(uplinks=UPLINKS, kept=None):
    kept = kept or Journal.begin(PATH, netlink)
    plan = policy.plan(uplinks, policy.survey(uplinks, netlink), journal.tables_taken(but=PATH))
    return kept, plan, policy.install(plan, netlink, kept)
def present(pattern):
    return [interface for interface in netlink.network().interfaces.values() if pattern in interface.name]
netlink = Netlink()
"""


def _ip(*words: str) -> str:
    done = subprocess.run(
        ["ip", "-n", NAMESPACE, *words], capture_output=True, text=True, check=False, timeout=30
    )
    # A table that nothing was ever in is no error to us: it is empty.
    assert done.returncode == 0 or "FIB table does not exist" in done.stderr, done.stderr
    return done.stdout


def _start(script: str, runtime_dir: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["ip", "netns", "exec", NAMESPACE, sys.executable, "-W", "error", "-c", PRELUDE + script],
        env={**os.environ, "BONDVPN_RUNTIME_DIR": str(runtime_dir)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _run(script: str, runtime_dir: Path) -> str:
    process = _start(script + "\nnetlink.close()", runtime_dir)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return out


def _bondvpn(runtime_dir: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["ip", "netns", "exec", NAMESPACE, sys.executable, "-W", "error", "-m", "bondvpn", *arguments],
        env={**os.environ, "BONDVPN_RUNTIME_DIR": str(runtime_dir)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def _sysctl(name: str, value: str | None = None) -> str:
    path = f"/proc/sys/net/ipv4/conf/{name}/rp_filter"
    command = f"[ ! -e {path} ] || cat {path}" if value is None else f"echo {value} > {path}"
    return subprocess.run(
        ["ip", "netns", "exec", NAMESPACE, "sh", "-c", command], capture_output=True, text=True, check=True
    ).stdout.strip()


def _state() -> str:
    """Everything that policy routing may change, in words."""
    parts = []
    for family in ("-4", "-6"):
        parts += [_ip(family, "rule", "show"), _ip(family, "route", "show", "table", "all")]
    parts += [_ip("-br", "link")] + [_sysctl(name) for name in ("all", "eth1", "eth2")]
    return "\n".join(parts)


@contextlib.contextmanager
def _dialled(name: str) -> Iterator[None]:
    """Hold the TUN device open: it has a carrier only then."""
    with namespace.entered(NAMESPACE):
        device = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    try:
        yield
    finally:
        os.close(device)


@pytest.fixture
def runtime_dir(tmp_path: Path) -> Iterator[Path]:
    subprocess.run(["ip", "netns", "add", NAMESPACE], check=True)
    try:
        _ip("link", "set", "lo", "up")
        for name, address in (("eth1", "10.1.0.2/24"), ("eth2", "10.2.0.2/24")):
            _ip("link", "add", name, "type", "veth", "peer", "name", f"{name}peer")
            for end in (name, f"{name}peer"):
                _ip("link", "set", end, "addrgenmode", "none", "up")
            _ip("addr", "add", address, "dev", name)
            _sysctl(name, "1")
        _sysctl("all", "0")
        _ip("tuntap", "add", "ppp0", "mode", "tun")
        _ip("link", "set", "ppp0", "addrgenmode", "none", "up")
        for address in ("192.0.2.7/32", "2001:db8::7/64"):
            _ip("addr", "add", address, "dev", "ppp0", "nodad")
        with _dialled("ppp0"):
            yield tmp_path / "run"
    finally:
        subprocess.run(["ip", "netns", "del", NAMESPACE], check=True)


def test_what_is_installed_and_that_undo_leaves_no_trace(runtime_dir: Path) -> None:
    before = _state()
    script = "kept, plan, waiting = install()\nassert waiting == [], waiting\nprint(plan.bindings)\n"
    process = _start(script + "sys.stdout.flush(); input()\nassert kept.undo(netlink) == []\n", runtime_dir)
    assert process.stdout is not None
    bindings = process.stdout.readline()
    assert bindings.count("Binding") == 4, process.communicate()
    assert "interface='eth2', index=" in bindings  # the second is found by its address

    assert [line.split() for line in _ip("rule", "show").splitlines()[1:-2]] == [
        line.split()
        for line in (
            "11890: from all fwmark 0x1189 lookup 4489 proto 118",
            "11890: from all fwmark 0x118a lookup 4490 proto 118",
            "11890: from all fwmark 0x7 lookup 189 proto 118",
            "11890: from all fwmark 0x118c lookup 4492 proto 118",
            "11891: from 10.1.0.2 lookup main suppress_prefixlength 0 proto 118",
            "11891: from 10.2.0.2 lookup main suppress_prefixlength 0 proto 118",
            "11891: from 192.0.2.7 lookup main suppress_prefixlength 0 proto 118",
            "11892: from 10.1.0.2 lookup 4489 proto 118",
            "11892: from 10.2.0.2 lookup 4490 proto 118",
            "11892: from 192.0.2.7 lookup 4492 proto 118",
        )
    ]
    assert _ip("route", "show", "table", "4489") == "default via 10.1.0.1 dev eth1 proto 118 src 10.1.0.2 \n"
    assert _ip("route", "show", "table", "4490") == "default via 10.2.0.1 dev eth2 proto 118 src 10.2.0.2 \n"
    assert _ip("route", "show", "table", "189") == "default via 10.2.0.254 dev eth2 proto 118 \n"
    assert _ip("route", "show", "table", "4492").startswith("default dev ppp0 proto 118 scope link")
    assert _ip("-6", "route", "show", "table", "4492").startswith("default dev ppp0 proto 118")
    # The kernel agrees on where packets go: the mark leads, then the source, connected networks stay direct.
    assert "via 10.2.0.254 dev eth2" in _ip("route", "get", "198.51.100.1", "mark", "7")
    assert "via 10.1.0.1 dev eth1" in _ip("route", "get", "198.51.100.1", "from", "10.1.0.2")
    assert "via" not in _ip("route", "get", "10.2.0.9", "from", "10.1.0.2")
    assert (_sysctl("eth1"), _sysctl("eth2"), _sysctl("all")) == ("2", "2", "0")

    _, err = process.communicate("\n", timeout=60)
    assert process.returncode == 0, err
    assert _state() == before
    assert list(runtime_dir.iterdir()) == []


def test_installing_again_mends_and_changes_nothing_else(runtime_dir: Path) -> None:
    before = _state()
    _run(
        """
kept, plan, _ = install()
import subprocess
def state():
    show = lambda *words: subprocess.run(["ip", *words], capture_output=True, text=True, check=True).stdout
    return sorted(show("rule").splitlines()), show("route", "show", "table", "all")
first = state()
assert policy.install(plan, netlink, kept) == []
assert state() == first
assert install(kept=kept)[1:] == (plan, [])
assert netlink.own_rules() == set(plan.rules) and netlink.own_routes() == set(plan.routes)
assert state() == first
subprocess.run("ip route flush table 4489; ip rule del priority 11892; ip route replace default dev eth2 "
               "table 4490 proto 118", shell=True, check=True)
assert state() != first
assert policy.install(plan, netlink, kept) == []
assert state() == first, (state(), first)
assert kept.undo(netlink) == []
""",
        runtime_dir,
    )
    assert _state() == before


def test_after_sigkill_the_next_start_or_down_cleans_up(runtime_dir: Path) -> None:
    before = _state()
    for cleanup in ("down", "start"):
        process = _start("install(); print('up', flush=True); time.sleep(60)", runtime_dir)
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        assert _state() != before
        refused = _bondvpn(runtime_dir, "down")
        assert refused.returncode == 1
        assert f"process {process.pid} runs" in refused.stderr
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert _state() != before
        if cleanup == "down":
            done = _bondvpn(runtime_dir, "down")
            assert (done.returncode, done.stdout, done.stderr) == (0, "bond0: undone\n", "")
        else:
            _run("kept = Journal.begin(PATH, netlink); kept.undo(netlink)", runtime_dir)
        assert _state() == before
        assert list(runtime_dir.iterdir()) == []


def test_what_is_gone_already_is_no_error(runtime_dir: Path) -> None:
    _run("install()", runtime_dir)
    _ip("link", "del", "eth1")
    _ip("rule", "del", "priority", "11890")
    done = _bondvpn(runtime_dir, "down")
    assert (done.returncode, done.stdout, done.stderr) == (0, "bond0: undone\n", "")
    assert "proto 118" not in _state()


def test_an_administrators_routes_stay(runtime_dir: Path) -> None:
    _ip("route", "add", "default", "via", "10.2.0.1", "dev", "eth2", "table", "189")
    _ip("route", "add", "default", "via", "10.2.0.254", "dev", "eth2", "table", "190")
    before = _state()
    out = _run(
        """
same = Uplink(name="same", interface="eth2", gateway=ip_address("10.2.0.254"), table=190)
kept, plan, waiting = install([UPLINKS[2], same])
print(waiting)
assert kept.undo(netlink) == []
""",
        runtime_dir,
    )
    assert out.count("table 189 already has a route to default that is not ours") == 1
    assert "190" not in out
    assert _state() == before


def test_an_uplink_that_is_not_there_waits_alone(runtime_dir: Path) -> None:
    _ip("link", "del", "eth1")
    before = _state()
    out = _run(
        "kept, plan, waiting = install()\nassert waiting == []\n"
        "print([binding.waiting for binding in plan.bindings])\nkept.undo(netlink)",
        runtime_dir,
    )
    assert out == "['there is no interface eth1', '', '', '']\n"
    assert _state() == before


def test_two_processes_take_different_tables(runtime_dir: Path) -> None:
    out = _run(
        """
_, first, _ = install()
PATH = journal.journal_path("bond1")
_, second, _ = install()
print({route.table for route in first.routes} & {route.table for route in second.routes})
""",
        runtime_dir,
    )
    assert out == "{189}\n"  # the one that both configure


def test_a_tap_is_set_up_and_only_a_tap_is_deleted(runtime_dir: Path) -> None:
    _ip("tuntap", "add", "bond0", "mode", "tap")
    script = """
addresses = [ip_interface("172.21.1.2/30"), ip_interface("fd21::1/127")]
routes = [TunnelRoute(ip_network("192.168.10.0/24"), ip_address("172.21.1.1")),
          TunnelRoute(ip_network("fd22::/64"), ip_address("fd21::")),
          TunnelRoute(ip_network("192.168.11.0/24"), None)]
for _ in range(2):
    netlink.configure_tap("bond0", addresses, 1400, routes, gso_max_size=20_000, txqueuelen=77)
assert netlink.link_mtu("bond0") == 1400 and netlink.link_index("bond0") and netlink.link_mtu("nope") is None
assert [one.point_to_point for one in present("ppp0") + present("bond0")] == [True, False]
"""
    _run(script, runtime_dir)
    (link,) = json.loads(_ip("-d", "-j", "link", "show", "bond0"))
    assert (link["mtu"], link["txqlen"], link["gso_max_size"]) == (1400, 77, 20_000)
    assert "UP" in link["flags"]
    assert "192.168.10.0/24 via 172.21.1.1 dev bond0 proto 118" in _ip("route")
    assert "192.168.11.0/24 dev bond0 proto 118 scope link" in _ip("route")
    assert "fd22::/64 via fd21:: dev bond0 proto 118" in _ip("-6", "route")
    assert "tentative" not in _ip("addr", "show", "bond0")
    _run(
        """
kept = Journal.begin(PATH, netlink)
kept.record([TapDevice(interface="eth1"), TapDevice(interface="bond0"), TapDevice(interface="nope")])
assert kept.undo(netlink) == []
""",
        runtime_dir,
    )
    assert "bond0" not in _ip("link")
    assert "eth1" in _ip("link")


def test_a_route_of_the_lan_is_not_taken_over_by_the_tunnel(runtime_dir: Path) -> None:
    _ip("tuntap", "add", "bond0", "mode", "tap")
    _ip("route", "add", "192.168.10.0/24", "dev", "eth1")
    out = _run(
        """
try:
    netlink.configure_tap("bond0", [], 1500, [TunnelRoute(ip_network("192.168.10.0/24"), None)])
except SystemFault as fault:
    print(fault)
""",
        runtime_dir,
    )
    assert out.startswith("table 254 already has a route to 192.168.10.0/24 that is not ours")
    assert "192.168.10.0/24 dev eth1 scope link" in _ip("route")


def test_local_faults_name_the_thing(runtime_dir: Path) -> None:
    out = _run(
        """
for attempt in (lambda: netlink.set_gso_max_size("nope", 1000),
                lambda: netlink.configure_tap("eth1", [], 1 << 20, []),
                lambda: netlink.put_route(
                    Route(version=4, table=9, interface="eth1", gateway="203.0.113.1"))):
    try:
        attempt()
    except SystemFault as fault:
        print(fault)
""",
        runtime_dir,
    )
    first, *others = out.splitlines()
    assert first == "there is no interface nope: `ip link` lists those there are"
    assert "the gateway is not on that interface's network" in others[-1]
