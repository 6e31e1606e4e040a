"""What the tunnel costs while nobody uses it.

10.64.1.2  a  === 50 Mbit/s, 10 ms === a  10.64.1.1
gw bond0 172.21.1.2                                         srv office0 172.21.1.1
10.64.2.2  b  === 50 Mbit/s, 10 ms === b  10.64.2.1         lo 198.51.100.1
"""

import time
from collections.abc import Callable
from typing import Any

import pytest
from observe import all_active, cpu_s, eventually, resident_bytes

from bondvpn.lab import measure
from bondvpn.lab.shape import twins
from bondvpn.lab.tunnel import PEER_ADDRESS

pytestmark = pytest.mark.netns

QUIET_S = 5.0
MEASURE_S = 10.0
CORE_SHARE_MAX = 0.02  # two noisy cores; the benchmark asserts 0.005
RESIDENT_MAX_BYTES = 90e6


def test_idle(bond_over: Callable[..., Any]) -> None:
    bond = bond_over(twins())
    eventually(lambda: all_active(bond.tunnel, bond.lab), 10, "both lines are used")
    measure.tcp(bond.lab, PEER_ADDRESS, 1, congestion="cubic")  # what it took for this must be idle again
    time.sleep(QUIET_S)
    pids = {end: process.pid for end, process in bond.tunnel.ends.items()}
    used, since = {end: cpu_s(pid) for end, pid in pids.items()}, time.monotonic()
    time.sleep(MEASURE_S)
    measured_s = time.monotonic() - since
    for end, pid in pids.items():
        share = (cpu_s(pid) - used[end]) / measured_s
        resident = resident_bytes(pid)
        print(f"{end}: {share:.2%} of a core, {resident / 1e6:.1f} MB")
        assert share <= CORE_SHARE_MAX
        assert resident <= RESIDENT_MAX_BYTES
    assert len(measure.ping(bond.lab, PEER_ADDRESS, count=3, interval_s=0.02)) == 3
