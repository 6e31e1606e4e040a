"""Frames out of chunks, without sockets and keys: what holes leave, what duplicates and late chunks do."""

import random

import pytest
from frames import datagram, segments, super_frame
from hypothesis import given, settings
from hypothesis import strategies as st
from tunnelends import FakeTap

from bondvpn.bond.reorder import HOLD_S
from bondvpn.datapath.reassembly import Reassembly
from bondvpn.stats import Drop, Drops
from bondvpn.wire.sealed import NO_RECORD, PADDING_BOUND, SEQUENCE_MASK

STREAM = 5
SIZE = 1000


class Bench:
    """A reassembly, and a stream of records cut into chunks."""

    def __init__(self, *frames: bytes, size: int = SIZE) -> None:
        self.tap = FakeTap()
        self.drops = Drops()
        self.reassembly = Reassembly(self.tap, self.drops, uso=True)
        stream = b""
        begins: list[int] = []
        for frame in frames:
            room = size - len(stream) % size
            if room < PADDING_BOUND:  # as a sender does
                stream += bytes(room)
            begins.append(len(stream))
            stream += len(frame).to_bytes(2, "big") + frame
        self.chunks: list[tuple[bytes, int]] = []
        for at in range(0, len(stream), size):
            first = next((begin - at for begin in begins if at <= begin < at + size), NO_RECORD)
            self.chunks.append((stream[at : at + size], first))

    def give(self, *places: int, now: float = 0.0) -> None:
        for place in places:
            chunk, offset = self.chunks[place]
            self.reassembly.receive_run(STREAM, place, [memoryview(chunk)], [offset], now, now)

    def give_run(self, first: int, past: int, now: float = 0.0) -> None:
        run = self.chunks[first:past]
        views = [memoryview(chunk) for chunk, _ in run]
        self.reassembly.receive_run(STREAM, first, views, [offset for _, offset in run], now, now)


def test_chunks_in_order_make_frames() -> None:
    frames = [super_frame(1, 0, 5000, 1448), datagram(1, 1, 300), super_frame(1, 5000, 2000, 1448)]
    bench = Bench(*frames)
    bench.give(*range(len(bench.chunks)))
    assert bench.tap.written == frames
    assert bench.reassembly.frames == 3
    assert bench.reassembly.bytes == sum(len(frame) - 10 for frame in frames)


@pytest.mark.parametrize("first", range(3, 7))
def test_a_run_that_brings_again_what_is_held_delivers_it_once(first: int) -> None:
    """The same sequence on two lanes: a peer may do that."""
    frames = [super_frame(1, i * 3000, 3000, 1448) for i in range(4)]
    bench = Bench(*frames)
    past = len(bench.chunks)
    bench.give_run(0, 3)
    bench.give(6, 5, now=0.01)
    bench.give_run(3, past, now=0.02)
    bench.give_run(first, past, now=0.03)
    assert bench.tap.written == frames
    assert bench.reassembly.deadline == float("inf")
    bench.reassembly.poll(1.0)
    assert bench.tap.written == frames
    assert bench.drops.as_dict() == {"late": 2 + past - first}


def test_a_run_that_overlaps_what_was_delivered_brings_the_rest() -> None:
    frames = [super_frame(1, i * 3000, 3000, 1448) for i in range(4)]
    bench = Bench(*frames)
    bench.give_run(0, 5)
    bench.give_run(2, len(bench.chunks))
    assert bench.tap.written == frames
    assert bench.drops.as_dict() == {"late": 3}


def test_a_chunk_later_than_the_hold_is_late_and_changes_nothing() -> None:
    bench = Bench(*(super_frame(1, i * 3000, 3000, 1448) for i in range(4)))
    bench.give_run(0, 1)
    bench.give_run(2, len(bench.chunks), now=1.0)
    bench.reassembly.poll(1.0 + HOLD_S)
    written = list(bench.tap.written)
    bench.give(1, now=1.2)
    assert bench.tap.written == written
    assert bench.drops.counts[Drop.LATE] == 1


