"""Single checks: each says what it found, and mends only what is wrong."""

import base64
import os
from dataclasses import replace
from ipaddress import ip_interface
from pathlib import Path

import pytest

from bondvpn.config import ClientConfig, Hooks, Server, Tunnel, Uplink
from bondvpn.doctor import files, lines, machine, plan
from bondvpn.doctor.finding import Finding
from bondvpn.linux import ethtool, policy
from bondvpn.linux.policy import Binding, Leg
from bondvpn.noise.timestamp import tai64n
from bondvpn.runtime.trial import Tried
from bondvpn.values import Endpoint

ADDRESS = ip_interface("10.0.0.2/24").ip
SETTINGS = ClientConfig(
    path=Path("client.toml"),
    private_key=bytes(32),
    tunnel=Tunnel(interface="bond0", address=()),
    server=Server(public_key=bytes(32), endpoints=(Endpoint("198.51.100.1", 1189),)),
    uplinks=(Uplink(name="dsl", interface="ppp0", up_bps=10_000_000), Uplink(name="lte", interface="wwan0")),
)
GOOD = Tried("dsl", "ppp0", "198.51.100.1:1189", True, "", rtt_ms=20.0, path_mtu=1492, interface_mtu=1492)


def _wrong(findings: object) -> list[Finding]:
    return [one for one in findings if not one.well]  # type: ignore[attr-defined]


def test_a_device_node_that_is_none(tmp_path: Path) -> None:
    absent = machine.device_node(tmp_path / "net" / "tun")
    assert (absent.well, absent.found) == (False, "No such file or directory")
    assert "modprobe tun" in absent.mend
    (tmp_path / "tun").write_text("")
    assert machine.device_node(tmp_path / "tun").found == "is not the TUN device"
    assert machine.device_node(Path("/dev/null")).found == "is not the TUN device"


@pytest.mark.parametrize(
    ("effective", "lacks"),
    [
        ((1 << 41) - 1, ""),
        (0, "CAP_NET_ADMIN, CAP_NET_RAW"),
        (1 << 12, "CAP_NET_RAW"),
        (1 << 13, "CAP_NET_ADMIN"),
    ],
)
def test_capabilities(effective: int, lacks: str) -> None:
    found = machine.capabilities(effective)
    assert found.well == (not lacks)
    if lacks:
        assert found.found.partition(":")[0] == f"lacks {lacks}"
        assert ("ICMP" in found.found) == (lacks == "CAP_NET_RAW")


def test_effective_capabilities_are_the_processs() -> None:
    assert bool(machine.effective_capabilities() >> 12 & 1) == (os.geteuid() == 0)


def _stamp(path: Path, seconds: float) -> Path:
    path.write_bytes(tai64n(seconds, None))
    return path


def test_clock(tmp_path: Path) -> None:
    now = 1_800_000_000.0
    assert machine.clock(tmp_path / "absent", now).well
    assert machine.clock(_stamp(tmp_path / "stamp", now - 10), now).well
    assert machine.clock(_stamp(tmp_path / "stamp", now + 30), now).well
    behind = machine.clock(_stamp(tmp_path / "stamp", now + 7200), now)
    assert not behind.well
    assert behind.found.startswith("is 7200 s behind the last handshake:")
    reset = machine.clock(tmp_path / "absent", 0.0)
    assert (reset.found, reset.mend) == ("says 1970-01-01", "timedatectl set-ntp true")
    (tmp_path / "stamp").write_bytes(b"junk")
    assert machine.clock(tmp_path / "stamp", now).well


def test_modes_of_keys(tmp_path: Path) -> None:
    config = tmp_path / "server.toml"
    config.write_text(
        'private_key_file = "a.key"\n[[client]]\npreshared_key_file = "b.psk"\n'
        '[[client]]\npreshared_key_file = "b.psk"\n'
    )
    for name, mode in (("a.key", 0o600), ("b.psk", 0o600)):
        (tmp_path / name).write_text(base64.b64encode(bytes(32)).decode())
        (tmp_path / name).chmod(mode)
    tmp_path.chmod(0o755)
    assert _wrong(files.keys(config)) == []
    (tmp_path / "b.psk").chmod(0o604)
    (wrong,) = _wrong(files.keys(config))
    assert wrong.mend == f"chmod 600 {tmp_path / 'b.psk'}"
    (tmp_path / "b.psk").chmod(0o400)
    tmp_path.chmod(0o777)
    assert {one.mend for one in _wrong(files.keys(config))} == {f"chmod go-w {tmp_path}"}


