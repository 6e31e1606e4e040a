"""The window of CUBIC (RFC 9438), for a line that others fill too."""

from math import cbrt

from bondvpn.bond.delivery import DATAGRAM_BYTES

CUBIC_BETA = 0.7  # RFC 9438, 4.6
CUBIC_C = 0.4  # RFC 9438, 5.1; datagrams per second^3


class Cubic:
    """A window by RFC 9438, of DATAGRAM_BYTES; grows by time."""

    def __init__(self, window: float) -> None:
        self.window = window
        self._largest = window / DATAGRAM_BYTES  # W_max
        self._estimate = self._largest  # W_est, what Reno would have
        self._flat = 0.0  # K
        self._elapsed = 0.0

    def lost(self) -> None:
        """A loss, the first for a round trip."""
        now = self.window / DATAGRAM_BYTES
        # Fast convergence: it makes room for a flow that is new (4.7).
        self._largest = now * (1 + CUBIC_BETA) / 2 if now < self._largest else now
        self.window *= CUBIC_BETA
        self._estimate = now * CUBIC_BETA
        self._flat = cbrt(max(self._largest - self._estimate, 0.0) / CUBIC_C)
        self._elapsed = 0.0

    def grow(self, seconds: float, srtt_s: float) -> None:
        """So long the window was all used."""
        self._elapsed += seconds
        self._estimate += 3 * (1 - CUBIC_BETA) / (1 + CUBIC_BETA) * seconds / srtt_s
        target = CUBIC_C * (self._elapsed + srtt_s - self._flat) ** 3 + self._largest
        present = self.window / DATAGRAM_BYTES
        step = (min(target, 1.5 * present) - present) * min(1.0, seconds / srtt_s)
        self.window = max(present + max(step, 0.0), self._estimate) * DATAGRAM_BYTES