@pytest.mark.parametrize("lost", range(13))
def test_one_chunk_lost_costs_its_segments_and_finds_the_next_frame(lost: int) -> None:
    frames = [super_frame(1, i * 4000, 4000, 500) for i in range(3)]
    bench = Bench(*frames)
    assert len(bench.chunks) == 13
    bench.give(*(place for place in range(13) if place != lost))
    bench.reassembly.poll(HOLD_S)
    sent = [piece for frame in frames for piece in segments(frame)]
    got = [piece for frame in bench.tap.written for piece in segments(frame)]
    assert set(got) <= set(sent)
    assert got == [piece for piece in sent if piece in set(got)], "in order"
    if lost == 12:  # nothing behind it: the frame stays under way
        return
    begins = [begin for begin in (0, 4066, 8132) if begin // SIZE == lost or (begin + 66) // SIZE == lost]
    # Beyond 3 segments only a lost head costs more: all of that frame.
    assert len(sent) - len(got) <= 3 + 8 * len(begins)
    assert bench.drops.counts[Drop.FRAME] <= 2
    assert bench.drops.counts[Drop.SEALED] == bench.drops.counts[Drop.VIRTIO] == 0


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(0, 2**32), st.integers(200, 1430), st.floats(0, 0.4))
def test_what_is_delivered_was_sent(seed: int, size: int, loss: float) -> None:
    """Any frames, any chunk size, any holes, in runs and singly, with the ring coming round now and then."""
    rng = random.Random(seed)
    frames: list[bytes] = []
    for number in range(rng.randint(1, 12)):
        if rng.random() < 0.4:
            frames.append(datagram(1, number, rng.randint(60, 1514)))
        else:
            frames.append(super_frame(2, number * 70_000, rng.randint(1, 30_000), rng.choice([536, 1448])))
    bench = Bench(*frames, size=size)
    sent = {piece for frame in frames if frame[0] for piece in segments(frame)}
    at = 0
    while at < len(bench.chunks):
        past = min(at + rng.randint(1, 20), len(bench.chunks))
        if rng.random() >= loss:
            bench.give_run(at, past)
        at = past
        if rng.random() < 0.2:
            bench.reassembly.persist()
    while bench.reassembly.deadline < float("inf"):
        bench.reassembly.poll(bench.reassembly.deadline)
    for frame in bench.tap.written:
        assert frame in frames or set(segments(frame)) <= sent
    assert len(set(bench.tap.written)) == len(bench.tap.written)
    if loss == 0.0:
        assert bench.tap.written == frames
    assert bench.drops.counts[Drop.SEALED] == bench.drops.counts[Drop.VIRTIO] == 0


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 18),
            st.integers(0, 2**32 - 1),
            st.binary(min_size=1, max_size=120),
            st.integers(0, 65535),
            st.sampled_from([0.0, 0.0, 0.05]),
        ),
        max_size=40,
    )
)
def test_no_chunks_of_a_peer_make_it_raise(arrivals: list[tuple[int, int, bytes, int, float]]) -> None:
    """Authentic garbage: sequences, record lengths and offsets as they please."""
    bench = Bench()
    now = 0.0
    for stream, sequence, chunk, offset, later in arrivals:
        now += 0.02
        bench.reassembly.receive_run(
            stream, sequence % 12, [memoryview(chunk)] * 3, [offset, NO_RECORD, 7], now, now + later
        )
        bench.reassembly.poll(now)
    bench.reassembly.poll(now + 1)
    assert bench.reassembly.deadline == float("inf")


def test_behind_a_hole_chunks_of_another_size_are_not_trusted() -> None:
    """How much the missing one held is then unknown: what follows would be shifted."""
    frame = super_frame(1, 0, 9000, 500)
    bench = Bench(frame)
    wire = b"".join(chunk for chunk, _ in bench.chunks)
    bench.give(0, 1)
    at = 3000 - 40  # chunk 2 is lost; it and all behind it were 960 bytes long
    for place in range(3, 10):
        chunk = wire[at : at + 960]
        at += 960
        bench.reassembly.receive_run(STREAM, place, [memoryview(chunk)], [NO_RECORD], 0.0, 0.0)
    bench.reassembly.poll(HOLD_S)
    got = [piece for one in bench.tap.written for piece in segments(one)]
    assert got == list(segments(frame))[: len(got)]
    assert len(got) == 3


