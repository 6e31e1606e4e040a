"""A line as `bond.capacity` sees it: a FIFO of fixed rate and buffer, reports each 10 ms, virtual time."""

import random
from collections import deque
from math import inf

from bondvpn.bond.capacity import Capacity
from bondvpn.bond.delivery import DATAGRAM_BYTES
from bondvpn.bond.pacer import BURST_S, Pacer

TICK_S = 0.001
REPORT_S = 0.010


class SimulatedLine:
    """A sender with always something to send; what it learns is `capacity`'s."""

    def __init__(
        self,
        mbit: float,
        delay_s: float,
        *,
        buffer_s: float = 1.0,
        loss: float = 0.0,
        late_s: float = 0.0,
        seed: int = 1,
    ) -> None:
        """`late_s`: by how much a busy sender is late to read its reports."""
        print(f"seed {seed}")
        self.rng = random.Random(seed)
        self.rate = mbit * 1e6 / 8
        self.delay_s = delay_s
        self.buffer_s = buffer_s
        self.loss = loss
        self.late_s = late_s
        self.capacity = Capacity()
        self.pacer = Pacer(None)
        self.now = 100.0
        self.in_flight = self.lost = 0
        self.free_at = self.now  # when the line has sent what it holds
        self.wire: deque[tuple[float, float, bool]] = deque()  # (arrives, left, came)
        self.reports: deque[tuple[float, int, float, float, int, int, float]] = deque()
        self.frame_bytes = 0
        self.arrived = 0.0
        self.news: tuple[float, int, int, float] | None = None
        self.next_report = self.now
        self.queues: list[float] = []
        self.limit = inf  # bytes a second that the application offers
        self.offered = 0.0

    def run(self, seconds: float) -> float:
        """Bytes a second that came."""
        before, start = self.frame_bytes, self.now
        self.queues = []
        while self.now < start + seconds:
            self._step()
            self.now += TICK_S
        return (self.frame_bytes - before) / (self.now - start)

    def _step(self) -> None:
        capacity, now = self.capacity, self.now
        while self.wire and self.wire[0][0] <= now:
            arrives, left, came = self.wire.popleft()
            delay, n_came, n_lost, newest = self.news or (9e9, 0, 0, left)
            if came:
                self.frame_bytes += DATAGRAM_BYTES
                self.arrived = arrives
                delay, newest = min(delay, arrives - left), left
            self.news = delay, n_came + came, n_lost + (not came), newest
        if now >= self.next_report and self.news is not None and self.news[1]:
            delay, came, lost, newest = self.news
            self.reports.append(
                (now + self.delay_s + self.late_s, self.frame_bytes, self.arrived, delay, came, lost, newest)
            )
            self.news = None
            self.next_report = now + REPORT_S
        while self.reports and self.reports[0][0] <= now:
            _, total, arrived, delay, came, lost, newest = self.reports.popleft()
            self.in_flight -= (came + lost) * DATAGRAM_BYTES
            self.lost += lost
            capacity.on_rtt(arrived - newest + self.delay_s, now)
            capacity.on_report(total, arrived, delay, came, lost, now)
        self._send()
        self.queues.append(max(0.0, self.free_at - now))

    def _send(self) -> None:
        capacity, now = self.capacity, self.now
        self.pacer.set_rate(capacity.pace, BURST_S)
        self.pacer.refill(now)
        self.offered = min(self.offered + self.limit * TICK_S, 10 * DATAGRAM_BYTES)
        while self.offered >= DATAGRAM_BYTES:
            if not self.pacer.room():
                capacity.paced(self.in_flight)
                return
            if self.in_flight + DATAGRAM_BYTES > capacity.window:
                capacity.refused(now)
                return
            self.pacer.spend(DATAGRAM_BYTES)
            if self.limit != inf:
                self.offered -= DATAGRAM_BYTES
            self.in_flight += DATAGRAM_BYTES
            waits = max(0.0, self.free_at - now)
            came = waits <= self.buffer_s and self.rng.random() >= self.loss
            if waits <= self.buffer_s:
                self.free_at = now + waits + DATAGRAM_BYTES / self.rate
            self.wire.append((max(self.free_at, now) + self.delay_s, now, came))
