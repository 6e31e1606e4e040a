"""Learned capacity on a simulated line: a FIFO of fixed rate and buffer, reports each 10 ms, virtual time."""

import random
from collections import deque

import pytest

from bondvpn.bond.capacity import (
    DATAGRAM_BYTES,
    WINDOW_MIN_BYTES,
    WINDOW_START_BYTES,
    Capacity,
    Phase,
)
from bondvpn.bond.pacer import BURST_S, Pacer

TICK_S = 0.001
REPORT_S = 0.010


class SimulatedLine:
    """A sender with always something to send; what it learns is `capacity`'s."""

    def __init__(
        self, mbit: float, delay_s: float, *, buffer_s: float = 1.0, loss: float = 0.0, seed: int = 1
    ) -> None:
        print(f"seed {seed}")
        self.rng = random.Random(seed)
        self.rate = mbit * 1e6 / 8
        self.delay_s = delay_s
        self.buffer_s = buffer_s
        self.loss = loss
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
                (now + self.delay_s, self.frame_bytes, self.arrived, delay, came, lost, newest)
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
        while self.pacer.room():
            if self.in_flight + DATAGRAM_BYTES > capacity.window:
                capacity.refused(now)
                return
            self.pacer.spend(DATAGRAM_BYTES)
            self.in_flight += DATAGRAM_BYTES
            waits = max(0.0, self.free_at - now)
            came = waits <= self.buffer_s and self.rng.random() >= self.loss
            if waits <= self.buffer_s:
                self.free_at = now + waits + DATAGRAM_BYTES / self.rate
            self.wire.append((max(self.free_at, now) + self.delay_s, now, came))


@pytest.mark.parametrize("delay_s", [0.005, 0.020, 0.060])
@pytest.mark.parametrize("mbit", [2, 16, 50])
def test_it_converges_on_the_lines_rate_with_a_short_queue(mbit: float, delay_s: float) -> None:
    line = SimulatedLine(mbit, delay_s)
    line.run(4)
    assert line.capacity.phase is Phase.STEADY
    assert line.run(4) >= 0.98 * line.rate
    assert line.capacity.rate == pytest.approx(line.rate, rel=0.02)
    queues = sorted(line.queues)
    # The window also holds what comes between two reports, half of which may stand in the queue.
    assert (
        queues[len(queues) // 2] <= 2 * line.capacity.queue_aim_s + REPORT_S / 2 + DATAGRAM_BYTES / line.rate
    )


def test_random_loss_does_not_shrink_the_window() -> None:
    """Though one sample of 70 has twice the loss by chance."""
    clean = SimulatedLine(16, 0.020)
    clean.run(8)
    windows, rates = [], []
    for seed in range(5):
        lossy = SimulatedLine(16, 0.020, loss=0.025, seed=seed)
        lossy.run(4)
        rates.append(lossy.run(4) / (0.975 * lossy.rate))
        windows.append(lossy.capacity.window)
    assert min(rates) >= 0.97
    assert min(windows) >= 0.9 * clean.capacity.window


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_rate_step_is_followed_within_a_second(factor: float) -> None:
    line = SimulatedLine(20, 0.015)
    line.run(4)
    line.rate *= factor
    line.run(1)
    assert line.run(1) >= 0.95 * line.rate
    assert line.capacity.rate == pytest.approx(line.rate, rel=0.05)


def test_a_longer_route_becomes_the_new_base() -> None:
    line = SimulatedLine(16, 0.020)
    line.run(4)
    line.delay_s += 0.030
    line.run(12)
    assert line.run(2) >= 0.97 * line.rate


def test_a_shallow_buffer_is_found_and_not_overrun() -> None:
    line = SimulatedLine(50, 0.010, buffer_s=0.006)
    line.run(4)
    assert line.capacity.phase is not Phase.STARTUP
    assert line.run(4) >= 0.9 * line.rate


def test_what_startup_lost_is_not_held_against_the_line() -> None:
    """It has twice under way what the line holds before it can know; the loss is told when it is over."""
    line = SimulatedLine(30, 0.025, loss=0.005, buffer_s=0.060)
    line.run(1)
    assert line.lost > 0.1 * line.rate * line.buffer_s / DATAGRAM_BYTES
    assert line.run(2) >= 0.97 * (1 - line.loss) * line.rate
    assert line.capacity.loss < 0.03


@pytest.mark.parametrize("delay_s", [0.010, 0.040])
def test_startup_has_no_more_under_way_than_three_times_what_fills_the_line(delay_s: float) -> None:
    line = SimulatedLine(50, delay_s)
    most = 0.0
    while line.capacity.phase is Phase.STARTUP:
        line.run(TICK_S)
        most = max(most, line.in_flight)
    assert line.rate * 2 * delay_s < most < 3 * line.rate * (2 * delay_s + REPORT_S)


def test_a_line_that_returns_gets_half_of_what_it_did_whatever_was_reported_meanwhile() -> None:
    """What stood in the base station meanwhile arrives late, and is no queue any more."""
    line = SimulatedLine(16, 0.020)
    line.run(4)
    before = line.capacity.window
    capacity = line.capacity
    capacity.window, capacity.queue_s = WINDOW_MIN_BYTES, 0.4
    capacity.resume(line.now + 1.0)
    assert capacity.window == pytest.approx(before / 2, rel=0.2)
    assert capacity.queue_s == 0.0
    fresh = Capacity()
    fresh.resume(0.0)
    assert fresh.window == WINDOW_START_BYTES, "it has not carried yet"
