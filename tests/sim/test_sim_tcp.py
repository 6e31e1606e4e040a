"""The simulated TCP by itself, over one line without a bond: it must do what Linux does there.

The kernel's figures, same lines emulated in namespaces, stand in docs/design.md beside the simulator's.
"""

from typing import Any

import pytest
from hosts import PlainWorld
from hypothesis import given
from hypothesis import strategies as st
from ranges import Ranges
from scenario import Scenario
from simresult import Result
from simulation import simulate_plain
from tcpframes import MSS_BYTES
from tcpreceiver import TcpReceiver
from tcpsender import TcpSender

from bondvpn.lab import shape
from bondvpn.lab.shape import Shape

SEEDS = (1, 2)


def line(mbit: float, delay_ms: float, *, seed: int = 1, **both: Any) -> shape.Line:
    return shape.line("line", up_mbit=mbit, down_mbit=mbit, delay_s=delay_ms / 1e3, seed=seed, **both)


def plain(one: shape.Line, cc: str, **settings: Any) -> Result:
    settings = {"seconds": 10.0, "skip_s": 2.0, "probe_hz": 0.0, **settings}
    return simulate_plain(Scenario([one], cc=cc, **settings))


# -- the line is filled -------------------------------------------------------------------------------
@pytest.mark.parametrize("cc", ["cubic", "reno", "bbr"])
def test_one_flow_fills_a_line_without_loss(cc: str) -> None:
    result = plain(line(10, 10), cc)
    assert 0.99 < result.share <= 1.001
    assert result.timeouts == 0


def test_cubic_fills_the_modems_queue_and_bbr_does_not() -> None:
    queues = [plain(line(10, 10), cc).queue_p99_s[0] for cc in ("cubic", "bbr")]
    assert queues[0] > 0.09
    assert queues[1] < 0.05


def test_four_flows_share_a_line() -> None:
    result = plain(line(10, 10), "cubic", flows=4, seconds=30.0)
    assert result.share > 0.98
    assert result.jain > 0.75


def test_an_upload_is_the_same_story() -> None:
    assert plain(line(10, 10), "cubic", upload=True).share > 0.99


# -- loss ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("loss", [0.005, 0.02])
def test_reno_is_slowed_by_loss_as_the_square_root_says(loss: float) -> None:
    """Mathis et al. 1997: MSS / RTT × sqrt(3 / 2p)."""
    runs = [plain(line(30, 40, seed=seed, loss=loss), "reno", seconds=60.0) for seed in SEEDS]
    expected = MSS_BYTES * 8 / 0.08 * (1.5 / loss) ** 0.5
    assert 0.7 < sum(run.goodput_bps for run in runs) / len(runs) / expected < 1.3


def test_loss_ruins_cubic_and_not_bbr() -> None:
    lossy = line(30, 40, loss=0.005)
    assert 0.06 < plain(lossy, "cubic", seconds=30.0).share < 0.15  # Linux: 2 to 3 Mbit/s
    assert plain(lossy, "bbr", seconds=15.0, skip_s=5.0).share > 0.85


def test_what_was_lost_is_sent_again_once() -> None:
    result = plain(line(10, 10, loss=0.01), "cubic", skip_s=0.0)
    lost = result.lost[0] + result.overflowed[0]
    assert lost > 20
    assert lost - 3 <= result.retransmitted <= lost + 3  # the last may still be under way, a tail is probed
    assert result.timeouts == 0


# -- delay --------------------------------------------------------------------------------------------
def after_a_longer_way(cc: str) -> float:
    """Share of the line when the handshake saw 20 ms and the data sees 120."""
    world = PlainWorld(line(10, 10))
    sender = TcpSender(world.clock, world.server.emit, from_server=True, ports=(443, 40_000), cc=cc)
    receiver = TcpReceiver(world.clock, world.client.emit, from_server=False, ports=(40_000, 443))
    world.server.tcp[443], world.client.tcp[40_000] = sender, receiver
    sender.start()
    world.run(0.021)
    world.pipes[False].reshape(world.pipes[False].shape.changed(delay_s=0.110), world.clock.now)
    world.run(3)
    before = receiver.delivered
    world.run(5)
    return (receiver.delivered - before) * 1514 * 8 / 5 / 10e6


def test_bbr_believes_the_shortest_round_trip_for_ten_seconds() -> None:
    """Why a SYN must not bypass an equalised stream: bbr's window is twice the rate times min_rtt."""
    assert after_a_longer_way("bbr") < 0.5
    assert after_a_longer_way("cubic") > 0.9


# -- silence ------------------------------------------------------------------------------------------
def test_silence_ends_in_timeouts_that_double() -> None:
    world = PlainWorld(line(10, 10))
    sender = TcpSender(world.clock, world.server.emit, from_server=True, ports=(443, 40_000), cc="cubic")
    receiver = TcpReceiver(world.clock, world.client.emit, from_server=False, ports=(40_000, 443))
    world.server.tcp[443], world.client.tcp[40_000] = sender, receiver
    sender.start()
    world.run(2)
    for pipe in world.pipes.values():
        pipe.cut()
    world.run(3)
    assert 2 <= sender.timeouts <= 4
    assert sender.cwnd == 1
    for pipe in world.pipes.values():
        pipe.restore()
    before = receiver.delivered
    world.run(6)
    assert receiver.delivered - before > 1000


# -- reordering ---------------------------------------------------------------------------------------
class Shuffled:
    """Two paths by turns, one `extra_s` longer: packet by packet reordering, no loss."""

    def __init__(self, extra_s: float) -> None:
        self.world = world = PlainWorld(shape.Line("a", up=Shape(delay_s=0.01), down=Shape(delay_s=0.01)))
        self.count = 0
        clock = world.clock

        def emit(frame: bytes) -> None:
            self.count += 1
            late = extra_s if self.count % 2 else 0.0
            clock.at(clock.now + late, lambda: world.server.emit(frame))

        self.sender = TcpSender(
            clock, emit, from_server=True, ports=(443, 40_000), cc="cubic", gso_bytes=lambda: 1514
        )
        self.receiver = TcpReceiver(clock, world.client.emit, from_server=False, ports=(40_000, 443))
        world.server.tcp[443], world.client.tcp[40_000] = self.sender, self.receiver
        self.sender.window = 50
        self.sender.start()
        world.run(8)


def test_reordering_is_learned_at_once_if_small_and_by_dsacks_if_not() -> None:
    """RACK starts strict, then waits a quarter of min_rtt, here 5 ms, and a quarter more per DSACK."""
    small, large = Shuffled(0.003), Shuffled(0.012)
    assert small.receiver.out_of_order > 1000
    assert small.sender.recoveries == 1
    assert small.sender.reo_steps <= 2
    assert 3 <= large.sender.recoveries <= 20
    assert large.sender.reo_steps >= 3
    assert large.receiver.duplicates >= 2


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 8)), max_size=20), st.integers(0, 48))
def test_ranges_are_a_set_of_integers(added: list[tuple[int, int]], bound: int) -> None:
    ranges, model = Ranges(), set()
    for left, size in added:
        fresh = {at for first, past in ranges.add(left, left + size) for at in range(first, past)}
        assert fresh == set(range(left, left + size)) - model
        model |= fresh
    ranges.drop_below(bound)
    model = {at for at in model if at >= bound}
    assert {at for at in range(60) if ranges.around(at)} == model
    for at in model:
        first, past = ranges.around(at)
        assert set(range(first, past)) <= model
        assert first - 1 not in model
        assert past not in model
