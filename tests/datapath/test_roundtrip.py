"""Outbound, then Inbound: what went into one TAP comes out of the other, whatever happens between.

Frames carry their flow and place in their bytes (`frames`), so what is delivered can be told from what
looks like it. Everything random comes from hypothesis or from a seed that the test names.
"""

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import pytest
from frames import ack, datagram, flow_of, is_tcp_data, segments, super_frame
from hypothesis import given, settings
from hypothesis import strategies as st
from tunnelends import Receiver, Sender

from bondvpn.bond.classify import ACKS
from bondvpn.bond.reorder import HOLD_S
from bondvpn.bond.sparse import DENSE_S, FRAMES_MAX, WINDOW_S
from bondvpn.datapath.backlog import KEPT_EACH
from bondvpn.datapath.slab import CHUNK_MAX_BYTES, OpenSlab, chunk_capacity
from bondvpn.session.keypair import ReceiveLane
from bondvpn.stats import Drop
from bondvpn.wire.capabilities import CHACHA20_POLY1305
from bondvpn.wire.sealed import DATA_HEADER_LEN, EXPRESS
from bondvpn.wire.transport import OVERHEAD

SLOW_BPS = 20_000_000  # slower than the frames come: a queue stands, and frames are packed and split

path_mtus = st.sampled_from([1280, 1281, 1400, 1428, 1492, 1499, 1500])
overheads = st.sampled_from([28, 48])
flows = st.integers(1, 5)
sizes = st.one_of(
    st.integers(60, 300), st.integers(1180, 1520), st.sampled_from([60, 1199, 1200, 1201, 1514])
)


class Spec(NamedTuple):
    """A frame to be: `kind` 0 ACK, 1 DNS, 2 datagram, 3 super-frame. Short, so that failures are readable."""

    kind: int
    flow: int
    size: int
    gso_size: int


specs = st.one_of(
    st.builds(Spec, st.just(0), flows, st.just(0), st.just(0)),
    st.builds(Spec, st.integers(1, 2), flows, sizes, st.just(0)),
    st.builds(
        Spec,
        st.just(3),
        flows,
        st.one_of(st.integers(1, 5000), st.sampled_from([1448, 2 * 1448, 64_900])),
        st.sampled_from([536, 1400, 1448]),
    ),
)


def frame_lists(most: int = 24) -> st.SearchStrategy[list[Spec]]:
    return st.lists(specs, min_size=1, max_size=most)


def build(wanted: Iterable[Spec], start: int = 0) -> list[bytes]:
    """Each frame different, counted from `start`; super-frames of a flow follow on each other."""
    made: list[bytes] = []
    places: dict[int, int] = defaultdict(lambda: start * 100_000)
    for number, (kind, flow, size, gso_size) in enumerate(wanted, start):
        if kind == 0:
            made.append(ack(flow, -number & 0xFFFFFFFF))  # none says all of the one before
        elif kind == 3:
            made.append(super_frame(flow, places[flow], size, gso_size))
            places[flow] += size
        else:
            made.append(datagram(flow, number, size, port=53 if kind == 1 else 5004))
    return made


def by_flow(frames: Iterable[bytes], *, sparse: bool = False) -> dict[int, list[bytes]]:
    """In their order, but those (-1) that are express or not by the path MTU, or (`sparse`) as their flow's
    datagrams before them were few or many."""
    flows: dict[int, list[bytes]] = defaultdict(list)
    for frame in frames:
        flow = flow_of(frame)
        either = len(frame) > 1000 if flow == 0 else sparse and not is_tcp_data(frame)
        flows[-1 if either else flow].append(frame)
    flows[-1].sort()
    return flows


def datagrams_of(sender: Sender, frames: Iterable[bytes]) -> list[bytes]:
    return [datagram.data for run in sender.send(frames) for datagram in run]


