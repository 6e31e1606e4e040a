"""Token bucket for one line: the queue stands here and not in the modem.

Tokens are bytes that may leave now. A datagram (or a run of them in one sendmsg) goes when there is any token
at all and may overdraw; the debt is paid back before the next one leaves. So the long-run average of a sender
that always has something to send is the rate itself, however large its runs, as long as it comes back no
later than `burst_s` after there was room again. What the bucket cannot hold is lost, and that is what bounds
the burst after an idle time.
"""

from math import ceil, inf

from bondvpn.bond.delivery import DATAGRAM_BYTES

# Depth of the bucket. The loop's timers fire up to 1 ms late and a shared core adds 1 to 2 ms of scheduling
# noise: a smaller bucket would lose rate to that. As a burst it is 4 ms of the line, which the modem queues.
BURST_S = 0.004
# What is worth a wake-up and a call of its own: with it two lines of 50 Mbit/s take a sender 11 % less CPU
# (bbr 13), and a probe beside them has 34 and 36 ms at p99, not 41 and 49 (3 runs in turns on a slow host).
GATHERED_BYTES = 4 * DATAGRAM_BYTES


class Pacer:
    """One line's rate. Times: seconds of one monotonic clock; sizes: bytes as counted on the line."""

    __slots__ = ("_at", "_bytes_per_s", "_depth", "_least", "tokens")

    def __init__(self, rate_bps: int | None, burst_s: float = BURST_S) -> None:
        """`rate_bps`: bit/s, above 0; None: no limit. `burst_s`: depth of the bucket, full at first."""
        self._bytes_per_s = 0.0 if rate_bps is None else rate_bps / 8
        self._depth = inf if rate_bps is None else self._bytes_per_s * burst_s
        self._least = 0.0  # no room with so many tokens or fewer
        self._at = 0.0
        self.tokens = self._depth
        """Bytes that may leave now; negative: the debt of the last run. Infinite without a rate."""

    def set_rate(self, bytes_per_s: float, burst_s: float, *, gather: bool = False) -> None:
        """The rate and depth from now on. `gather`: there is room once half a bucket has come together, if
        that holds GATHERED_BYTES: fewer runs, and no burst that would not have been."""
        self._bytes_per_s = bytes_per_s
        self._depth = max(bytes_per_s * burst_s, 1.0)
        self.tokens = min(self.tokens, self._depth)
        gathers = gather and self._depth >= GATHERED_BYTES
        self._least = min(self._depth / 2, GATHERED_BYTES) if gathers else 0.0

    def refill(self, now: float) -> None:
        """Credit the time since the last call. A clock that stands or steps back credits nothing."""
        elapsed = now - self._at
        if elapsed > 0:
            self._at = now
            self.tokens = min(self._depth, self.tokens + elapsed * self._bytes_per_s)

    def room(self) -> bool:
        """May the next datagram or run leave?"""
        return self.tokens > self._least

    def run_bytes(self) -> float:
        """What may leave by one call: the datagram that overdraws goes with those before it, not at the full
        price of a call of its own. Infinite without a rate."""
        if self.tokens == inf:
            return inf
        return ceil(self.tokens / DATAGRAM_BYTES) * DATAGRAM_BYTES

    def spend(self, nbytes: int) -> None:
        """Account for what was sent, `nbytes` on the line."""
        self.tokens -= nbytes

    def next_time(self) -> float:
        """When there is room again: the last refill's time if there is now.

        One byte's time late: at the exact moment rounding may leave the bucket a hair below its mark, and the
        timer would spin.
        """
        if self.room():
            return self._at
        return self._at + (1.0 + self._least - self.tokens) / self._bytes_per_s
