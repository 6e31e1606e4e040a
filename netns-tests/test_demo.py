"""The demo as a person starts it: `bondvpn demo --quick --json`, once, and nothing is left of it.

    demo-gw  dsl 16/1, cable 50/5, lte 30/10  demo-wire [emulator]  demo-srv

It brings its own namespaces. The bounds are generous, for two noisy cores; the verdict's are in the demo.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bondvpn.lab.topology import RUNTIME_DIR
from bondvpn.ui.demo import PREFIX

pytestmark = pytest.mark.netns

RUN_MAX_S = 60.0  # 20 s on an idle machine
STOP_MAX_S = 20.0


@pytest.fixture(autouse=True)
def _as_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root and network namespaces")


@contextlib.contextmanager
def _started(*options: str) -> Iterator[subprocess.Popen[str]]:
    demo = subprocess.Popen(
        [sys.executable, "-m", "bondvpn", "demo", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield demo
    finally:
        if demo.poll() is None:
            demo.terminate()
        demo.communicate(timeout=STOP_MAX_S)


def _left() -> list[str]:
    """Namespaces, processes, devices and files that a demo made and did not remove."""
    names = sorted(Path("/run/netns").glob(f"{PREFIX}-*")) if Path("/run/netns").exists() else []
    files = [RUNTIME_DIR / PREFIX] if (RUNTIME_DIR / PREFIX).exists() else []
    files += Path("/tmp").glob("bondvpn-demo-*")
    devices = [device for device in Path("/sys/class/net").iterdir() if device.name in {"bond0", "office0"}]
    processes = []
    for commandline in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = commandline.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if any(word.startswith((f"{PREFIX}-", "/tmp/bondvpn-demo-")) for word in words):
            processes.append(" ".join(words))
    return [str(thing) for thing in (*names, *files, *devices, *processes)]


def _whole(report: dict[str, Any]) -> None:
    """The shape that programs rely on."""
    assert set(report) == {
        "ok", "verdict", "reasons", "alone_mbit", "sum_mbit", "bonded_mbit", "share", "steady_s",
        "connection_lost", "pulled", "quick", "seconds", "lines", "direction", "congestion", "scheduler",
        "method", "version", "kernel", "cpu", "cores",
    }  # fmt: skip
    assert set(report["pulled"]) == {
        "line", "gone_s", "longest_silence_s", "while_cut_mbit", "while_cut_share", "used_again_s",
        "after_mbit",
    }  # fmt: skip
    assert [line["name"] for line in report["lines"]] == ["dsl", "cable", "lte"] == list(report["alone_mbit"])


def test_the_quick_demo_shows_the_sum_and_leaves_nothing() -> None:
    with _started("--quick", "--json") as demo:
        out, err = demo.communicate(timeout=RUN_MAX_S)
    assert err == ""
    report = json.loads(out)  # and nothing else on standard output
    _whole(report)
    print(report["verdict"])
    assert demo.returncode == (0 if report["ok"] else 1)
    assert report["ok"] == (not report["reasons"])
    # TCP over Ethernet gives 1448 / 1514 of a line's rate at best.
    assert 12 < report["alone_mbit"]["dsl"] < 15.5
    assert 40 < report["alone_mbit"]["cable"] < 48.5
    assert 23 < report["alone_mbit"]["lte"] < 29.5
    assert report["sum_mbit"] == pytest.approx(sum(report["alone_mbit"].values()), abs=0.1)
    assert 0.75 < report["share"] < 1.0
    assert report["bonded_mbit"] > 1.3 * report["alone_mbit"]["cable"]  # more than the best line
    pulled = report["pulled"]
    assert pulled["line"] == "lte"
    assert 2.4 < pulled["gone_s"] < 3.5
    assert 0.2 <= pulled["longest_silence_s"] < 2.0
    assert 0.6 < pulled["while_cut_share"] < 1.02
    assert 0.05 < pulled["used_again_s"] < 3.5
    assert pulled["after_mbit"] > pulled["while_cut_mbit"]
    assert not report["connection_lost"]
    assert _left() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing(number: signal.Signals) -> None:
    with _started("--quick") as demo:
        assert demo.stdout is not None
        said = ""
        for said in demo.stdout:
            if "through the bond" in said:
                break
        assert "through the bond" in said
        assert _left()
        # The terminal's way: everything in the foreground gets it, and an impatient second one.
        os.killpg(demo.pid, number)
        time.sleep(0.2)
        if demo.poll() is None:
            os.killpg(demo.pid, number)
        _, err = demo.communicate(timeout=STOP_MAX_S)
    assert (demo.returncode, err) == (1, "interrupted; everything the demo made is removed\n")
    assert _left() == []


def test_without_root_it_says_so() -> None:
    done = subprocess.run(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
         sys.executable, "-c", "from bondvpn.cli import main; main()", "demo"],
        capture_output=True, text=True, timeout=RUN_MAX_S, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stdout == ""
    assert "needs root" in done.stderr