# -- nothing lost -----------------------------------------------------------------------------------
@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    wanted=frame_lists(),
    path_mtu=path_mtus,
    overhead=overheads,
    links=st.integers(1, 3),
    slow=st.booleans(),
    as_runs=st.booleans(),
    sparse=st.booleans(),
)
def test_every_frame_arrives_in_order_within_its_stream(
    wanted: list[Spec], path_mtu: int, overhead: int, links: int, slow: bool, as_runs: bool, sparse: bool
) -> None:
    frames = build(wanted)
    rate_bps = SLOW_BPS if slow else None
    sender = Sender(links, rate_bps=rate_bps, ipv6=overhead == 48, sparse=sparse)
    sender.out.set_capacity(chunk_capacity(path_mtu, overhead))
    receiver = Receiver()
    for run in sender.send(frames):
        data = [datagram.data for datagram in run]
        assert all(len(one) + overhead <= path_mtu for one in data)
        assert len({len(one) for one in data[:-1]}) <= 1, "GSO wants equal datagrams"
        assert len(data[-1]) <= len(data[0])
        if as_runs:
            receiver.receive(data)
        else:
            receiver.receive_each(data)
    assert by_flow(receiver.tap.written, sparse=sparse) == by_flow(frames, sparse=sparse)
    assert receiver.drops.as_dict() == sender.drops.as_dict() == {}
    assert receiver.reassembly.frames == len(frames)
    assert sender.out.queued == 0


def test_a_flow_of_datagrams_goes_express_until_it_is_dense() -> None:
    """And each frame arrives once, whichever way it took."""
    sender, receiver = Sender(rate_bps=SLOW_BPS, sparse=True), Receiver()
    frames = [datagram(1, i, 300) for i in range(3 * FRAMES_MAX)]
    seen: list[int] = []
    plain = receiver.inbound._deliver

    def note(lane: ReceiveLane, stream: int, *rest: Any) -> None:
        seen.append(stream)
        plain(lane, stream, *rest)

    receiver.inbound._deliver = note  # type: ignore[method-assign, assignment]
    receiver.receive_each(datagrams_of(sender, frames))
    assert sorted(receiver.tap.written) == sorted(frames)
    assert set(seen) == {EXPRESS, 1}
    assert receiver.tap.written[:FRAMES_MAX] == frames[:FRAMES_MAX]
    sender.now += DENSE_S + WINDOW_S
    seen.clear()
    receiver.receive_each(datagrams_of(sender, [datagram(1, 1, 300)]))
    assert seen == [EXPRESS]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    parts=st.lists(st.tuples(frame_lists(8), st.integers(1100, CHUNK_MAX_BYTES)), min_size=2, max_size=5),
    dispatches=st.booleans(),
)
def test_a_change_of_capacity_in_mid_stream_loses_nothing(
    parts: list[tuple[list[Spec], int]], dispatches: bool
) -> None:
    """Chunks that wait keep the size they were filled at; `dispatches`: some left before the change."""
    sender = Sender(2, rate_bps=SLOW_BPS)
    receiver = Receiver()
    sent: list[bytes] = []
    for wanted, capacity in parts:
        frames = build(wanted, len(sent))
        sender.out.set_capacity(capacity)
        sender.tap.frames.extend(frames)
        sent += frames
        sender.out.on_readable(sender.now)
        if dispatches:
            sender.now += 0.004
            sender.out.dispatch(sender.now)
    for run in [*sender.taken(), *sender.send([])]:
        receiver.receive([datagram.data for datagram in run])
    assert by_flow(receiver.tap.written) == by_flow(sent)
    assert receiver.drops.as_dict() == sender.drops.as_dict() == {}


def test_chacha20_carries_the_same() -> None:
    frames = [super_frame(1, 0, 50_000, 1448), ack(1, 1), datagram(2, 1, 400)]
    sender, receiver = Sender(cipher=CHACHA20_POLY1305), Receiver(cipher=CHACHA20_POLY1305)
    for run in sender.send(frames):
        receiver.receive([one.data for one in run])
    assert by_flow(receiver.tap.written) == by_flow(frames)


@pytest.mark.parametrize("path_mtu", [1280, 1428, 1500])
@pytest.mark.parametrize("overhead", [28, 48])
def test_an_express_frame_of_any_size_arrives(path_mtu: int, overhead: int) -> None:
    """Each is whole in one chunk, or takes a bulk stream."""
    sender, receiver = Sender(), Receiver()
    sender.out.set_capacity(chunk_capacity(path_mtu, overhead))
    frames = [datagram(1, size, size, port=53) for size in range(1150, 1230)]
    receiver.receive_each(datagrams_of(sender, frames))
    assert sorted(receiver.tap.written) == sorted(frames)


