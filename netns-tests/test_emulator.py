"""The link emulator between real interfaces, under the real kernel's TCP, UDP and ARP.

bvtest-gw                     bvtest-wire                    bvtest-srv
fast   10.64.1.2 ===veth=== g1 [emulator] s1 ===veth===   fast   10.64.1.1
slow   10.64.2.2 ===veth=== g2 [emulator] s2 ===veth===   slow   10.64.2.1    lo 198.51.100.1
plain  10.64.3.2 ========================veth==========   plain  10.64.3.1    (no emulator)
"""

import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bondvpn.errors import ConfigError, SystemFault
from bondvpn.lab import namespace
from bondvpn.lab.measure import one_way_delays, ping, tcp, udp
from bondvpn.lab.shape import Line, line
from bondvpn.lab.topology import SERVER_ADDRESS, Lab

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root and network namespaces"),
]

LINES = (
    line("fast", up_mbit=20, down_mbit=50, delay_s=0.010),
    line("slow", up_mbit=1, down_mbit=16, delay_s=0.020, seed=2),
    Line("plain"),
)
# What the machine's other work may add to a timer; the bench states the true precision.
NOISE_S = 0.002


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab(LINES, prefix="bvtest") as built:
        yield built


@pytest.fixture(autouse=True)
def _as_built(lab: Lab) -> Iterator[None]:
    yield
    for each in LINES[:2]:
        lab.restore(each.name)
        for direction in ("up", "down"):
            lab.set(each.name, direction, **getattr(each, direction).as_dict())


@pytest.mark.parametrize(("name", "down_bps"), [("fast", 50e6), ("slow", 16e6)])
def test_tcp_gets_the_rate_to_one_percent(lab: Lab, name: str, down_bps: float) -> None:
    result = tcp(lab, lab.gateway(name), 3, congestion="cubic", reverse=True, omit_s=2)
    assert result.bits_per_second == pytest.approx(down_bps * 1448 / 1514, rel=0.01)
    assert result.congestion == "cubic"


def test_udp_beyond_the_rate_is_dropped_at_the_queue(lab: Lab) -> None:
    result = udp(lab, lab.gateway("fast"), 4, bits_per_second=30e6)
    assert result.bits_per_second == pytest.approx(20e6 * 1472 / 1514, rel=0.01)
    refused = lab.counters()["lines"]["fast"]["up"]["refused"]["queue"]
    assert refused > 0
    assert result.lost <= refused


@pytest.mark.parametrize(("name", "direction", "rate_bps"), [("fast", "down", 50e6), ("slow", "up", 1e6)])
def test_delay_is_the_nominal_one(lab: Lab, name: str, direction: str, rate_bps: float) -> None:
    delays = one_way_delays(lab, name, direction, count=40, payload_bytes=64)
    nominal_s = {"fast": 0.010, "slow": 0.020}[name] + (64 + 42) * 8 / rate_bps
    assert len(delays) == 40
    assert statistics.median(delays) == pytest.approx(nominal_s, abs=0.0005)


def test_jitter_spreads_the_delay(lab: Lab) -> None:
    lab.set("fast", "down", jitter_s=0.008)
    delays = one_way_delays(lab, "fast", "down", count=60)
    assert 0.0015 < min(delays) < 0.005
    assert 0.015 < max(delays) < 0.018 + NOISE_S


def test_loss_is_what_was_asked_for(lab: Lab) -> None:
    lab.set("fast", "up", loss=0.2)
    result = udp(lab, lab.gateway("fast"), 3, bits_per_second=5e6)
    assert result.lost / result.sent == pytest.approx(0.2, abs=0.05)


def test_larger_packets_than_the_mtu_vanish(lab: Lab) -> None:
    lab.set("fast", "up", mtu=1428)
    assert ping(lab, lab.gateway("fast"), count=1, payload_bytes=1428 - 28)
    assert not ping(lab, lab.gateway("fast"), count=1, payload_bytes=1428 - 27, timeout_s=0.2)


def test_a_cut_line_is_silent_and_its_interface_stays_up(lab: Lab) -> None:
    lab.cut("fast")
    assert not ping(lab, lab.gateway("fast"), count=2, interval_s=0.05, timeout_s=0.2)
    assert ping(lab, lab.gateway("slow"), count=1)
    flags = lab.run("gw", ["ip", "-br", "link", "show", "fast"], capture_output=True, text=True).stdout
    assert "LOWER_UP" in flags
    lab.restore("fast")
    assert ping(lab, lab.gateway("fast"), count=1)


def test_rate_and_delay_change_live(lab: Lab) -> None:
    lab.set("fast", rate_bps=5e6)
    result = tcp(lab, lab.gateway("fast"), 2, congestion="cubic", reverse=True, omit_s=1)
    assert result.bits_per_second == pytest.approx(5e6 * 1448 / 1514, rel=0.02)
    lab.set("fast", delay_s=0.030, rate_bps=50e6)
    trips = ping(lab, lab.gateway("fast"), count=5, interval_s=0.05)
    assert statistics.median(trips) == pytest.approx(0.060, abs=NOISE_S)


