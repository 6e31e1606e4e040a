"""A frame's way out: packing, queues, turns between streams, and what the links' sockets say."""

from itertools import pairwise

import pytest
from frames import TCP_OVERHEAD_BYTES, VIRTIO_BYTES, ack, datagram, flow_of, super_frame
from tunnelends import Datagram, Receiver, Sender, queue_limits

from bondvpn.bond.adaptive import Adaptive
from bondvpn.bond.aqm import INTERVAL_S
from bondvpn.datapath import LONE_S
from bondvpn.datapath.backlog import KEPT_EACH
from bondvpn.datapath.outbound import (
    QUANTUM_S,
    QUEUE_EXCESS,
    QUEUE_MAX_BYTES,
    QUEUE_MIN_BYTES,
    READS_PER_WAKEUP,
    SLOTS,
    SLOTS_MAX,
    SLOWER_S,
    SMALL_READS_PER_WAKEUP,
    TURN_CHUNKS,
)
from bondvpn.datapath.packer import LONG_BYTES, TOLD_MAX_BYTES, TOLD_MIN_BYTES
from bondvpn.datapath.slab import CHUNK_MAX_BYTES, RUN_MAX, RUN_MAX_BYTES, run_frame_bytes, run_max
from bondvpn.session.link import Link, Sent
from bondvpn.stats import Drop
from bondvpn.wire.delta import TOLD_MAX_LEN
from bondvpn.wire.sealed import BULK_STREAMS, DATA_HEADER, DATA_HEADER_LEN
from bondvpn.wire.transport import OVERHEAD

SLOW_BPS = 5_000_000


def opened(runs: list[list[Datagram]]) -> list[tuple[int, int, int, int]]:
    """(lane, stream, sequence, chunk bytes) of each datagram, in the order they left."""
    receiver = Receiver()
    found = []

    def note(lane: object, stream: int, sequence: int, chunks: list[memoryview], *_: object) -> None:
        found.extend((lane.number, stream, sequence + i, len(one)) for i, one in enumerate(chunks))  # type: ignore[attr-defined]

    receiver.inbound._deliver = note  # type: ignore[method-assign, assignment]
    for run in runs:
        receiver.receive_each(one.data for one in run)
    return found


def blocked(sender: Sender, is_blocked: bool = True) -> None:
    for link in sender.links:
        link.blocked = is_blocked


# -- packing ----------------------------------------------------------------------------------------
def test_an_idle_tunnel_never_waits_to_fill_a_chunk() -> None:
    sender = Sender()
    runs = sender.send([datagram(1, 1, 100)])
    assert [len(run) for run in runs] == [1]
    assert len(runs[0][0].data) == OVERHEAD + DATA_HEADER_LEN + 2 + 100


def test_small_frames_that_wait_share_chunks() -> None:
    sender, receiver = Sender(), Receiver()
    blocked(sender)
    frames = [super_frame(1, i * 70, 70, 1448) for i in range(21)]
    sender.tap.frames.extend(frames)
    sender.out.on_readable(sender.now)
    assert sender.out.queued == 21 * 136 == 2 * CHUNK_MAX_BYTES
    blocked(sender, False)
    runs = sender.send([])
    assert [chunk for *_, chunk in opened(runs)] == [CHUNK_MAX_BYTES, CHUNK_MAX_BYTES]
    receiver.receive_each(one.data for run in runs for one in run)
    assert receiver.tap.written == frames


def test_a_super_frame_is_cut_into_full_chunks_and_a_rest() -> None:
    sender = Sender()
    frame = super_frame(1, 0, 60_000, 1448)
    found = opened(sender.send([frame]))
    full, rest = divmod(len(frame) + 2, CHUNK_MAX_BYTES)
    assert [chunk for *_, chunk in found] == [CHUNK_MAX_BYTES] * full + [rest]
    assert [sequence for _, _, sequence, _ in found] == list(range(full + 1))


