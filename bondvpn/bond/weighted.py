"""The weighted scheduler: eql's behaviour, with the queue kept here instead of in the modem.

Each line is served in proportion to its weight: its *served time* is bytes carried divided by its
rate, and the next run goes to the line that has been served the least, which is waited for if it has no
room, as eql does. Every line is paced to its configured speed, so the order and the pacing agree. One without
a speed is bounded by what is under way on it.
"""

from math import inf
from typing import Generic

from bondvpn.bond.aqm import QueueLimits
from bondvpn.bond.capacity import SOCKET_BYTES
from bondvpn.bond.line import EXPRESS_DEBT_S, RUN_BYTES, TURN_S, Choice, L, Line

# What a line may make up for: probes and reports count, which an idle night adds up. At 64 kbit/s a datagram
# alone takes 0.19 s.
BEHIND_MAX_S = 0.25
QUEUE_S = 0.12  # of the lines' sum; more only adds delay


class Weighted(Generic[L]):
    """A `line.Scheduler`."""

    def __init__(self) -> None:
        self.lines: list[L] = []
        self._waiting: L | None = None
        self._default_rate_bps = 1e9

    def set_lines(self, lines: list[L]) -> None:
        """One that comes in owes nothing for its time away."""
        known = self.lines
        self.lines = list(lines)
        level = max((line.served_s for line in known), default=0.0)
        for line in self.lines:
            if line not in known:
                line.served_s = level
        rates = [line.rate_bps for line in self.lines if line.rate_bps]
        # Lines of unknown speed count as an average one.
        self._default_rate_bps = sum(rates) / len(rates) if rates else 1e9
        self._waiting = None

    @property
    def rate_bps(self) -> float | None:
        rates = [line.rate_bps for line in self.lines]
        return None if None in rates or not rates else float(sum(rate for rate in rates if rate))

    @property
    def configured_bps(self) -> float | None:
        return self.rate_bps

    @property
    def spread(self) -> list[L]:
        return self.lines

    @property
    def queue_limits(self) -> QueueLimits:
        rate = inf if self.rate_bps is None else self.rate_bps / 8
        return QueueLimits(rate * QUEUE_S, rate * QUEUE_S, rate, 0.0)

    def next(self, now: float, waiting: int, limit: int) -> Choice[L] | None:
        best = min(self.lines, key=lambda line: line.served_s, default=None)
        if best is None or not self._room(best, now):
            self._waiting = best
            return None
        turn = (best.rate_bps or inf) / 8 * TURN_S
        return Choice(best, int(min(best.pacer.run_bytes(), turn, RUN_BYTES)), 0)

    def express(self, now: float, but: L | None = None) -> L | None:
        best: L | None = None
        for line in self.lines:
            if line.blocked or line is but or (best is not None and line.srtt_s >= best.srtt_s):
                continue
            line.pacer.refill(now)
            if line.rate_bps is None or line.pacer.tokens > -line.rate_bps / 8 * EXPRESS_DEBT_S:
                best = line
        return best

    def patient(self, now: float) -> L | None:
        return self.express(now)

    def copies(self, nbytes: int) -> bool:
        return False

    def soonest(self, now: float, avoid: L | None = None, tries: int = 1) -> L | None:
        return self.express(now, avoid) or self.express(now)

    def mirrors(self, line: L) -> list[L]:
        return []

    def spent(self, line: L, nbytes: int) -> None:
        line.pacer.spend(nbytes)
        least = max([each.served_s for each in self.lines], default=0.0) - BEHIND_MAX_S
        took_s = nbytes * 8 / (line.rate_bps or self._default_rate_bps)
        line.served_s = max(line.served_s, least) + took_s

    def deadline(self, now: float) -> float | None:
        lines = [self._waiting] if self._waiting is not None else self.lines
        times = [line.pacer.next_time() for line in lines if not line.blocked and not _full(line)]
        return max(now, min(times)) if times else None

    @staticmethod
    def _room(line: L, now: float) -> bool:
        if line.blocked or _full(line):
            return False
        line.pacer.refill(now)
        return line.pacer.room()


def _full(line: Line) -> bool:
    """Whether as much is under way as a line without a speed and the other end's socket are known to hold.
    Its window is not asked to grow, but may have, under another scheduler."""
    return line.rate_bps is None and line.in_flight >= max(SOCKET_BYTES, line.capacity.window)