def test_a_frame_of_the_largest_size_arrives_and_a_larger_one_is_dropped_here() -> None:
    sender, receiver = Sender(), Receiver()
    largest = super_frame(1, 0, 65_535 - 64, 1448)
    assert len(largest) == 65_535
    too_long = largest + b"\0"
    for run in sender.send([too_long, largest]):
        receiver.receive([one.data for one in run])
    assert receiver.tap.written == [largest]
    assert sender.drops.as_dict() == {"frame": 1}


def test_frames_outlive_many_turns_of_the_ring() -> None:
    """Views into the ring of rows are copied before their rows are used again: 30 MB through 0.4 MB, with
    streams that stand still half way through a frame while others go on."""
    sender, receiver = Sender(), Receiver()
    slow = super_frame(1, 0, 60_000, 1448)
    standing = datagrams_of(sender, [slow])
    receiver.receive(standing[:20])
    others = [flow for flow in range(2, 9) if flow_of(super_frame(flow, 0, 9, 9)) != flow_of(slow)]
    frames = [super_frame(others[i % len(others)], i * 60_000, 60_000, 1448) for i in range(40)]
    turns = 0
    for run in sender.send(frames):
        receiver.receive([one.data for one in run])
        turns += len(run)
    assert turns > 5 * OpenSlab.ROWS
    receiver.receive(standing[20:])
    assert by_flow(receiver.tap.written) == by_flow([*frames, slow])


@pytest.mark.parametrize("limit", [400_000, 2_800_000])
def test_a_queue_that_never_empties_goes_round_its_ring_unharmed(limit: int) -> None:
    """12 MB through 2.9 MB of slots while chunks of every stream wait, express passing by all the time."""
    sender, receiver = Sender(2, rate_bps=400_000_000), Receiver()
    sender.out.queue_limit = limit
    frames: list[bytes] = []
    for i in range(300):
        frames.append(super_frame(1 + i % 5, i * 40_000, 40_000 - 7 * i, 1448))
        frames.append(datagram(1 + i % 9, i, 60 + i % 1400))
        frames.append(ack(1, 300 - i))  # none says all of the one before
    waited = at = 0
    while at < len(frames) or sender.out.queued:
        while at < len(frames) and sender.out.queued < limit:  # else it would be dropped
            sender.tap.frames.append(frames[at])
            sender.out.on_readable(sender.now)
            at += 1
        sender.out.dispatch(sender.now)
        waited = max(waited, sender.out.queued)
        sender.now += 0.001
        for run in sender.taken():
            receiver.receive([one.data for one in run])
    assert waited >= 0.7 * limit
    assert by_flow(receiver.tap.written) == by_flow(frames)


def test_what_is_held_behind_a_gap_outlives_the_ring() -> None:
    sender, receiver = Sender(), Receiver()
    waiting = datagrams_of(sender, [super_frame(1, 0, 60_000, 1448)])
    receiver.receive(waiting[1:])
    others = [super_frame(2, i * 60_000, 60_000, 1448) for i in range(20)]
    for run in sender.send(others):
        receiver.receive([one.data for one in run])
    receiver.receive(waiting[:1])
    assert receiver.tap.written[-1] == super_frame(1, 0, 60_000, 1448)
    assert len(receiver.tap.written) == 21