@pytest.mark.parametrize("payload", [LONG_BYTES - 2000, LONG_BYTES])
def test_a_long_frame_is_not_copied_behind_what_waits(payload: int) -> None:
    sender = Sender()
    blocked(sender)
    frames = [super_frame(1, i * payload, payload, 1448) for i in range(2)]
    sender.tap.frames.extend(frames)
    sender.out.on_readable(sender.now)
    blocked(sender, False)
    sizes = [size for *_, size in opened(sender.send([]))]
    record = len(frames[0]) + 2
    end = record % CHUNK_MAX_BYTES
    short = [CHUNK_MAX_BYTES] * (record // CHUNK_MAX_BYTES) + [end]
    together = [CHUNK_MAX_BYTES] * (2 * record // CHUNK_MAX_BYTES) + [2 * record % CHUNK_MAX_BYTES]
    assert sizes == (2 * short if payload == LONG_BYTES else together)


@pytest.mark.parametrize("capacity", [CHUNK_MAX_BYTES - 30, CHUNK_MAX_BYTES])
def test_a_frames_chunks_are_of_one_size_though_the_path_mtu_changed(capacity: int) -> None:
    """The receiver counts on it: it tells by the first one how much a missing one held."""
    sender = Sender()
    sender.out.set_capacity(CHUNK_MAX_BYTES - 10)
    blocked(sender)
    first, second = super_frame(1, 0, 2000, 1448), super_frame(1, 2000, 9000, 1448)
    sender.tap.frames.append(first)
    sender.out.on_readable(sender.now)
    sender.out.set_capacity(capacity)
    sender.tap.frames.append(second)
    sender.out.on_readable(sender.now)
    blocked(sender, False)
    sizes = [size for *_, size in opened(sender.send([]))]
    full, rest = divmod(len(second) + 2, capacity)
    before = CHUNK_MAX_BYTES - 10
    assert sizes == [before, len(first) + 2 - before, *[capacity] * full, rest]


def test_heads_of_frames_that_wait_for_slow_lines_are_told_by_their_differences() -> None:
    """Segments in pairs, as TCP makes them at 15 Mbit/s: of 66 bytes of head 20 are left."""
    pairs = [super_frame(1, i * 2896, 2896, 1448) for i in range(READS_PER_WAKEUP)]
    payload = 2896 * len(pairs)
    plain, slow = Sender(), Sender(rate_bps=SLOW_BPS)
    for sender in (plain, slow):
        blocked(sender)
        sender.tap.frames.extend(pairs)
        sender.out.on_readable(sender.now)
        assert not sender.tap.frames
    assert plain.out.queued > payload + TCP_OVERHEAD_BYTES * len(pairs)
    assert slow.out.queued < payload + TOLD_MAX_LEN * 3 + 20 * len(pairs)


@pytest.mark.parametrize("payload", [TOLD_MIN_BYTES - 200, TOLD_MAX_BYTES])
def test_heads_of_other_sizes_are_left_as_they_are(payload: int) -> None:
    sender = Sender(rate_bps=SLOW_BPS)
    blocked(sender)
    sender.tap.frames.extend(super_frame(1, i * payload, payload, 1448) for i in range(4))
    sender.out.on_readable(sender.now)
    assert sender.out.queued >= 4 * (payload + TCP_OVERHEAD_BYTES)


def test_a_frame_that_nothing_waits_before_keeps_its_head() -> None:
    sender = Sender(rate_bps=SLOW_BPS)
    sender.out.on_readable(sender.now)
    frame = super_frame(1, 0, 1200, 1448)
    (run,) = sender.send([frame])
    assert [size for *_, size in opened([run])] == [2 + len(frame)]


def test_the_sequence_wraps() -> None:
    sender, receiver = Sender(), Receiver()
    frames = [super_frame(1, i * 9000, 9000, 1448) for i in range(4)]
    number = 1  # the first flow's
    start = 2**32 - 10
    sender.out._packer.streams[number].sequence = start
    receiver.reassembly._reorders[number].expected = start
    for run in sender.send(frames):
        receiver.receive([one.data for one in run])
    assert receiver.tap.written == frames
    assert sender.out._packer.streams[number].sequence < 100


def test_a_frame_after_a_pause_leaves_before_more_are_looked_for() -> None:
    sender = Sender()
    sender.now += 2 * LONE_S
    sender.tap.frames.extend(datagram(1, i, 200, port=53) for i in range(9))
    sender.out.on_readable(sender.now)
    assert (len(sender.tap.frames), len(sender.taken())) == (8, 1)
    sender.out.on_readable(sender.now + LONE_S / 2)
    assert not sender.tap.frames


def test_while_frames_wait_for_a_line_a_pause_means_nothing() -> None:
    """The TAP is then read every few milliseconds, and must not be read one by one."""
    sender = Sender()
    blocked(sender)
    for _ in range(2):
        sender.tap.frames.extend(datagram(1, i, 200) for i in range(9))
        sender.out.on_readable(sender.now)
        assert not sender.tap.frames
        sender.now += 2 * LONE_S


# -- bounds -----------------------------------------------------------------------------------------
def test_a_wakeup_reads_a_bounded_number_of_frames() -> None:
    sender = Sender()
    sender.tap.frames.extend(super_frame(1, i * 5000, 5000, 1448) for i in range(100))
    sender.out.on_readable(sender.now)
    assert 100 - len(sender.tap.frames) == READS_PER_WAKEUP + 1
    sender.tap.frames.clear()
    sender.tap.frames.extend(datagram(1, i, 100) for i in range(200))
    sender.out.on_readable(sender.now)
    assert 200 - len(sender.tap.frames) == SMALL_READS_PER_WAKEUP


def test_a_run_is_no_longer_than_one_gso_call_takes() -> None:
    sender = Sender()
    for capacity in (CHUNK_MAX_BYTES, 1190, 1038):
        sender.out.set_capacity(capacity)
        for run in sender.send(super_frame(1, i * 60_000, 60_000, 1448) for i in range(4)):
            assert len(run) <= RUN_MAX
            assert sum(len(one.data) for one in run) <= RUN_MAX_BYTES


def test_what_comes_while_the_queue_is_at_its_limit_is_dropped_and_counted() -> None:
    """The TAP is read all the same: what is express must not wait behind what will be dropped."""
    sender = Sender()
    sender.out.set_queue_limits(queue_limits(0), sender.now)
    blocked(sender)
    sender.tap.frames.extend(super_frame(1, i * 60_000, 60_000, 1448) for i in range(20))
    for _ in range(5):
        sender.out.on_readable(sender.now)
    assert sender.out.full
    assert QUEUE_MIN_BYTES <= sender.out.queued <= QUEUE_MIN_BYTES + 65_535
    assert not sender.tap.frames
    assert sender.drops.as_dict() == {"queue": 19}
    sender.tap.frames.append(ack(1, 1))
    sender.out.on_readable(sender.now)
    assert sender.drops.as_dict() == {"queue": 19}
    blocked(sender, False)
    sender.out.dispatch(sender.now)
    assert not sender.out.full
    assert sender.out.queued == 0


def test_a_burst_may_exceed_the_queues_limit_and_what_stands_loses_single_frames() -> None:
    sender = Sender()
    sender.out.set_queue_limits(queue_limits(200_000, 2_000_000), sender.now)
    sender.out.on_readable(sender.now)
    blocked(sender)
    sender.tap.frames.extend(super_frame(1, i * 60_000, 60_000, 1448) for i in range(10))
    sender.out.on_readable(sender.now)
    assert sender.out.full
    assert 600_000 < sender.out.queued < 700_000
    assert sender.drops.as_dict() == {}
    sender.tap.frames.extend(super_frame(1, i * 60_000, 60_000, 1448) for i in range(10, 14))
    sender.out.on_readable(sender.now + 1.01 * INTERVAL_S)
    assert sender.drops.as_dict() == {"queue": 1}
    assert 700_000 < sender.out.queued < 850_000
    for _ in range(4):
        sender.tap.frames.extend(super_frame(1, i * 60_000, 60_000, 1448) for i in range(10))
        sender.out.on_readable(sender.now + 1.01 * INTERVAL_S)
    assert 2_000_000 <= sender.out.queued <= 2_000_000 + 65_535


def test_as_the_lines_become_slower_no_burst_may_exceed_the_limit_for_a_while() -> None:
    sender = Sender()
    blocked(sender)

    def offer(standing: int, rate: float) -> int:
        """Bytes that wait when ten times the limit was offered; then they leave."""
        sender.out.set_queue_limits(queue_limits(standing, 5 * standing, rate), sender.now)
        sender.tap.frames.extend(super_frame(1, i * 40_000, 40_000, 1448) for i in range(standing // 4_000))
        while sender.tap.frames:
            sender.out.on_readable(sender.now)
        waiting = sender.out.queued
        blocked(sender, False)
        sender.out.dispatch(sender.now)
        blocked(sender)
        return waiting

    assert offer(200_000, 4e6) > 900_000
    sender.now += 10
    assert 100_000 <= offer(100_000, 2e6) <= 100_000 + 65_535
    sender.now += 0.99 * SLOWER_S
    assert 100_000 <= offer(100_000, 2e6) <= 100_000 + 65_535
    sender.now += 0.02 * SLOWER_S
    assert offer(100_000, 0.8 * 2e6) > 450_000


def test_a_full_queue_still_takes_what_has_less_than_its_share() -> None:
    sender = Sender()
    sender.out.set_queue_limits(queue_limits(200_000), sender.now)
    blocked(sender)
    greedy, modest = super_frame(1, 0, 10_000, 1448), super_frame(2, 0, 10_000, 1448)
    assert flow_of(greedy) != flow_of(modest)
    sender.tap.frames.extend([greedy] * 50)
    for _ in range(5):
        sender.out.on_readable(sender.now)
    dropped = sender.drops.counts[Drop.QUEUE]
    assert dropped > 0
    sender.tap.frames.extend([modest] * 50)
    for _ in range(5):
        sender.out.on_readable(sender.now)
    streams = sender.out._packer.streams
    assert 100_000 <= streams[2].waiting <= 100_000 + len(modest) + CHUNK_MAX_BYTES
    assert sender.drops.counts[Drop.QUEUE] > dropped
    assert sender.out.queued <= QUEUE_EXCESS * 200_000


def test_however_many_streams_wait_the_queue_has_an_end() -> None:
    """Each may have its share and a frame more; the sum is bounded."""
    sender = Sender()
    sender.out.set_queue_limits(queue_limits(0), sender.now)
    blocked(sender)
    sender.tap.frames.extend(super_frame(flow, 0, 20_000, 1448) for flow in range(60))
    for _ in range(10):
        sender.out.on_readable(sender.now)
    assert not sender.tap.frames
    assert len(sender.out._packer.turns) > 2
    assert sender.out.queued <= QUEUE_EXCESS * QUEUE_MIN_BYTES + 65_535


def test_with_no_slots_left_the_tap_is_not_read() -> None:
    sender = Sender()
    sender.out.queue_limit = 100_000_000
    blocked(sender)
    sender.tap.frames.extend(datagram(flow, i, 1514) for i in range(900) for flow in range(BULK_STREAMS))
    for _ in range(1500):
        sender.out.on_readable(sender.now)
    assert sender.out.full
    assert sender.drops.as_dict() == {}
    left = len(sender.tap.frames)
    blocked(sender, False)
    sender.send([])
    assert left > 0
    assert not sender.out.full


def test_there_are_more_slots_once_more_is_under_way() -> None:
    """Fast lines that are long: all of it can be sent again, also what lies in the new ones."""
    sender, receiver = Sender(), Receiver()
    frames = [super_frame(1, i * 60_000, 60_000, 1448) for i in range(SLOTS * 3 // 2 // 42)]
    runs = sender.send(frames)
    assert sender.out._slab.in_use > SLOTS
    lane = sender.links[0].send_lane
    sender.out.lost(sender.links[0], lane.flight.drain(), sender.now)
    sender.out.dispatch(sender.now)
    for run in sender.taken():
        receiver.receive([one.data for one in run])
    assert runs
    assert receiver.tap.written == frames


def test_slots_of_what_nobody_reported_are_used_again() -> None:
    """Without reports every chunk stays under way; the oldest are given up for what comes."""
    sender, receiver = Sender(), Receiver()
    frames = [super_frame(1, i * 60_000, 60_000, 1448) for i in range(2 * SLOTS_MAX // 42)]
    for run in sender.send(frames):
        receiver.receive([one.data for one in run])
    assert receiver.tap.written == frames
    assert SLOTS < sender.out._slab.in_use <= SLOTS_MAX
    assert sender.links[0].in_flight < sum(map(len, frames))


@pytest.mark.parametrize(
    ("wanted", "limit"),
    [
        (float("inf"), QUEUE_MAX_BYTES),
        (0, QUEUE_MIN_BYTES),
        (750_000.7, 750_000),
        (1e12, QUEUE_MAX_BYTES),
    ],
)
def test_the_queue_is_as_long_as_the_scheduler_wants_within_bounds(wanted: float, limit: int) -> None:
    sender = Sender()
    sender.out.set_queue_limits(queue_limits(wanted), sender.now)
    assert sender.out.queue_limit == limit
    assert int(sender.out._limits.burst) == limit


def test_what_nobody_carries_is_dropped_and_counted() -> None:
    sender = Sender()
    sender.tap.frames.extend(datagram(1, i, 100) for i in range(SMALL_READS_PER_WAKEUP + 5))
    sender.out.discard()
    assert sender.drops.as_dict() == {"queue": SMALL_READS_PER_WAKEUP}
    sender.out.discard()
    assert sender.drops.as_dict() == {"queue": SMALL_READS_PER_WAKEUP + 5}
    assert sender.taken() == []


@pytest.mark.parametrize("slow", [False, True], ids=["plain", "told"])
def test_what_waits_leaves_by_a_new_session(slow: bool) -> None:
    """From within a record on: its receiver never saw how that began."""
    sender, receiver = Sender(rate_bps=SLOW_BPS if slow else None), Receiver()
    length = 3_000 if slow else 30_000
    frames = [super_frame(1, i * length, length, 1448) for i in range(12)]
    blocked(sender)
    sender.tap.frames.extend([*frames[:-1], ack(2, 1)])
    sender.out.on_readable(sender.now)
    packer = sender.out._packer
    into_second = 1 + len(frames[0]) // CHUNK_MAX_BYTES
    packer.take(packer.turns[0], 0, into_second, sender.now)
    waited = sender.out.queued
    sender.out.restart()
    assert 0 < sender.out.queued < waited  # but for what was urgent
    blocked(sender, False)
    runs = sender.send(frames[-1:])
    receiver.receive_each(one.data for run in runs for one in run)
    first = frames.index(receiver.tap.written[0])
    assert first == (1 + KEPT_EACH if slow else 2)
    assert receiver.tap.written == frames[first:]
    for link in sender.links:
        sender.out.came(link.drain())
    assert sender.out._slab.in_use == 0


# -- turns ------------------------------------------------------------------------------------------
def test_streams_take_turns() -> None:
    sender = Sender(rate_bps=SLOW_BPS)
    first, second = super_frame(1, 0, 60_000, 1448), super_frame(2, 0, 60_000, 1448)
    assert flow_of(first) != flow_of(second)
    found = opened(sender.send([first, second]))
    order = [stream for _, stream, _, _ in found]
    run = longest = 1
    for before, now in pairwise(order):
        run = run + 1 if now == before else 1
        longest = max(longest, run)
    assert len(set(order)) == 2
    assert longest <= 2 * TURN_CHUNKS + RUN_MAX // 2  # while only the first was there
    assert order[-2 * TURN_CHUNKS :] != [order[-1]] * 2 * TURN_CHUNKS


def test_a_turn_is_longer_on_a_fast_line() -> None:
    first = {}
    for rate in (1e6, 150e6):
        sender = Sender()
        sender.links[0].capacity.carries.mean = rate
        blocked(sender)
        sender.tap.frames.extend(super_frame(flow, 0, 60_000, 1448) for flow in (1, 2))
        sender.out.on_readable(sender.now)
        sender.out.on_readable(sender.now)
        blocked(sender, False)
        sender.out.dispatch(sender.now)
        first[rate] = len(sender.taken()[0])
    assert first[1e6] == TURN_CHUNKS
    assert 0.9 * QUANTUM_S * 150e6 < first[150e6] * CHUNK_MAX_BYTES <= QUANTUM_S * 150e6


def test_express_goes_before_what_waits() -> None:
    sender = Sender(rate_bps=SLOW_BPS)
    sender.tap.frames.extend(super_frame(1, i * 60_000, 60_000, 1448) for i in range(3))
    sender.out.on_readable(sender.now)
    waiting = sender.out.queued
    sender.taken()
    assert waiting
    sender.tap.frames.append(ack(1, 1))
    sender.out.on_readable(sender.now)
    found = opened(sender.taken())
    assert [stream for _, stream, _, _ in found] == [0]
    assert sender.out.queued == waiting


def test_acks_wait_for_the_pace_and_share_a_datagram() -> None:
    sender = Sender(2)
    for link in sender.links:
        link.capacity.window = 1e6
        link.capacity.carries.mean = link.capacity.carries.cap = SLOW_BPS / 8
    sender.out._scheduler = scheduler = Adaptive()
    scheduler.set_lines(sender.links)
    sender.tap.frames.extend(super_frame(1, i * 60_000, 60_000, 1448) for i in range(3))
    sender.out.on_readable(sender.now)
    waiting = sender.out.queued
    sender.taken()
    for link in sender.links:
        link.pacer.tokens = -1.0
    sender.tap.frames.extend(ack(flow, 1) for flow in range(10))
    sender.tap.frames.append(datagram(2, 1, 100, port=53))
    sender.out.on_readable(sender.now)
    assert [stream for _, stream, _, _ in opened(sender.taken())] == [0], (
        "what is urgent does not wait for them"
    )
    assert sender.out.queued > waiting
    sender.now += 0.010
    sender.out.dispatch(sender.now)
    first = sender.taken()[0]
    receiver = Receiver()
    receiver.receive([one.data for one in first])
    assert len(first) == 1
    assert receiver.tap.written == [ack(flow, 1) for flow in range(10)]


def test_of_the_acks_that_wait_a_later_one_replaces_those_that_it_says_all_of() -> None:
    """As many as the TCP inside makes of what a gap held back; three that say the same, and who begins anew
    once they have left, leave."""
    sender, receiver = Sender(), Receiver()
    sender.tap.frames.extend(ack(flow, 100 * i) for i in range(1, 40) for flow in (1, 2))
    sender.tap.frames.extend(ack(1, 4000) for _ in range(3))
    sender.tap.frames.extend((ack(1, 4100), ack(2, 4000)))
    sender.out.on_readable(sender.now)
    assert sender.out.frames == 83
    sender.tap.frames.append(ack(1, 4200))
    sender.out.on_readable(sender.now)
    for run in sender.taken():
        receiver.receive([one.data for one in run])
    assert receiver.tap.written == [
        *(ack(1, 4000), ack(2, 4000)),
        *(ack(1, 4000), ack(1, 4000), ack(1, 4100), ack(1, 4200)),
    ]


def test_no_ack_goes_ahead_of_one_that_is_left_alone() -> None:
    sender, receiver = Sender(), Receiver()
    urged = bytearray(ack(1, 100))
    urged[VIRTIO_BYTES + 47] |= 0x40  # ECN echo
    frames = [ack(1, 100), bytes(urged), ack(1, 200)]
    for run in sender.send(frames):
        receiver.receive([one.data for one in run])
    assert receiver.tap.written == frames


def test_express_takes_the_line_of_the_lowest_round_trip() -> None:
    sender = Sender(2)
    sender.links[0].liveness.rtt.add(0.08)
    sender.links[1].liveness.rtt.add(0.02)
    runs = sender.send([ack(1, i) for i in range(5)])
    assert {one.address for run in runs for one in run} == {1}


def test_a_flow_uses_all_lines_by_their_rates() -> None:
    sender = Sender(2)
    for link, rate in zip(sender.links, (10_000_000, 30_000_000), strict=True):
        link.set_send_rate(rate)
    sender.scheduler.set_lines(sender.links)
    runs = sender.send([super_frame(1, i * 60_000, 60_000, 1448) for i in range(40)])
    sent = [sum(len(one.data) for run in runs for one in run if one.address == i) for i in (0, 1)]
    assert sent[1] / sent[0] == pytest.approx(3, rel=0.05)


# -- nonces -----------------------------------------------------------------------------------------
def test_no_lane_uses_a_counter_twice_and_none_is_left_out() -> None:
    sender = Sender(3, rate_bps=SLOW_BPS)
    frames = [super_frame(1 + i % 3, i * 9000, 9000, 1448) for i in range(30)] + [
        ack(1, i) for i in range(20)
    ]
    runs = sender.send(frames)
    sender.links[1].send_control(sender.links[1].send_lane.seal(b"\3" + bytes(6)), sender.now)
    runs += sender.send(frames[:3]) + sender.taken()
    for link in sender.links:
        counters = [
            int.from_bytes(one.data[8:16], "big") for run in runs for one in run if one.address == link.number
        ]
        assert sorted(counters) == list(range(link.send_lane.counter))


def test_the_send_time_is_in_the_header() -> None:
    sender, receiver = Sender(), Receiver()
    seen: list[int] = []
    sender.now = 123.456
    runs = sender.send([super_frame(1, 0, 9000, 1448), ack(1, 1)])
    receiver.inbound._deliver = lambda *a: None  # type: ignore[method-assign]
    for run in runs:
        for one in run:
            receiver.receive([one.data])
            row = receiver.inbound._slab.rows[receiver.inbound._slab.next - 1]
            seen.append(DATA_HEADER.unpack_from(row)[3])
    assert set(seen) == {int(123.456 / 16e-6) & 0xFFFF}


# -- links ------------------------------------------------------------------------------------------
def test_what_a_full_socket_does_not_take_is_sent_when_it_does() -> None:
    sender, receiver = Sender(), Receiver()
    sender.socket.room = 10
    frames = [super_frame(1, 0, 60_000, 1448), super_frame(1, 60_000, 3000, 1448)]
    sender.tap.frames.extend(frames)
    sender.out.on_readable(sender.now)
    link = sender.links[0]
    assert sender.observer.heard == ["busy", "blocked"]
    assert link.blocked
    assert sender.scheduler.next(sender.now, 1, 1) is None
    sender.socket.room = 5
    link.flush(sender.now)
    assert link.blocked
    sender.socket.room = None
    link.flush(sender.now)
    assert not link.blocked
    runs = sender.taken() + sender.send([])
    receiver.receive_each(one.data for run in runs for one in run)
    assert receiver.tap.written == frames
    assert sender.drops.as_dict() == {}


@pytest.mark.parametrize(
    ("outcome", "heard"), [(Sent.DOWN, "failed: Network is unreachable"), (Sent.TOO_BIG, "too big")]
)
def test_what_the_kernel_will_not_send_is_counted_and_told(outcome: Sent, heard: str) -> None:
    sender = Sender()
    sender.socket.fails = outcome
    sender.tap.frames.append(super_frame(1, 0, 9000, 1448))
    sender.out.on_readable(sender.now)
    assert heard in sender.observer.heard
    assert sender.drops.counts[Drop.SOCKET] == 7
    assert not sender.links[0].blocked


def test_a_link_without_a_path_drops_and_counts() -> None:
    sender = Sender()
    sender.links[0].path = None
    sender.tap.frames.append(super_frame(1, 0, 9000, 1448))
    sender.out.on_readable(sender.now)
    assert sender.drops.counts[Drop.SOCKET] == 7
    sender.links[0].blocked, sender.links[0].unsent = True, (b"x", 1)
    sender.links[0].flush(sender.now)
    assert not sender.links[0].blocked


def test_counters_count_ethernet_frames() -> None:
    sender = Sender()
    runs = sender.send([super_frame(1, 0, 9000, 1448)])
    datagrams = [one.data for run in runs for one in run]
    link = sender.links[0]
    assert link.tx_datagrams == len(datagrams)
    assert link.tx_bytes == sum(len(one) + 28 + 14 for one in datagrams)
    assert (sender.out.frames, sender.out.bytes) == (1, 9054)


def test_a_line_that_fails_in_mid_send_leaves_the_rest_to_the_others() -> None:
    """Whoever hears of it changes the lines and dispatches, while dispatch is under way."""
    sender, receiver = Sender(links=2), Receiver()

    def failed(link: Link, reason: str, now: float) -> None:
        sender.socket.fails = None
        sender.scheduler.set_lines([other for other in sender.links if other is not link])
        sender.out.dispatch(now)

    sender.observer.link_failed = failed  # type: ignore[method-assign]
    sender.socket.fails = Sent.DOWN
    blocked(sender)
    frames = [datagram(flow, 1, 600) for flow in range(8)]
    sender.tap.frames.extend(frames)
    sender.out.on_readable(sender.now)
    blocked(sender, False)
    sender.out.dispatch(sender.now)
    assert sender.out.queued == 0
    for run in sender.taken():
        receiver.receive_each(one.data for one in run)
        assert {one.address for one in run} == {1}
    lost = sender.drops.counts[Drop.SOCKET]
    assert lost == 1
    assert len(set(frames) - set(receiver.tap.written)) in range(1, 4)


# -- runs -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("capacity", [CHUNK_MAX_BYTES, 1358, 1000])
def test_the_largest_super_frame_is_one_run(capacity: int) -> None:
    sender, receiver = Sender(), Receiver()
    sender.out.set_capacity(capacity)
    most = run_frame_bytes(capacity)
    frame = super_frame(1, 1, VIRTIO_BYTES + most - TCP_OVERHEAD_BYTES, 1448)
    runs = sender.send([frame])
    assert [len(run) for run in runs] == [run_max(capacity + DATA_HEADER_LEN + OVERHEAD)]
    assert len(sender.send([frame + b"\0"])) == 2
    receiver.receive([one.data for one in runs[0]])
    assert receiver.tap.written == [frame]
