"""A line whose queue others fill, on the simulated line; the other host runs cubic."""

from collections import deque
from math import inf

import pytest
from simulatedline import REPORT_S, TICK_S, SimulatedLine

from bondvpn.bond.capacity import WINDOW_MIN_BYTES, Phase
from bondvpn.bond.contention import QUEUE_MAX_S, Round
from bondvpn.bond.cubic import Cubic
from bondvpn.bond.delivery import DATAGRAM_BYTES
from bondvpn.bond.sharing import Sharing

MODEM_S = 0.1


class SharedLine(SimulatedLine):
    """With another host's transfer in the same queue while `others`."""

    others = False

    def __init__(self, mbit: float, delay_s: float, *, buffer_s: float = MODEM_S, seed: int = 1) -> None:
        super().__init__(mbit, delay_s, buffer_s=buffer_s, seed=seed)
        self.theirs = 0  # bytes that came
        self.their_acks: deque[float] = deque()
        self.slow_start = 10.0  # their window until the first loss, datagrams
        self.cubic: Cubic | None = None
        self.cut_at = 0.0

    @property
    def their_window(self) -> float:
        return self.slow_start if self.cubic is None else self.cubic.window / DATAGRAM_BYTES

    def _send(self) -> None:
        super()._send()
        now = self.now
        while self.their_acks and self.their_acks[0] <= now:
            self.their_acks.popleft()
            self.theirs += DATAGRAM_BYTES
            self.slow_start += 1
        if not self.others:
            return
        rtt_s = 2 * self.delay_s + max(0.0, self.free_at - now)
        if self.cubic is not None:
            self.cubic.grow(TICK_S, rtt_s)
        while len(self.their_acks) < self.their_window:
            waits = max(0.0, self.free_at - now)
            if waits > self.buffer_s:
                if now - self.cut_at > rtt_s:
                    self.cubic = self.cubic or Cubic(self.slow_start * DATAGRAM_BYTES)
                    self.cubic.lost()
                    self.cut_at = now
                break
            self.free_at = now + waits + DATAGRAM_BYTES / self.rate
            self.their_acks.append(self.free_at + 2 * self.delay_s)

    def share(self, seconds: float) -> float:
        """Of the line's rate that is ours."""
        return self.run(seconds) / self.rate


def above(line: SimulatedLine, seconds: float) -> float:
    """The longest time in `seconds` for which what we have under way took more than QUEUE_MAX_S."""
    longest = lasts = 0.0
    for _ in range(int(seconds / TICK_S)):
        line.run(TICK_S)
        ours_s = line.in_flight / line.rate - 2 * line.delay_s - REPORT_S
        lasts = lasts + TICK_S if ours_s > QUEUE_MAX_S else 0.0
        longest = max(longest, lasts)
    return longest


@pytest.mark.parametrize("begins_s", [0.2, 3.0])
def test_beside_another_host_a_line_keeps_its_share(begins_s: float) -> None:
    """Also if what it carries alone was never seen."""
    line = SharedLine(50, 0.010)
    line.run(begins_s)
    line.others = True
    line.run(4)
    assert line.capacity.phase is Phase.CONTENDED
    before = line.theirs
    ours = line.share(10)
    assert 0.3 <= ours <= 0.7
    assert ours + (line.theirs - before) / 10 / line.rate >= 0.95
    assert line.capacity.delays.base_rtt_s < 0.025, "their queue became part of the base"


def test_the_queue_is_short_again_soon_after_the_others_have_left() -> None:
    line = SharedLine(50, 0.010)
    line.run(3)
    line.others = True
    line.run(8)
    assert line.capacity.phase is Phase.CONTENDED
    line.others = False
    line.run(1)
    assert line.capacity.phase is Phase.STEADY
    assert line.share(2) >= 0.97
    assert max(line.queues) < 0.030


