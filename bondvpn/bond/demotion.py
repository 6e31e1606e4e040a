"""Do no harm: a line that costs more than it brings carries nothing until it is better.

What a line loses is sent again by the others, and everything behind it is held for a round trip; what it
brings later than the others can wait for is given up. A demoted line is still probed, and is tried again
after a while, which doubles each time that it was no better.
"""

from collections.abc import Sequence

from bondvpn.bond.capacity import Capacity

LOSS_MAX = 0.15  # of what it carries, over LOSS_SAMPLE datagrams (bond.capacity)
WORTH = 0.25  # of what the others bring: a line that brings so much is kept, whatever it loses
BEHIND_MAX_S = 0.5  # the others' queue and the receiver's hold reach no further
BACK_MAX_S = 0.35  # a line demoted for that is used again
RETRY_S = 10.0
RETRY_MAX_S = 160.0
CLEAN_S = 60.0  # without fault: what was is forgotten


class Demotion:
    """Whether one line is used. Times: seconds of one monotonic clock."""

    __slots__ = ("_late", "_retry_s", "_since", "demoted", "reason")

    def __init__(self) -> None:
        self.demoted = False
        self.reason = ""
        """Why, in words; empty while it is used."""
        self._late = False  # whether its delay is why
        self._since = 0.0
        self._retry_s = RETRY_S

    def judge(self, line: Capacity, others: Sequence[Capacity], now: float) -> bool:
        """Compare the line with the other usable ones; True if whether it is used has changed."""
        if self.demoted:
            if self._late and _behind_s(line, others) <= BACK_MAX_S:
                self._try(line, now)  # what others had queued there is gone
                return True
            if others and now - self._since < self._retry_s:
                return False
            self._retry_s = min(self._retry_s * 2, RETRY_MAX_S)
            self._try(line, now)
            return True
        if now - self._since > CLEAN_S:
            self._retry_s = RETRY_S
        why = _lossy(line, others)
        behind = _behind_s(line, others)
        self._late = not why and behind > BEHIND_MAX_S
        if self._late:
            why = f"would hold the others back {behind * 1e3:.0f} ms"
        if not why:
            return False
        self.demoted, self.reason, self._since = True, f"demoted: {why}", now
        return True

    def pardon(self, line: Capacity, now: float) -> None:
        """What was wrong with the line has been found and mended: it is tried at once."""
        if self.demoted:
            self._try(line, now)

    def _try(self, line: Capacity, now: float) -> None:
        self.demoted, self.reason, self._since = False, "", now
        line.resume(now)


def _lossy(line: Capacity, others: Sequence[Capacity]) -> str:
    brings = line.rate * (1 - line.loss)
    if others and line.loss > LOSS_MAX and brings < WORTH * sum(other.rate for other in others):
        return f"{line.loss:.0%} loss"
    return ""


def _behind_s(line: Capacity, others: Sequence[Capacity]) -> float:
    """By how much its delay exceeds the quickest of the others'; 0 while one is not known."""
    delays = [delay for other in others if (delay := other.delays.base_delay_s) is not None]
    own = line.delays.base_delay_s
    return own - min(delays) if own is not None and delays else 0.0