def test_programs_of_hooks(tmp_path: Path) -> None:
    script = tmp_path / "hook"
    script.write_text("#!/bin/sh\n")
    hooks = Hooks(up=("/bin/sh", "-c", "true"), down=(str(script),), link_up=("no-such-program",))
    assert {one.subject: one.mend for one in _wrong(files.hooks(hooks))} == {
        "down": f"chmod +x {script}",
        "link_up": "ls -l no-such-program",
    }


def test_uplinks_that_wait() -> None:
    bindings = (
        Binding(SETTINGS.uplinks[0], "ppp0", legs=(Leg(ADDRESS),)),
        Binding(SETTINGS.uplinks[1], "wwan0", waiting="wwan0 is down"),
        Binding(Uplink(name="x", interface="eth9"), "eth9", waiting="there is no interface eth9"),
    )
    found = list(plan.uplinks(policy.Plan(bindings)))
    assert [one.well for one in found] == [True, False, False]
    assert found[0].found == "ppp0, 10.0.0.2"
    assert found[1].mend == "ip link set dev wwan0 up"
    assert "ip -br address" in found[2].mend
    assert not next(plan.uplinks(policy.Plan())).well


def test_lines() -> None:
    silent = replace(GOOD, uplink="lte", interface="wwan0", reached=False, reason="no answer", rtt_ms=None)
    good, bad = lines.findings([GOOD, silent], SETTINGS, running=False)
    assert (good.well, good.found) == (True, "RTT 20.0 ms, MTU 1492")
    assert bad.mend.startswith("ping -I wwan0 198.51.100.1 ")
    (nobody,) = lines.findings([replace(silent, uplink="dsl"), silent], SETTINGS, running=False)
    assert (nobody.well, nobody.found) == (False, "no answer by dsl, lte")
    assert "ss -uln 'sport = :1189'" in nobody.mend
    (narrow,) = lines.findings([replace(GOOD, path_mtu=1200)], SETTINGS, running=False)
    assert (narrow.check, narrow.mend) == ("MTU", "tracepath -n 198.51.100.1")
    (demoted,) = lines.findings([replace(GOOD, reason="demoted: 20% loss")], SETTINGS, running=True)
    assert (demoted.well, demoted.found) == (False, "demoted: 20% loss")


@pytest.mark.parametrize(("scheduler", "measured", "well"), [
    ("weighted", 5_000_000, False), ("weighted", 9_900_000, True), ("adaptive", 5_000_000, True),
    ("weighted", None, True),
])  # fmt: skip
def test_a_configured_speed_that_the_line_has_not(scheduler: str, measured: int | None, well: bool) -> None:
    settings = replace(SETTINGS, tunnel=replace(SETTINGS.tunnel, scheduler=scheduler))
    found = _wrong(lines.findings([replace(GOOD, up_bps=measured)], settings, running=False))
    assert (found == []) == well
    running = lines.findings([replace(GOOD, up_bps=measured)], settings, running=True)
    assert _wrong(running) == []  # what one learns that was never full says nothing
    if not well:
        assert found[0].mend == 'in client.toml: up = "5000kbit", or scheduler = "adaptive"'


def test_what_a_running_client_says() -> None:
    link = {"name": "dsl", "interface": "ppp0", "path": "198.51.100.1:1189", "state": "active", "reason": "",
            "rtt_ms": 20.0, "path_mtu": 1492, "learned_bps": 900_000}  # fmt: skip
    stalled = link | {"name": "lte", "state": "stalled", "reason": "no answer for 240 ms"}
    one, other = lines.of_status({"tunnels": [{"links": [link, stalled]}]})
    assert one == replace(GOOD, interface_mtu=None, up_bps=900_000)
    assert (other.reached, other.reason, other.rtt_ms) == (False, "no answer for 240 ms", None)


def test_offloads_of_an_interface() -> None:
    assert set(ethtool.generic_offloads("lo")) == {"gso", "gro"}
    assert ethtool.generic_offloads("no-such-if") == {}
