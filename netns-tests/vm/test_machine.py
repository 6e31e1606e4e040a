"""The machine itself: its kernel, its clock, and that it writes nothing into the one it runs on."""

import platform
import subprocess
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.vm

SHARED = Path("/run/results")  # the host's directory: times of files made there are the host's
MODULES = ("8021q", "eql", "pppoe", "sch_netem", "tcp_bbr", "tun", "veth")
CLOCK_AHEAD_MAX_S, CLOCK_BEHIND_MAX_S = 2.0, 3600.0
SLEPT_S = 2.0


def test_it_has_debians_kernel_and_what_other_tests_need() -> None:
    assert "Debian" in platform.version()
    for module in MODULES:
        subprocess.run(["modprobe", module], check=True)


def test_its_clock_began_with_the_hosts() -> None:
    """It may have fallen behind since, never run ahead."""
    stamp = SHARED / "stamp"
    stamp.touch()
    behind_s = stamp.stat().st_mtime - time.time()
    assert -CLOCK_AHEAD_MAX_S < behind_s < CLOCK_BEHIND_MAX_S


def test_its_clocks_go_alike() -> None:
    """The one that programs read, and the timers that wake them."""
    began = time.monotonic(), time.time(), time.perf_counter()
    subprocess.run(["sleep", str(SLEPT_S)], check=True)
    ended = time.monotonic(), time.time(), time.perf_counter()
    for before, after in zip(began, ended, strict=True):
        assert SLEPT_S <= after - before < SLEPT_S * 1.1


def test_what_it_writes_stays_in_its_memory() -> None:
    mounts = dict(line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines())
    assert mounts["/"] == "overlay"
    assert [place for place, kind in mounts.items() if kind == "9p"] == [str(SHARED)]
