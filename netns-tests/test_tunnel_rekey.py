"""New keys every second under load: TCP inside never notices.

    10.64.1.2  a  === 50 Mbit/s, 10 ms === a  10.64.1.1
    gw bond0 172.21.1.2                                         srv office0 172.21.1.1
    10.64.2.2  b  === 50 Mbit/s, 10 ms === b  10.64.2.1         lo 198.51.100.1

The load, 20 Mbit/s, is far from what the lines take, so that nothing but a rekey could lose a segment.
"""

import itertools
import time
from collections.abc import Callable
from typing import Any

import pytest
from observe import Flow, all_active, drops, eventually, status

from bondvpn.lab.shape import twins

pytestmark = pytest.mark.netns

LOAD_S = 8.0
REKEYS_MIN = 5  # of 7 or 8: a handshake takes a round trip, and two noisy cores their time


@pytest.mark.parametrize("workers", [1, 2], ids=["alone", "workers"])
@pytest.mark.parametrize("upload", [True, False], ids=["up", "down"])
def test_rekeys_under_load_cost_no_segment(bond_over: Callable[..., Any], upload: bool, workers: int) -> None:
    """Of two workers half of the handshakes reach the one that does not know the client."""
    bond = bond_over(twins(), rekey_after="1s", clients=workers, workers=workers)
    if workers > 1:
        bond.tunnel.start("client2")
        bond.tunnel.await_echo(10, 2)
    eventually(lambda: all_active(bond.tunnel, bond.lab), 10, "both lines are used")
    before = {end: drops(bond.tunnel, end) for end in ("client", "server")}
    ages: dict[str, list[float]] = {"client": [], "server": []}
    with Flow(bond.lab, upload=upload, bits_per_second=20e6) as flow:
        give_up_at = time.monotonic() + LOAD_S
        while time.monotonic() < give_up_at:
            for end, seen in ages.items():
                seen.append(status(bond.tunnel, end)["tunnels"][0]["handshake_age_s"])
            time.sleep(0.1)
        assert flow.received * 8 > 0.9 * 20e6 * LOAD_S
        assert flow.failures == []
        assert flow.retransmits == 0
    for end, seen in ages.items():
        rekeys = sum(later < earlier for earlier, later in itertools.pairwise(seen))
        assert rekeys >= REKEYS_MIN, seen
        assert max(seen) < 3, seen
        new = {why: n - before[end].get(why, 0) for why, n in drops(bond.tunnel, end).items()}
        assert {why for why, n in new.items() if n} <= {"late"}, new