# -- out of order -----------------------------------------------------------------------------------
@settings(max_examples=40, deadline=None, derandomize=True)
@given(wanted=frame_lists(12), links=st.integers(2, 4), seed=st.integers(0, 2**32))
def test_links_of_different_delay_lose_nothing(wanted: list[Spec], links: int, seed: int) -> None:
    """Each link keeps its own order; between links anything goes, within the hold."""
    frames = build(wanted)
    sender, receiver = Sender(links, rate_bps=SLOW_BPS), Receiver()
    lines: dict[int, list[bytes]] = defaultdict(list)
    for run in sender.send(frames):
        for one in run:
            lines[one.address].append(one.data)
    rng = random.Random(seed)
    while lines:
        line = rng.choice(sorted(lines))
        count = rng.randint(1, 8)
        run, lines[line] = lines[line][:count], lines[line][count:]
        equal = [one for one in run[:-1] if len(one) == len(run[0])]
        if len(equal) == len(run) - 1 and len(run[-1]) <= len(run[0]):
            receiver.receive(run)
        else:
            receiver.receive_each(run)
        if not lines[line]:
            del lines[line]
        receiver.now += 0.0001
        receiver.reassembly.poll(receiver.now)
    written, expected = by_flow(receiver.tap.written), by_flow(frames)
    for unordered in (EXPRESS, ACKS):
        assert sorted(written.pop(unordered, [])) == sorted(expected.pop(unordered, []))
    assert written == expected
    assert receiver.drops.as_dict() == {}
    assert receiver.reassembly.deadline == float("inf")


@settings(max_examples=25, deadline=None, derandomize=True)
@given(wanted=frame_lists(8), seed=st.integers(0, 2**32))
def test_any_order_of_datagrams_delivers_the_same_bulk_frames(wanted: list[Spec], seed: int) -> None:
    frames = build(wanted)
    sender, receiver = Sender(2), Receiver()
    data = datagrams_of(sender, frames)
    random.Random(seed).shuffle(data)
    receiver.receive_each(data)
    written, expected = by_flow(receiver.tap.written), by_flow(frames)
    for unordered in (EXPRESS, ACKS):
        assert sorted(written.pop(unordered, [])) == sorted(expected.pop(unordered, []))
    assert written == expected


@settings(max_examples=25, deadline=None, derandomize=True)
@given(wanted=frame_lists(8), seed=st.integers(0, 2**32))
def test_what_comes_twice_is_delivered_once(wanted: list[Spec], seed: int) -> None:
    """Replays, singly and as runs, at once and later: counted, nothing more."""
    frames = build(wanted)
    sender, receiver = Sender(2), Receiver()
    runs = [[one.data for one in run] for run in sender.send(frames)]
    rng = random.Random(seed)
    repeats = 0
    for at, run in enumerate(runs):
        receiver.receive(run)
        if rng.random() < 0.5:
            again = runs[rng.randint(0, at)]
            receiver.receive(again)
            repeats += len(again)
    assert by_flow(receiver.tap.written) == by_flow(frames)
    assert receiver.drops.as_dict() == ({"replay": repeats} if repeats else {})


# -- loss -------------------------------------------------------------------------------------------
def check_delivered(sent: Sequence[bytes], written: Sequence[bytes]) -> tuple[int, int]:
    """Each is a frame that was sent, or whole segments of one; nothing twice. (frames, rescued segments)."""
    whole = set(sent)
    pieces = {piece for frame in sent if is_tcp_data(frame) for piece in segments(frame)}
    seen: set[object] = set()
    rescued = 0
    frames = 0
    for frame in written:
        if frame in whole:
            assert frame not in seen
            seen.add(frame)
            frames += 1
            continue
        assert is_tcp_data(frame), f"neither sent nor rescued: {frame[:80].hex()}"
        for piece in segments(frame):
            assert piece in pieces, f"never sent: flow {piece.flow} at {piece.sequence}"
            assert piece not in seen
            seen.add(piece)
            rescued += 1
    return frames, rescued


