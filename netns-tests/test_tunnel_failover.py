"""Lines that fall silent, all of them at once, and interfaces that go down: the connections inside live on.

    10.64.1.2  a  === 50 Mbit/s, 10 ms === a  10.64.1.1
    gw bond0 172.21.1.2                                         srv office0 172.21.1.1
    10.64.2.2  b  === 50 Mbit/s, 10 ms === b  10.64.2.1         lo 198.51.100.1

A cut line carries nothing and says nothing; its interfaces stay up.
"""

import json
import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from observe import Flow, all_active, eventually, ip, links, seconds_until, status

from bondvpn.lab import measure
from bondvpn.lab.shape import twins
from bondvpn.lab.tunnel import PEER_ADDRESS

pytestmark = pytest.mark.netns

SETTLE_S = 10.0
SILENCE_MAX_S = 1.5  # two noisy cores; the benchmark asserts 1
RETURN_MAX_S = 4.0  # used again after the line is back; the benchmark asserts 3
ONE_LINE_BPS = 50e6 * 1448 / 1514


@pytest.fixture(scope="module")
def running(shared_bond_over: Callable[..., Any]) -> Any:
    return shared_bond_over(twins())


@pytest.fixture
def bond(running: Any) -> Any:
    """With both lines in use, whatever the test before left."""
    for line in running.lab.lines:
        running.lab.restore(line.name)
        ip(running.lab, "gw", "link", "set", "dev", line.name, "up")
    eventually(lambda: all_active(running.tunnel, running.lab), SETTLE_S, "both lines are used")
    return running


def state_of(bond: Any, line: str, end: str) -> str:
    return str(links(bond.tunnel, end)[line]["state"])


@pytest.mark.parametrize("upload", [True, False], ids=["up", "down"])
def test_a_silent_line_stops_nothing_and_comes_back(bond: Any, upload: bool) -> None:
    sender = "client" if upload else "server"
    with Flow(bond.lab, upload=upload) as flow:
        flow.flows(5_000_000)
        cut_at = time.monotonic()
        bond.lab.cut("a")
        for end in ("client", "server"):
            eventually(lambda end=end: state_of(bond, "a", end) in ("stalled", "dead"), 3, "a is given up")
        seen = json.loads(bond.tunnel.command("client", "status", "--json").stdout)
        (down,) = [link for link in seen["tunnels"][0]["links"] if link["name"] == "a"]
        assert down["state"] in ("stalled", "dead")
        assert re.match(r"no answer|nothing came", down["reason"])
        assert seen["tunnels"][0]["state"] == "up"
        flow.flows(5_000_000)
        silence_s = flow.silence_s(since=cut_at)
        assert silence_s < SILENCE_MAX_S
        alone_since = time.monotonic()
        flow.flows(6_000_000)
        assert flow.bits_per_second(alone_since, time.monotonic()) > 0.6 * ONE_LINE_BPS

        before = links(bond.tunnel, sender)["a"]["tx_bytes"]
        back_at = time.monotonic()
        bond.lab.restore("a")
        back_s = seconds_until(lambda: all_active(bond.tunnel, bond.lab), RETURN_MAX_S, "a is used again")
        print(f"silent for {silence_s:.2f} s after the cut; used again {back_s:.2f} s after its return")
        assert links(bond.tunnel, "client")["a"]["reason"] == ""
        left_s = RETURN_MAX_S - (time.monotonic() - back_at)
        eventually(
            lambda: links(bond.tunnel, sender)["a"]["tx_bytes"] - before > 1_000_000, left_s, "a carries"
        )
        assert flow.silence_s(since=back_at) < SILENCE_MAX_S
        assert flow.failures == []


def test_a_line_that_dies_idle_is_noticed(bond: Any) -> None:
    eventually(lambda: status(bond.tunnel, "client")["tunnels"][0]["links"][0]["tx_bps"] < 50_000, 5, "idle")
    bond.lab.cut("b")
    eventually(lambda: state_of(bond, "b", "client") in ("stalled", "dead"), 3, "b is given up")
    assert len(measure.ping(bond.lab, PEER_ADDRESS, count=10, interval_s=0.02)) == 10


def test_all_lines_silent_for_five_seconds(bond: Any) -> None:
    with Flow(bond.lab) as flow:
        flow.flows(2_000_000)
        for line in bond.lab.lines:
            bond.lab.cut(line.name)
        cut_at = time.monotonic()
        eventually(
            lambda: {link["state"] for link in links(bond.tunnel, "client").values()} <= {"stalled", "dead"},
            3,
            "both are given up",
        )
        assert status(bond.tunnel, "client")["tunnels"][0]["state"] == "connecting"
        time.sleep(max(0.0, cut_at + 5 - time.monotonic()))  # the case itself: no waiting for anything
        back_at = time.monotonic()
        for line in bond.lab.lines:
            bond.lab.restore(line.name)
        bond.tunnel.await_echo(RETURN_MAX_S)
        eventually(lambda: all_active(bond.tunnel, bond.lab), RETURN_MAX_S, "both lines are used")
        # TCP doubled its timeout while it heard nothing: it sends again within as long as the cut lasted.
        flow.flows(2_000_000, within_s=10)
        assert flow.silence_s(since=back_at) < 12
        assert flow.failures == []


@pytest.mark.parametrize("where", ["gw", "srv"])
def test_an_interface_goes_down_and_up(bond: Any, where: str) -> None:
    with Flow(bond.lab) as flow:
        flow.flows(3_000_000)
        down_at = time.monotonic()
        ip(bond.lab, where, "link", "set", "dev", "a", "down")
        eventually(lambda: state_of(bond, "a", "client") != "active", 3, "a is given up")
        flow.flows(5_000_000)
        assert flow.silence_s(since=down_at) < SILENCE_MAX_S
        assert links(bond.tunnel, "client")["a"]["reason"] != ""

        before = links(bond.tunnel, "client")["a"]["tx_bytes"]
        ip(bond.lab, where, "link", "set", "dev", "a", "up")
        eventually(
            lambda: (
                all_active(bond.tunnel, bond.lab)
                and links(bond.tunnel, "client")["a"]["tx_bytes"] - before > 500_000
            ),
            RETURN_MAX_S,
            "a carries again",
        )
        assert flow.failures == []
