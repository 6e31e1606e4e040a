"""Two DSL lines by PPPoE: real pppd at both ends, the kernel's PPPoE at ours, a new address at each dialling.

         pppd ppp0 -- eth1 ----------- lan r1  pppoe-server, 10.1.0.1 --+
    gw                                                                  +-- srv   lo 198.51.100.1
         pppd ppp1 -- eth2 ----------- lan r2  pppoe-server, 10.2.0.1 --+

Each carries 4 Mbit/s in both directions, PPPoE's headers included. pppd persists, as Debian's `dsl-provider`
does.
"""

import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from lines import WAIT_S, shape
from observe import Flow, eventually, links
from premises import Premises, await_active, tunnel

from bondvpn.lab.tunnel import Tunnel

pytestmark = pytest.mark.vm

LINES = (1, 2)
MBIT, DELAY_MS = 4.0, 10.0
REDIALS, EVERY_S = 2, 7.0
SHARE_MIN = 0.5  # of the lines' sum: one is away most of the time, since PPP waits 3 s for a lost packet
PPPOE_MTU = 1492  # RFC 2516, section 7
UPLINKS = """
[[uplink]]
name = "dsl1"
interface = "ppp0"
[[uplink]]
name = "dsl2"
interface = "ppp1"
"""
LCP = "lcp-echo-interval 2 lcp-echo-failure 3"


@pytest.fixture
def premises(premises_with: Callable[[int], Premises], tmp_path: Path) -> Premises:
    """With the access concentrators; nobody has dialled."""
    subprocess.run(["modprobe", "pppoe"], check=True)
    options = tmp_path / "pppoe-server-options"
    options.write_text("noauth\n" + LCP.replace(" l", "\nl") + "\n")
    made = premises_with(len(LINES))
    for i in LINES:
        made.join("gw", f"eth{i}", f"r{i}", "lan")
        made.provider(i, f"10.{i}.0.0/24")
        shape(made, "gw", f"eth{i}", MBIT, DELAY_MS)
        shape(made, f"r{i}", "lan", MBIT, DELAY_MS)
        words = f"pppoe-server -F -I lan -L 10.{i}.0.1 -R 10.{i}.0.100 -N 50 -O {options}"
        made.popen(f"r{i}", words.split())
    return made


def dial(premises: Premises, i: int) -> "subprocess.Popen[bytes]":
    words = f"pppd plugin rp-pppoe.so eth{i} unit {i - 1} noauth noipdefault nodefaultroute nodetach"
    words += f" persist maxfail 0 holdoff 1 mtu {PPPOE_MTU} mru {PPPOE_MTU} {LCP}"
    return premises.popen("gw", words.split())


def source(running: Tunnel, i: int) -> str | None:
    """The address by which the client's link leaves."""
    link = links(running, "client")[f"dsl{i}"]
    return str(link["source"]) if link["state"] == "active" else None


def test_a_transfer_goes_on_while_lines_are_dialled_again(premises: Premises, tmp_path: Path) -> None:
    modems = {i: dial(premises, i) for i in LINES}
    with tunnel(premises, tmp_path / "etc", UPLINKS, wait_s=WAIT_S) as both:
        await_active(both, "dsl1", "dsl2", within_s=WAIT_S)
        for i in LINES:
            assert f"dev ppp{i - 1} " in premises.ip("gw", f"route show table {4488 + i}")
            ours = links(both, "client")[f"dsl{i}"]
            assert str(ours["source"]).startswith(f"10.{i}.0.")
        with Flow(premises, upload=False, congestion="cubic") as flow:
            flow.flows(1_000_000, within_s=WAIT_S)
            began = time.monotonic()
            for number in range(REDIALS):
                i = LINES[number % len(LINES)]
                before = source(both, i)
                modems[i].send_signal(signal.SIGHUP)  # to pppd: hang up, and dial again
                time.sleep(max(0.0, began + (number + 1) * EVERY_S - time.monotonic()))
                now = eventually(
                    lambda i=i, before=before: source(both, i) not in (None, before) and source(both, i),
                    WAIT_S,
                    "another address",
                )
                print(f"dsl{i}: {before}, then {now}")
            await_active(both, "dsl1", "dsl2", within_s=WAIT_S)
            ended = time.monotonic()
            share = flow.bits_per_second(began, ended) / (2 * MBIT * 1e6 * 1400 / 1514)
            silence_s = flow.silence_s(began)
            print(f"{share:.0%} of the sum over {ended - began:.0f} s, silent for {silence_s:.2f} s at most")
            flow.flows(500_000, within_s=WAIT_S)
            assert flow.failures == []
            assert share >= SHARE_MIN
        for end in ("client", "server"):
            for i in LINES:
                eventually(
                    lambda end=end, i=i: links(both, end)[f"dsl{i}"]["path_mtu"] == PPPOE_MTU, WAIT_S, "MTU"
                )
