"""One direction of a line on a virtual clock."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bondvpn.lab.pipe import Pipe, Refusal
from bondvpn.lab.shape import Shape

FRAME = bytes(1514)
MBIT = 1e6


def arrivals(pipe: Pipe) -> list[float]:
    """The arrival times of all that is in the pipe; empties it."""
    times = []
    while (at := pipe.next_deadline()) is not None:
        times += [at] * len(pipe.due(at))
    return times


def test_a_frame_arrives_after_its_sending_time_and_the_delay() -> None:
    pipe = Pipe(Shape(rate_bps=50 * MBIT, delay_s=0.010))
    assert pipe.offer(FRAME, 1.0) is None
    arrives = 1.0 + 1514 * 8 / 50e6 + 0.010
    assert pipe.next_deadline() == pytest.approx(arrives, abs=1e-9)
    assert pipe.due(arrives - 1e-6) == []
    assert pipe.due(arrives + 1e-6) == [FRAME]
    assert pipe.next_deadline() is None


def test_frames_leave_at_the_rate_whatever_the_timer_does() -> None:
    pipe = Pipe(Shape(rate_bps=16 * MBIT, delay_s=0.015, queue_s=2))
    for _ in range(1000):
        assert pipe.offer(FRAME, 5.0) is None
    times = arrivals(pipe)
    assert times[-1] - times[0] == pytest.approx(999 * 1514 * 8 / 16e6, rel=1e-9)


def test_without_a_rate_only_the_delay_is_left() -> None:
    pipe = Pipe(Shape(delay_s=0.040))
    for _ in range(5000):
        assert pipe.offer(FRAME, 1.0) is None
    assert set(arrivals(pipe)) == {1.040}


@pytest.mark.parametrize(
    "shape",
    [Shape(rate_bps=8 * MBIT, queue_s=10 * 1514e-6), Shape(rate_bps=8 * MBIT, queue_bytes=10 * 1514)],
)
def test_a_full_queue_drops_what_comes_last(shape: Shape) -> None:
    pipe = Pipe(shape)
    verdicts = [pipe.offer(bytes([number]) + FRAME[1:], 1.0) for number in range(13)]
    # A hair's breadth of rounding decides on the tenth; the ninth fits and the eleventh does not.
    assert verdicts[:9] == [None] * 9
    assert verdicts[10:] == [Refusal.QUEUE] * 3
    assert [frame[0] for frame in pipe.due(2.0)][:9] == list(range(9))


def test_a_queue_shorter_than_a_frame_still_takes_one_at_a_time() -> None:
    pipe = Pipe(Shape(rate_bps=8 * MBIT, queue_s=0))
    assert pipe.offer(FRAME, 1.0) is None
    assert pipe.offer(FRAME, 1.001) is Refusal.QUEUE
    assert pipe.offer(FRAME, 1.0016) is None


def test_queued_bytes_drain_at_the_rate() -> None:
    pipe = Pipe(Shape(rate_bps=8 * MBIT))
    for _ in range(10):
        pipe.offer(FRAME, 1.0)
    assert pipe.queued_bytes(1.0) == pytest.approx(15140)
    assert pipe.queued_bytes(1.005) == pytest.approx(10140)
    assert pipe.queued_bytes(2.0) == 0


def test_larger_packets_than_the_mtu_vanish() -> None:
    pipe = Pipe(Shape(mtu=1428))
    assert pipe.offer(bytes(14 + 1428), 1.0) is None
    assert pipe.offer(bytes(14 + 1429), 1.0) is Refusal.MTU
    assert len(pipe.due(1.0)) == 1


def test_a_cut_line_loses_what_is_on_its_way_and_what_comes() -> None:
    pipe = Pipe(Shape(rate_bps=8 * MBIT, delay_s=0.050))
    pipe.offer(FRAME, 1.0)
    pipe.cut()
    assert pipe.offer(FRAME, 1.0) is Refusal.CUT
    assert pipe.next_deadline() is None
    assert pipe.refused[Refusal.CUT] == 2
    pipe.restore()
    assert pipe.offer(FRAME, 1.001) is None
    assert pipe.next_deadline() == pytest.approx(1.001 + 1514e-6 + 0.050)


def test_independent_losses_use_up_rate_and_come_out_at_their_mean() -> None:
    pipe = Pipe(Shape(rate_bps=8 * MBIT, loss=0.1, queue_s=1e9, seed=7))
    lost = sum(pipe.offer(FRAME, 0.0) is Refusal.LOSS for _ in range(20_000))
    assert lost == pytest.approx(2000, rel=0.1)
    assert pipe.refused[Refusal.LOSS] == lost
    assert len(pipe) == 20_000
    assert pipe.queued_bytes(0.0) == pytest.approx(20_000 * 1514)
    assert len(pipe.due(1e9)) == 20_000 - lost


@pytest.mark.parametrize("loss", [0.05, 0.4])
def test_losses_come_in_bursts_of_their_mean_length(loss: float) -> None:
    pipe = Pipe(Shape(loss=loss, loss_burst=8, seed=3))
    fate = [pipe.offer(b"\0" * 60, 0.0) is Refusal.LOSS for _ in range(200_000)]
    bursts = sum(later and not earlier for earlier, later in pairwise(fate))
    assert sum(fate) / len(fate) == pytest.approx(loss, rel=0.1)
    assert sum(fate) / bursts == pytest.approx(8, rel=0.1)


def test_the_same_seed_loses_the_same_frames() -> None:
    def fate(seed: int) -> list[Refusal | None]:
        pipe = Pipe(Shape(loss=0.3, seed=seed))
        return [pipe.offer(FRAME, 0.0) for _ in range(100)]

    assert fate(1) == fate(1)
    assert fate(1) != fate(2)


def test_jitter_is_uniform_around_the_delay() -> None:
    pipe = Pipe(Shape(delay_s=0.040, jitter_s=0.008, seed=5))
    delays = []
    for number in range(4000):
        offered = number * 0.1
        pipe.offer(FRAME, offered)
        delays += [at - offered for at in arrivals(pipe)]
    assert min(delays) == pytest.approx(0.032, abs=1e-4)
    assert max(delays) == pytest.approx(0.048, abs=1e-4)
    assert sum(delays) / len(delays) == pytest.approx(0.040, abs=3e-4)
    assert sum(delay < 0.036 for delay in delays) == pytest.approx(1000, rel=0.1)


def test_dense_traffic_keeps_the_mean_delay_under_jitter() -> None:
    pipe = Pipe(Shape(delay_s=0.040, jitter_s=0.008, seed=5))
    offered = [number * 0.0005 for number in range(20_000)]
    for at in offered:
        pipe.offer(FRAME, at)
    delays = [arrived - left for arrived, left in zip(arrivals(pipe), offered, strict=True)]
    # First in, first out costs something on each step down; a draw per frame would make it 0.0475.
    assert sum(delays) / len(delays) == pytest.approx(0.0405, abs=0.001)


@given(
    seed=st.integers(0, 1000),
    jitter_s=st.floats(0, 0.02),
    gaps_s=st.lists(st.floats(0, 0.01), min_size=1, max_size=200),
    rate_mbit=st.one_of(st.none(), st.floats(0.1, 100)),
)
def test_nothing_is_reordered_and_nothing_early(
    seed: int, jitter_s: float, gaps_s: list[float], rate_mbit: float | None
) -> None:
    rate_bps = rate_mbit * MBIT if rate_mbit else None
    shape = Shape(rate_bps=rate_bps, delay_s=0.02, jitter_s=jitter_s, loss=0.2, queue_s=0.05, seed=seed)
    pipe = Pipe(shape)
    now, offered = 1.0, {}
    for number, gap_s in enumerate(gaps_s):
        now += gap_s
        if pipe.offer(number.to_bytes(2) + bytes(200), now) is None:
            offered[number] = now
    taken = []
    while (at := pipe.next_deadline()) is not None:
        for frame in pipe.due(at):
            taken.append(int.from_bytes(frame[:2]))
            assert at >= offered[taken[-1]] + 0.02 - jitter_s - 1e-9
    assert taken == sorted(offered)


def test_a_new_rate_applies_to_what_still_waits() -> None:
    pipe = Pipe(Shape(rate_bps=8 * MBIT))  # a frame per 1.514 ms
    for _ in range(4):
        pipe.offer(FRAME, 1.0)
    half_sent = 1.0 + 1514e-6 * 1.5
    pipe.reshape(pipe.shape.changed(rate_bps=4 * MBIT), half_sent)
    # The first had left; half of the second and all of the others take twice their time.
    rest = [half_sent + 1514e-6 * (1 + 2 * later) for later in range(3)]
    assert arrivals(pipe) == pytest.approx([1.0 + 1514e-6, *rest])


def test_a_new_delay_leaves_what_is_on_its_way_alone_and_in_order() -> None:
    pipe = Pipe(Shape(delay_s=0.050))
    pipe.offer(FRAME, 1.0)
    pipe.reshape(pipe.shape.changed(delay_s=0.010), 1.001)
    pipe.offer(FRAME, 1.002)
    pipe.offer(FRAME, 1.060)
    assert arrivals(pipe) == pytest.approx([1.050, 1.050, 1.070])


def test_jitter_is_drawn_anew_when_its_figure_changes() -> None:
    pipe = Pipe(Shape(delay_s=0.040, jitter_s=0.030, seed=6))
    pipe.offer(FRAME, 1.0)
    assert abs(arrivals(pipe)[0] - 1.040) > 0.001
    pipe.reshape(pipe.shape.changed(jitter_s=0.001), 1.0)
    pipe.offer(FRAME, 1.0)
    assert arrivals(pipe) == pytest.approx([1.040], abs=0.001)


def test_losses_under_way_stay_lost_when_the_rate_changes() -> None:
    pipe = Pipe(Shape(rate_bps=8 * MBIT, loss=0.5, seed=2))
    kept = sum(pipe.offer(FRAME, 1.0) is None for _ in range(50))
    pipe.reshape(pipe.shape.changed(rate_bps=80 * MBIT), 1.01)
    assert len(pipe.due(9.0)) == kept


def test_counters_add_up() -> None:
    pipe = Pipe(Shape(rate_bps=8 * MBIT, queue_bytes=5 * 1514, loss=0.3, mtu=1000, seed=4))
    for number in range(40):
        pipe.offer(bytes(1514 if number % 4 == 0 else 700), 1.0)
    pipe.due(9.0)
    counters = pipe.counters(9.0)
    assert counters["frames_in"] == 40
    assert counters["refused"]["mtu"] == 10
    assert counters["refused"]["queue"] > 0
    assert counters["refused"]["loss"] > 0
    assert counters["frames_in"] == counters["frames_out"] + sum(counters["refused"].values())
    assert counters["bytes_out"] == counters["frames_out"] * 700


def policed(**changes: float) -> Pipe:
    """8 Mbit/s by a policer (1 byte a µs), bursts of ten frames, on a line of 80 Mbit/s."""
    return Pipe(Shape(rate_bps=80 * MBIT, policer_bps=8 * MBIT, policer_burst_bytes=15140).changed(**changes))


def test_a_policer_lets_a_burst_pass_and_drops_what_exceeds_it() -> None:
    pipe = policed()
    assert [pipe.offer(FRAME, 1.0) for _ in range(12)] == [None] * 10 + [Refusal.POLICER] * 2
    assert pipe.counters(1.0)["refused"]["policer"] == 2


def test_a_policer_adds_no_delay() -> None:
    pipe = policed()
    assert pipe.offer(FRAME, 1.0) is None
    assert pipe.next_deadline() == pytest.approx(1.0 + 1514 * 8 / 80e6)


def test_a_policer_carries_its_rate_in_the_long_run_and_no_more() -> None:
    pipe = policed()
    passed = sum(pipe.offer(FRAME, 1 + i * 757e-6) is None for i in range(20_000))  # at twice its rate
    took = 20_000 * 757e-6
    assert passed * 1514 == pytest.approx(1e6 * took + 15140, abs=1514)


def test_tokens_are_saved_up_to_the_burst_and_no_further() -> None:
    pipe = policed()
    for _ in range(10):
        pipe.offer(FRAME, 1.0)
    # 3 frames' worth of tokens, then an hour's.
    assert [pipe.offer(FRAME, 1.0 + 3.5 * 1514e-6) for _ in range(4)] == [None] * 3 + [Refusal.POLICER]
    assert sum(pipe.offer(FRAME, 3600.0) is None for _ in range(20)) == 10


def test_what_a_policer_drops_takes_no_tokens_and_no_rate() -> None:
    pipe = policed(policer_burst_bytes=1600)
    assert pipe.offer(FRAME, 1.0) is None
    assert pipe.offer(FRAME, 1.0) is Refusal.POLICER
    assert pipe.offer(bytes(86), 1.0) is None
    assert pipe.queued_bytes(1.0) == pytest.approx(1600)


def test_a_policer_comes_and_goes_in_mid_traffic() -> None:
    pipe = Pipe(Shape(rate_bps=80 * MBIT, queue_s=1))
    pipe.reshape(pipe.shape.changed(policer_bps=8 * MBIT, policer_burst_bytes=3028), 1.0)
    assert [pipe.offer(FRAME, 1.0) for _ in range(3)] == [None, None, Refusal.POLICER]
    pipe.reshape(pipe.shape.changed(policer_bps=None), 1.0)
    assert [pipe.offer(FRAME, 1.0) for _ in range(3)] == [None] * 3
