"""What came over a line, by the receiver's clock, and the largest rate of the last rounds."""

from collections import deque

DATAGRAM_BYTES = 1514  # of a full one, as an Ethernet frame
RATE_DATAGRAMS = 4  # on a slow line the window is as long as it takes for so many


class Delivery:
    """Bytes as Ethernet frames; rates: bytes a second."""

    def __init__(self) -> None:
        self._arrivals: deque[tuple[float, int]] = deque()  # (receiver's clock, bytes in all)
        self._rates: deque[tuple[float, float]] = deque()  # (when, of a limited round)

    def arrived(self, frame_bytes: int, at_s: float, keep_s: float) -> None:
        """So much came in all up to `at_s` by the receiver's clock; `keep_s` of it is enough."""
        self._arrivals.append((at_s, frame_bytes))
        while len(self._arrivals) > 2 and self._arrivals[1][0] < at_s - keep_s:
            self._arrivals.popleft()

    def rate(self, over_s: float) -> float:
        """Over the last `over_s` of the receiver's clock; 0 when there is no telling."""
        end_s, end_bytes = self._arrivals[-1]
        start_s, start_bytes = end_s, end_bytes
        for start_s, start_bytes in reversed(self._arrivals):
            if end_s - start_s >= over_s and end_bytes - start_bytes >= RATE_DATAGRAMS * DATAGRAM_BYTES:
                break
        took = end_s - start_s
        return (end_bytes - start_bytes) / took if took > over_s / 2 else 0.0

    def note(self, rate: float, now: float) -> None:
        """The line brought this much, as far as is known all that it carries."""
        self._rates.append((now, rate))

    def forget(self) -> None:
        """What it brought says nothing any more."""
        self._rates.clear()

    def largest(self, keep_s: float, now: float) -> float:
        """Of those noted in the last `keep_s`; 0: none."""
        while self._rates and self._rates[0][0] < now - keep_s:
            self._rates.popleft()
        return max((rate for _, rate in self._rates), default=0.0)