def lossy(
    seed: int, *, loss: float, burst: int, capacities: Sequence[int], count: int = 60
) -> tuple[list[bytes], list[bytes], Receiver, Sender]:
    rng = random.Random(seed)
    sender, receiver = Sender(2, rate_bps=SLOW_BPS), Receiver()
    sent: list[bytes] = []
    data: list[bytes] = []
    places: dict[int, int] = defaultdict(int)
    for number in range(count):
        flow = rng.randint(1, 3)
        if rng.random() < 0.3:
            sent.append(datagram(flow, number, rng.choice([60, 200, 900, 1300, 1514])))
        else:
            size = rng.choice([1, 1000, 1448, 5000, 20_000, 64_000])
            sent.append(super_frame(flow, places[flow], size, 1448))
            places[flow] += size
        sender.tap.frames.append(sent[-1])
        sender.out.on_readable(sender.now)
        if rng.random() < 0.3:
            sender.out.set_capacity(rng.choice(capacities))
        if rng.random() < 0.3:
            sender.now += 0.02
            sender.out.dispatch(sender.now)
    runs = [*sender.taken(), *sender.send([])]
    data = [one.data for run in runs for one in run]
    skip = 0
    for one in data:
        if skip or rng.random() < loss:
            skip = skip - 1 if skip else rng.randrange(burst)
            continue
        receiver.receive([one])
        receiver.now += 0.0005
        receiver.reassembly.poll(receiver.now)
    receiver.now += HOLD_S
    receiver.reassembly.poll(receiver.now)
    return sent, receiver.tap.written, receiver, sender


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize(("loss", "burst"), [(0.01, 1), (0.1, 1), (0.02, 40), (0.5, 3)])
def test_loss_corrupts_nothing_and_every_stream_goes_on(seed: int, loss: float, burst: int) -> None:
    print(f"seed {seed}")
    sent, written, receiver, sender = lossy(seed, loss=loss, burst=burst, capacities=[CHUNK_MAX_BYTES])
    check_delivered(sent, written)
    assert receiver.count(Drop.SEALED) == receiver.count(Drop.VIRTIO) == 0
    goes_on(sender, receiver)


@pytest.mark.parametrize("seed", range(40))
def test_loss_while_the_path_mtu_changes_corrupts_nothing(seed: int) -> None:
    print(f"seed {seed}")
    capacities = [CHUNK_MAX_BYTES, CHUNK_MAX_BYTES - 8, 1360, 1210, 1190]
    sent, written, receiver, sender = lossy(seed, loss=0.05, burst=2, capacities=capacities)
    check_delivered(sent, written)
    assert receiver.count(Drop.SEALED) == receiver.count(Drop.VIRTIO) == 0
    goes_on(sender, receiver)


def goes_on(sender: Sender, receiver: Receiver) -> None:
    """After a loss at a stream's end the next frame but one at the latest is whole again."""
    receiver.tap.written.clear()
    more = [super_frame(flow, 10_000_000 + i * 3000, 3000, 1448) for flow in (1, 2, 3) for i in range(3)]
    for frame in more:
        receiver.receive_each(datagrams_of(sender, [frame]))
    receiver.now += HOLD_S
    receiver.reassembly.poll(receiver.now)
    for flow in (1, 2, 3):
        wanted = {more[3 * flow - 2], more[3 * flow - 1]}
        assert wanted <= set(receiver.tap.written), f"flow {flow} does not go on"


