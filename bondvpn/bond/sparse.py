"""Which UDP flows are sparse: VoIP, games, a ping by UDP, the start of anything. They go express.

A flow counts as sparse until it has sent more than FRAMES_MAX small frames within WINDOW_S, and then again
after DENSE_S. Flows share a table of SLOTS by their hash, so two that meet there count together: a sparse one
may be taken for dense, never the other way.
"""

import struct
from zlib import crc32

SLOTS = 1024
WINDOW_S = 0.1
FRAMES_MAX = 20  # 200 a second: four calls of 20 ms frames
DENSE_S = 1.0

_UDP = 17
_IPV4, _IPV6 = 0x0800, 0x86DD
_ETHERTYPE = struct.Struct(">H").unpack_from
_MASK = SLOTS - 1


class SparseFlows:
    """Times: seconds of one monotonic clock."""

    __slots__ = ("_count", "_dense_until", "_since")

    def __init__(self) -> None:
        self._since = [0.0] * SLOTS
        self._count = [0] * SLOTS
        self._dense_until = [0.0] * SLOTS

    def admits(self, frame: memoryview, now: float) -> bool:
        """Whether this Ethernet frame (64 bytes of it at least, no VLAN tag) is UDP of a sparse flow."""
        if len(frame) < 64:
            return False
        (ethertype,) = _ETHERTYPE(frame, 12)
        if ethertype == _IPV4 and frame[23] == _UDP and frame[14] == 0x45:
            flow = crc32(frame[26:38]) & _MASK
        elif ethertype == _IPV6 and frame[20] == _UDP:
            flow = crc32(frame[22:58]) & _MASK
        else:
            return False
        if now < self._dense_until[flow]:
            return False
        if now - self._since[flow] > WINDOW_S:
            self._since[flow] = now
            self._count[flow] = 0
        self._count[flow] += 1
        if self._count[flow] > FRAMES_MAX:
            self._dense_until[flow] = now + DENSE_S
            return False
        return True
