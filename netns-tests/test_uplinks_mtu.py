"""A path whose MTU shrinks behind the gateway's back, while a connection runs.

                    +-- eth1 10.1.0.2/24 --- lan r1 --+
    gw bond0 .1.2 --+                                 +-- srv office0 .1.1   lo 198.51.100.1
                    +-- eth2 10.2.0.2/24 --- lan r2 --+

The second line is slower than a connection wants, so that the first one is needed. r1's lan shrinks to 1400.
What srv sends is then too large for r1 to forward, which says so by ICMP unless its packet filter forbids it;
what gw sends vanishes on the cable, and nobody says a word.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from observe import Flow, eventually, links
from premises import Premises, await_active, tunnel

from bondvpn.lab import namespace

pytestmark = pytest.mark.netns

FOUND_MAX_S = 10.0  # by what is lost; the confirmation every 15 s would take longer
FOUND_BY_ICMP_MAX_S = 1.5
SILENCE_MAX_S = 1.5
NO_ICMP = """
table ip f {
    chain out {
        type filter hook output priority 0;
        ip protocol icmp drop
    }
}
"""
SLOW = "tbf rate 20mbit burst 16kb latency 50ms"
UPLINKS = "".join(
    f'[[uplink]]\nname = "{name}"\ninterface = "eth{i}"\ngateway = "10.{i}.0.1"\n'
    for i, name in enumerate(("one", "two"), 1)
)


@pytest.fixture
def premises(premises_with: Callable[[int], Premises]) -> Iterator[Premises]:
    premises = premises_with(2)
    for i in (1, 2):
        premises.join("gw", f"eth{i}", f"r{i}", "lan", f"10.{i}.0.2/24", f"10.{i}.0.1/24")
        # A veth lets a whole run pass that it would not cut itself, whatever the MTU behind it.
        namespace.wire_size(premises.namespace("gw"), [f"eth{i}"])
        premises.provider(i, f"10.{i}.0.0/24")
    for where, interface in (("gw", "eth2"), ("r2", "lan")):
        premises.run(where, ["tc", "qdisc", "add", "dev", interface, "root", *SLOW.split()], check=True)
    return premises


@pytest.mark.parametrize(("upload", "icmp"), [(True, True), (False, False)], ids=["silent cable", "no icmp"])
def test_found_and_survived(premises: Premises, tmp_path: Path, upload: bool, icmp: bool) -> None:
    if not icmp:
        premises.nft("r1", NO_ICMP)
    sender = "client" if upload else "server"
    with tunnel(premises, tmp_path / "etc", UPLINKS) as both:
        await_active(both, "one", "two")
        eventually(lambda: links(both, sender)["one"]["path_mtu"] == 1500, 5, "1500 at first")
        with Flow(premises, upload=upload, congestion="cubic") as flow:
            flow.flows()
            premises.ip("r1", "link set lan mtu 1400")
            since = time.monotonic()
            eventually(lambda: links(both, sender)["one"]["path_mtu"] == 1400, FOUND_MAX_S, "1400 is found")
            print(f"found after {time.monotonic() - since:.1f} s, silence {flow.silence_s(since):.2f} s")
            eventually(lambda: not links(both, sender)["one"]["demoted"], 2, "used again")
            flow.flows()
            await_active(both, "one", "two")
            assert flow.failures == []
            assert flow.silence_s(since) < SILENCE_MAX_S


def test_a_router_that_says_so_is_heard(premises: Premises, tmp_path: Path) -> None:
    """What it says is probed, and found sooner than by what is lost."""
    with tunnel(premises, tmp_path / "etc", UPLINKS) as both:
        await_active(both, "one", "two")
        eventually(lambda: links(both, "server")["one"]["path_mtu"] == 1500, 5, "1500 at first")
        with Flow(premises, upload=False, congestion="bbr") as flow:
            flow.flows()
            premises.ip("r1", "link set lan mtu 1400")
            since = time.monotonic()
            eventually(lambda: links(both, "server")["one"]["path_mtu"] == 1400, FOUND_MAX_S, "1400 is found")
            took_s = time.monotonic() - since
            print(f"found after {took_s:.2f} s, silence {flow.silence_s(since):.2f} s")
            assert took_s < FOUND_BY_ICMP_MAX_S
            flow.flows()
            assert flow.failures == []
            assert flow.silence_s(since) < SILENCE_MAX_S
