"""Which bulk stream a flow takes.

A flow that is new, or was silent for IDLE_S, takes the stream that has been unused for the longest, and stays
there. By their hash alone 4 flows share one of 16 streams in a third of all cases; whoever shares it has half
a turn, and cubic beside bbr in one queue next to nothing (Jain's index of 4 flows: 0.77, `bench sharing`).
"""

from math import inf

from bondvpn.bond.classify import FLOWS
from bondvpn.wire.sealed import BULK_STREAMS

# Nothing waits so long while a line lives: what the flow sent before has come when it takes another stream.
IDLE_S = 10.0


class Flows:
    """Times: seconds of one monotonic clock."""

    __slots__ = ("_seen", "_stream", "_used")

    def __init__(self) -> None:
        self._stream = [0] * (1 + FLOWS)
        self._seen = [-inf] * (1 + FLOWS)
        self._used = [-inf] * BULK_STREAMS  # from stream 1 on

    def stream(self, flow: int, now: float) -> int:
        """The stream, 1..BULK_STREAMS, of a flow that `classify` named 1..FLOWS and that sends now."""
        if now - self._seen[flow] > IDLE_S:
            self._stream[flow] = 1 + self._used.index(min(self._used))
        self._seen[flow] = now
        stream = self._stream[flow]
        self._used[stream - 1] = now
        return stream
