"""How large the super-frames may be that the kernel hands to the TAP."""

import pytest

from bondvpn.datapath.slab import CHUNK_MAX_BYTES, run_frame_bytes
from bondvpn.runtime.tunnel import GSO_MIN_BYTES, GSO_S, _gso_bytes

CAPACITIES = [CHUNK_MAX_BYTES, 1358, 1130]
FULL_PACKETS_BYTES = 6 * 1500


@pytest.mark.parametrize("capacity", CAPACITIES)
@pytest.mark.parametrize("rate_bps", [None, 1e10])
def test_unlimited_and_fast_lines_are_bounded_by_what_one_run_carries(
    capacity: int, rate_bps: float | None
) -> None:
    assert _gso_bytes(rate_bps, capacity) == run_frame_bytes(capacity)


@pytest.mark.parametrize("capacity", CAPACITIES)
def test_slower_lines_by_their_sum_and_six_full_packets_always_fit(capacity: int) -> None:
    assert _gso_bytes(80e6, capacity) == int(80e6 / 8 * GSO_S)
    assert _gso_bytes(1e6, capacity) == GSO_MIN_BYTES >= FULL_PACKETS_BYTES
