"""Dial-up lines: PPP, which comes with another address each time, and an LTE stick, which has no gateway.

           ppp0   192.0.2.N, another at each dialling; MTU 1492 ==\\
    gw                                                              == srv   lo 198.51.100.1
           wwan0  100.64.7.7; MTU 1500                          ==/

Both are point-to-point: no ARP, nothing to name a next hop by. TUN devices stand in for them here.
"""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from observe import Flow, eventually, links
from premises import Dialup, Premises, await_active, tunnel

from bondvpn.lab.shape import Shape

pytestmark = pytest.mark.netns

UPLINKS = """
[[uplink]]
name = "dsl"
interface = "ppp0"
[[uplink]]
name = "lte"
interface = "wwan0"
"""
LINE_BPS = 8e6
HUNG_UP_S = 0.1
# BONDVPN_REDIAL=5:120 makes the long run of it: every 5 s for 120 s. `python -m bench uplinks` sets it.
EVERY_S, FOR_S = (float(word) for word in os.environ.get("BONDVPN_REDIAL", "2.5:10").split(":"))
SHARE_MIN = 0.8 if FOR_S >= 60 else 0.6  # the long run is the measurement: four dials in 10 s scatter by 10 %


@pytest.fixture
def lines(premises_with: Callable[[int], Premises]) -> Iterator[tuple[Premises, Dialup, Dialup]]:
    premises = premises_with(0)
    shape = Shape(rate_bps=LINE_BPS, delay_s=0.010, mtu=1500)
    with Dialup(premises, "ppp0", shape) as ppp, Dialup(premises, "wwan0", shape) as lte:
        ppp.dial("192.0.2.1/32")
        lte.dial("100.64.7.7/32", mtu=1500)
        yield premises, ppp, lte


def test_each_line_has_a_table_and_a_new_dialling_replaces_the_old(
    lines: tuple[Premises, Dialup, Dialup], tmp_path: Path
) -> None:
    premises, ppp, _ = lines
    with tunnel(premises, tmp_path / "etc", UPLINKS) as both:
        await_active(both, "dsl", "lte")
        for number in (1, 2, 3):
            for table, interface in ((4489, "ppp0"), (4490, "wwan0")):
                route = premises.ip("gw", f"route show table {table}").split()
                assert route == ["default", "dev", interface, "proto", "118", "scope", "link"]
            rules = [line.split() for line in premises.ip("gw", "rule show").splitlines() if "118" in line]
            assert {words[2] for words in rules} == {"all", f"192.0.2.{number}", "100.64.7.7"}
            for end in ("client", "server"):
                eventually(lambda end=end: links(both, end)["dsl"]["path_mtu"] == 1492, 5, "the MTU of PPPoE")
            ppp.hang_up()
            gone = "there is no interface ppp0"
            eventually(lambda gone=gone: links(both, "client")["dsl"]["reason"] == gone, 2, gone)
            assert links(both, "client")["dsl"]["state"] == "down"
            ppp.dial(f"192.0.2.{number + 1}/32")
            await_active(both, "dsl", "lte")
        assert both.client_log.count("uplink lte: ") == 1


def test_a_transfer_over_lines_that_are_dialled_again_and_again(
    lines: tuple[Premises, Dialup, Dialup],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    """One of them every few seconds, in turn; most of the lines' sum over all the time gets through."""
    premises, ppp, lte = lines
    with tunnel(premises, tmp_path / "etc", UPLINKS) as both:
        await_active(both, "dsl", "lte")
        with Flow(premises, upload=False, congestion="bbr") as flow:
            flow.flows(4_000_000, within_s=10)
            began = time.monotonic()
            for number in range(round(FOR_S / EVERY_S)):
                time.sleep(max(0.0, began + (number + 1) * EVERY_S - HUNG_UP_S - time.monotonic()))
                line, net, mtu = ((ppp, "192.0.2", 1492), (lte, "100.64.7", 1500))[number % 2]
                line.hang_up()
                time.sleep(HUNG_UP_S)  # the case itself
                line.dial(f"{net}.{100 + number}/32", mtu=mtu)
            ended = time.monotonic()
            share = flow.bits_per_second(began, ended) / (2 * LINE_BPS * 1448 / 1514)
            silence_s = flow.silence_s(began)
            print(f"{share:.0%} of the sum over {ended - began:.0f} s, silent for {silence_s:.2f} s at most")
            record_property("redial_share", share)
            record_property("redial_silence_s", silence_s)
            await_active(both, "dsl", "lte")
            flow.flows(500_000)
            assert flow.failures == []
            assert share >= SHARE_MIN