@pytest.mark.parametrize("mbit", [25, 5])
def test_a_shared_line_that_becomes_slower_is_not_overrun(mbit: float) -> None:
    """The modem holds a second; what it held more than that of ours may not stay."""
    line = SharedLine(50, 0.010, buffer_s=1.0)
    line.run(3)
    line.others = True
    line.run(4)
    line.others = False
    line.rate = mbit * 1e6 / 8
    line.run(3)
    assert line.share(4) >= 0.9
    assert sorted(line.queues)[len(line.queues) // 2] < 0.050


@pytest.mark.parametrize("mbit", [50, 10])
@pytest.mark.parametrize("begins_s", [0.05, 0.2, 3.0])
@pytest.mark.parametrize("buffer_s", [0.1, 0.3, 1.0])
def test_no_queue_is_long_because_of_us(mbit: float, begins_s: float, buffer_s: float) -> None:
    """Whatever the modem holds, and whether or not the line's rate is known."""
    line = SharedLine(mbit, 0.010, buffer_s=buffer_s)
    line.run(begins_s)
    line.others = True
    assert above(line, 9) == 0.0
    line.others = False
    assert above(line, 5) == 0.0


@pytest.mark.parametrize(
    ("mbit", "buffer_s", "most_s"),
    [(25, 0.1, 1.0), (25, 0.3, 2.0), (25, 1.0, 1.0), (5, 0.1, 3.5), (5, 0.3, 3.5), (5, 1.0, 3.5)],
)
def test_our_queue_on_a_shared_line_that_becomes_slower(mbit: float, most_s: float, buffer_s: float) -> None:
    """At a tenth of its rate what is under way takes 0.9 s, and the reports are as late: hence 3.5."""
    line = SharedLine(50, 0.010, buffer_s=buffer_s)
    line.run(3)
    line.others = True
    line.run(4)
    line.others = False
    line.rate = mbit * 1e6 / 8
    assert above(line, 10) < most_s


@pytest.mark.parametrize("kilobytes_per_s", [50.0, 600.0, 3000.0])
def test_a_line_that_became_slow_is_not_taken_for_a_shared_one(kilobytes_per_s: float) -> None:
    """At 50 kB/s the four datagrams of the smallest window take 120 ms."""
    line = SimulatedLine(50, 0.010)
    line.run(3)
    line.rate = kilobytes_per_s * 1e3
    line.run(3)
    smallest = WINDOW_MIN_BYTES / line.rate
    line.run(12)
    assert max(line.queues) < 0.060 + 2 * smallest
    assert line.capacity.window < 2 * max(WINDOW_MIN_BYTES, line.rate * 0.040)


@pytest.mark.parametrize("longer_s", [0.010, 0.030, 0.100])
@pytest.mark.parametrize("loss", [0.0, 0.005])
def test_a_longer_route_is_not_taken_for_other_traffic(longer_s: float, loss: float) -> None:
    """The modem holds a second, and it is not filled."""
    line = SimulatedLine(16, 0.020, loss=loss)
    line.run(6)
    line.delay_s += longer_s
    before = line.now
    line.run(6)
    assert sum(queue > 0.150 for queue in line.queues) * TICK_S < 1.0, before
    assert line.run(3) >= 0.9 * line.rate
    assert line.capacity.delays.base_rtt_s == pytest.approx(2 * line.delay_s, abs=0.006)


def test_rounds_in_which_nothing_came_teach_nothing_of_the_best_rate() -> None:
    """A path that takes small probes and no data: told of, with a short queue, and nothing brought."""
    sharing = Sharing()
    sharing.begins(0.0)
    seen = Round(queue=0.0, aim=0.004, rate=0.0, came=0, lost=10, used=True, trip_s=0.05, empty_trip_s=0.05)
    for step in range(40):
        assert sharing.alone(seen, 6056.0, 0.0, 0.0, step * 0.05, small=False) is None
    assert sharing.best == inf