def test_arp_passes(lab: Lab) -> None:
    lab.run("gw", ["ip", "neigh", "del", lab.gateway("fast"), "dev", "fast"], check=True)
    lab.run("srv", ["ip", "neigh", "del", lab.address("fast"), "dev", "fast"], check=True)
    assert ping(lab, lab.gateway("fast"), count=1)
    learned = lab.run("gw", ["ip", "neigh", "show", "dev", "fast"], capture_output=True, text=True).stdout
    assert f"{lab.gateway('fast')} lladdr 02:64:00:01:00:01" in learned


def test_frames_are_of_the_wires_size(lab: Lab) -> None:
    before = lab.counters()["lines"]["fast"]["down"]
    tcp(lab, lab.gateway("fast"), 1, congestion="cubic", reverse=True)
    after = lab.counters()["lines"]["fast"]["down"]
    size = (after["bytes_in"] - before["bytes_in"]) / (after["frames_in"] - before["frames_in"])
    assert 1400 < size <= 1514
    assert after["ring_drops"] == after["send_errors"] == 0


def test_an_unshaped_line_is_as_fast_as_the_kernel(lab: Lab) -> None:
    assert "plain" not in lab.counters()["lines"]
    assert tcp(lab, lab.gateway("plain"), 1, congestion="cubic").bits_per_second > 1e9


def test_the_servers_one_address_is_reached(lab: Lab) -> None:
    assert ping(lab, SERVER_ADDRESS, count=1)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [({"loss": 2}, "loss"), ({"colour": 1}, "colour"), ({"rate_bps": "fast"}, "not a request")],
)
def test_a_wrong_change_is_refused_and_nothing_changes(
    lab: Lab, change: dict[str, object], complaint: str
) -> None:
    before = lab.counters()["lines"]["fast"]["up"]["shape"]
    with pytest.raises(ConfigError, match=complaint):
        lab.set("fast", **change)
    assert lab.counters()["lines"]["fast"]["up"]["shape"] == before


def test_an_unknown_line_is_refused(lab: Lab) -> None:
    with pytest.raises(ConfigError, match="no-such"):
        lab.cut("no-such")


def test_two_labs_live_side_by_side(lab: Lab) -> None:
    with Lab(LINES[:1], prefix="bvtest2") as second:
        second.cut("fast")
        assert ping(lab, lab.gateway("fast"), count=1)
    assert ping(lab, lab.gateway("fast"), count=1)


def test_a_failure_inside_leaves_nothing() -> None:
    doomed = Lab(LINES, prefix="bvtest3")
    children = []

    def fail_inside() -> None:
        with doomed:
            children.extend([doomed.popen("gw", ["sleep", "60"]), doomed.emulator])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_inside()
    assert [child.returncode for child in children] == [-signal.SIGKILL] * 2
    assert not any(namespace.exists(f"bvtest3-{where}") for where in ("gw", "wire", "srv"))
    assert not Path("/run/bondvpn-lab/bvtest3").exists()
    with pytest.raises(SystemFault, match="no link emulator answers"):
        doomed.counters()


KILLED_RUN = """
import time
from pathlib import Path
from bondvpn.lab.shape import line
from bondvpn.lab.topology import Lab
with Lab([line("fast", up_mbit=1, down_mbit=1, delay_s=0.01)], prefix="bvtest4") as lab:
    child = lab.popen("gw", ["sleep", "60"])
    while Path(f"/proc/{child.pid}/comm").read_text() != "sleep\\n":  # only then is it bound to its parent
        time.sleep(0.01)
    print(lab.emulator.pid, child.pid, flush=True)
    time.sleep(60)
"""


def test_the_emulator_dies_with_a_killed_run_and_the_next_clears_up() -> None:
    run = subprocess.Popen([sys.executable, "-c", KILLED_RUN], stdout=subprocess.PIPE, text=True)
    with run:
        assert run.stdout is not None
        pids = [int(pid) for pid in run.stdout.readline().split()]
        run.kill()
    give_up_at = time.monotonic() + 5
    while any(running(pid) for pid in pids) and time.monotonic() < give_up_at:
        time.sleep(0.02)
    assert len(pids) == 2
    assert not any(running(pid) for pid in pids)
    assert namespace.exists("bvtest4-gw")
    with Lab(LINES[:1], prefix="bvtest4") as lab:
        assert ping(lab, lab.gateway("fast"), count=1)
    assert not namespace.exists("bvtest4-gw")


def running(pid: int) -> bool:
    """Whether the process is there and not a zombie waiting for its new parent."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