def test_a_lost_chunk_costs_the_segments_it_held_and_no_more() -> None:
    sender, receiver = Sender(), Receiver()
    frame = super_frame(1, 0, 60_000, 1448)
    data = datagrams_of(sender, [frame])
    lost = 7
    receiver.receive_each(one for i, one in enumerate(data) if i != lost)
    assert receiver.tap.written == []
    receiver.now = HOLD_S
    receiver.reassembly.poll(receiver.now)
    frames, rescued = check_delivered([frame], receiver.tap.written)
    assert frames == 0
    hole = lost * CHUNK_MAX_BYTES - 2 - 64, (lost + 1) * CHUNK_MAX_BYTES - 2 - 64
    touched = range(hole[0] // 1448, -(-hole[1] // 1448))
    assert rescued == len(list(segments(frame))) - len(touched)
    assert receiver.drops.as_dict() == {"frame": 1}


def test_frames_in_the_shadow_of_a_path_mtu_change_are_not_misread() -> None:
    """A frame behind one filled at a larger size: the chunk that is missing was of the new size."""
    for missing in range(2, 12):
        sender, receiver = Sender(rate_bps=SLOW_BPS), Receiver()
        blocker = [datagram(9, i, 1514) for i in range(80)]
        first = super_frame(1, 0, 2 * CHUNK_MAX_BYTES + 500, 1448)
        second = super_frame(1, 2 * CHUNK_MAX_BYTES + 500, 40_000, 1448)
        for link in sender.links:
            link.blocked = True
        sender.tap.frames.extend([*blocker, first])
        sender.out.on_readable(sender.now)
        sender.out.on_readable(sender.now)
        sender.out.set_capacity(CHUNK_MAX_BYTES - 30)
        sender.tap.frames.append(second)
        sender.out.on_readable(sender.now)
        for link in sender.links:
            link.blocked = False
        data = datagrams_of(sender, [])
        flow = [one for one in data if one not in blocker]
        number = len(flow) - missing
        receiver.receive_each(one for i, one in enumerate(flow) if i != number)
        receiver.now = 1.0
        receiver.reassembly.poll(1.0)
        check_delivered([*blocker, first, second], receiver.tap.written)


# -- forged, foreign, malformed -----------------------------------------------------------------------
@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data())
def test_a_run_has_the_effect_of_its_datagrams_one_by_one(data: st.DataObject) -> None:
    """Also with forged, repeated and foreign ones among them: same frames, same counters."""
    frames = build(data.draw(frame_lists(6)))
    sender = Sender(1)
    together, singly = Receiver(), Receiver()
    for run in sender.send(frames):
        datagrams = [bytearray(one.data) for one in run]
        for _ in range(data.draw(st.integers(0, 2))):
            which = data.draw(st.integers(0, len(datagrams) - 1))
            match data.draw(st.integers(0, 3)):
                case 0:
                    datagrams[which][data.draw(st.integers(0, len(datagrams[which]) - 1))] ^= 0x55
                case 1:
                    other = data.draw(st.integers(0, len(datagrams) - 1))
                    if len(datagrams[other]) == len(datagrams[which]):
                        datagrams[which] = bytearray(datagrams[other])
                case 2 if which == len(datagrams) - 1:
                    del datagrams[which][data.draw(st.integers(1, len(datagrams[which]))) :]
                case _:
                    pass
        together.receive([bytes(one) for one in datagrams])
        singly.receive_each(bytes(one) for one in datagrams)
    assert together.tap.written == singly.tap.written
    assert together.drops.as_dict() == singly.drops.as_dict()
    assert together.handshakes == singly.handshakes
    assert together.session.control == singly.session.control


def test_a_loss_costs_nothing_of_what_waits_later() -> None:
    """A head that is told by one that was given up long ago would be lost too: for TCP a second loss."""
    sender, receiver = Sender(rate_bps=SLOW_BPS), Receiver()
    frames = [super_frame(1, i * 2896, 2896, 1448) for i in range(30)]
    lost = datagrams_of(sender, frames[:12])
    receiver.receive_each(lost[:1])
    later = datagrams_of(sender, frames[12:])
    receiver.receive_each(later)
    receiver.now += 1.0
    receiver.reassembly.poll(receiver.now)
    genuine = {each for frame in frames[13:] for each in segments(frame)}
    assert {each for frame in receiver.tap.written for each in segments(frame)} >= genuine


def test_a_datagram_is_as_long_as_design_says() -> None:
    """28 + 16 + 12 + 16 = 72 bytes of a 1500-byte packet over IPv4."""
    sender = Sender()
    data = datagrams_of(sender, [super_frame(1, 0, 10_000, 1448)])
    assert len(data[0]) == 1472
    assert len(data[0]) - OVERHEAD - DATA_HEADER_LEN == 1428


def test_a_head_is_not_told_by_one_that_was_lost() -> None:
    """What follows a hole is dropped up to the next head that is kept, and nothing gets another's head."""
    frames = [super_frame(1, i * 2896, 2896, 1448) for i in range(40)]
    data = datagrams_of(Sender(rate_bps=SLOW_BPS), frames)
    for missing in range(len(data)):
        receiver = Receiver()
        receiver.receive_each(data[:missing] + data[missing + 1 :])
        receiver.now += 1.0
        receiver.reassembly.poll(receiver.now)
        written = receiver.tap.written
        whole = [frame for frame in written if len(frame) == len(frames[0])]
        assert set(whole) <= set(frames)
        genuine = {each for frame in frames for each in segments(frame)}
        assert {each for frame in written for each in segments(frame)} <= genuine
        assert len(whole) >= len(frames) - 2 - KEPT_EACH
        assert receiver.drops.counts[Drop.SEALED] == 0