def test_streams_do_not_hold_each_other_up() -> None:
    bench = Bench(datagram(1, 1, 200), datagram(1, 2, 200), size=202)
    bench.give(1)
    assert bench.tap.written == []
    for stream in (STREAM + 1, STREAM - 1):
        chunk, offset = bench.chunks[0]
        bench.reassembly.receive_run(stream, 0, [memoryview(chunk)], [offset], 0.0, 0.0)
    assert bench.tap.written == [datagram(1, 1, 200)] * 2
    assert bench.reassembly.deadline == HOLD_S


def test_a_new_session_starts_from_zero() -> None:
    bench = Bench(*(super_frame(1, i * 3000, 3000, 1448) for i in range(3)))
    bench.give_run(0, 4)
    bench.give(6)
    bench.reassembly.reset()
    assert bench.reassembly.deadline == float("inf")
    before = len(bench.tap.written)
    bench.give_run(0, len(bench.chunks))
    assert len(bench.tap.written) == before + 3


# -- express, and chunks that are not due yet ---------------------------------------------------------
def express(reassembly: Reassembly, place: int, frame: bytes) -> None:
    chunk = len(frame).to_bytes(2, "big") + frame
    reassembly.receive_express(place & SEQUENCE_MASK, [memoryview(chunk)], [0])


@pytest.mark.parametrize("start", [0, 2**32 - 5], ids=["start", "wrap"])
def test_the_second_copy_of_an_express_chunk_is_known_for_one(start: int) -> None:
    bench = Bench()
    bench.reassembly._express_seen.accept(start - 1 if start else 0)
    frames = [datagram(1, i, 300) for i in range(1, 11)]
    for i, frame in enumerate(frames, 1):
        express(bench.reassembly, start + i, frame)
        if i % 2:
            express(bench.reassembly, start + i, frame)
    for i, frame in enumerate(frames, 1):
        express(bench.reassembly, start + i, frame)
    bench.reassembly.flush()
    assert bench.tap.written == frames
    assert bench.drops.as_dict() == {}


def test_express_waits_for_nothing_and_takes_any_order() -> None:
    bench = Bench()
    frames = {place: datagram(1, place, 200 + place) for place in (5, 2, 9, 0, 7)}
    for place, frame in frames.items():
        express(bench.reassembly, place, frame)
    bench.reassembly.flush()
    assert bench.tap.written == list(frames.values())
    assert bench.reassembly.deadline == float("inf")


def test_an_express_record_that_goes_on_elsewhere_is_refused() -> None:
    bench = Bench()
    cut = (500).to_bytes(2, "big") + bytes(100)
    bench.reassembly.receive_express(0, [memoryview(cut)], [0])
    frame = datagram(1, 1, 300)
    express(bench.reassembly, 1, frame)
    bench.reassembly.flush()
    assert bench.drops.as_dict() == {"sealed": 1}
    assert bench.tap.written == [frame]


def test_equalised_chunks_leave_when_they_are_due_in_order() -> None:
    frames = [super_frame(1, 0, 5000, 1448), super_frame(1, 5000, 2000, 1448)]
    bench = Bench(*frames)
    for place, (chunk, offset) in enumerate(bench.chunks):
        due = 1.030 if place < 3 else 1.010
        bench.reassembly.receive_run(STREAM, place, [memoryview(chunk)], [offset], 1.0, due)
    assert bench.tap.written == []
    assert bench.reassembly.deadline == pytest.approx(1.030)
    bench.reassembly.poll(1.029)
    assert bench.tap.written == []
    bench.reassembly.poll(1.030)
    assert bench.tap.written == frames
    assert bench.reassembly.deadline == float("inf")
    assert bench.drops.as_dict() == {}
