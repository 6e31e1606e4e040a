"""A frame's way in: what is dropped, why, and that nothing else happens."""

from itertools import pairwise

import numpy as np
import pytest
from frames import datagram, super_frame
from tunnelends import INDEX, QuietLinks, Receiver, Sender

from bondvpn.datapath import LONE_S
from bondvpn.datapath.slab import SEALED_MAX_BYTES, OpenSlab
from bondvpn.session.keypair import MAX_LANES, REJECT_AFTER_S
from bondvpn.session.link import Link, Path
from bondvpn.stats import Drop
from bondvpn.wire import transport
from bondvpn.wire.sealed import DATA, DATA_HEADER, NO_RECORD, STREAMS, Probe, emit_probe


def some_datagrams(frames: int = 1, size: int = 20_000) -> list[bytes]:
    sender = Sender()
    made = [super_frame(1, i * size, size, 1448) for i in range(frames)]
    return [one.data for run in sender.send(made) for one in run]


def sealed_by(sender: Sender, sealed: bytes, lane: int = 0) -> bytes:
    return sender.keypair.send_lane(lane).seal(sealed)


def data(stream: int, sequence: int, chunk: bytes, offset: int = 0) -> bytes:
    return DATA_HEADER.pack(DATA, stream, sequence, 0, 0, offset) + chunk


def record(frame: bytes) -> bytes:
    return len(frame).to_bytes(2, "big") + frame


def expect(receiver: Receiver, **drops: int) -> None:
    """These counters and nothing else: no frame, no control, no state."""
    assert receiver.drops.as_dict() == drops
    assert receiver.tap.written == []
    assert receiver.session.control == []


# -- what is dropped --------------------------------------------------------------------------------
@pytest.mark.parametrize("length", range(33))
def test_what_is_too_short_for_any_of_ours(length: int) -> None:
    receiver = Receiver()
    receiver.receive([some_datagrams()[0][:length]])
    expect(receiver, short=1)
    assert receiver.handshakes == []


def test_garbage_of_other_types_goes_to_the_handshake() -> None:
    receiver = Receiver()
    for first in (b"\0\0\0\0", b"\1\0\0\0", b"\4\0\0\1", b"\xff\xff\xff\xff"):
        receiver.receive([first + bytes(100)])
    expect(receiver)
    assert len(receiver.handshakes) == 4


def test_a_lane_nobody_has() -> None:
    receiver = Receiver()
    one = bytearray(some_datagrams()[0])
    for index in (0, (INDEX + 1) << 8, INDEX << 8 | MAX_LANES, INDEX << 8 | 255):
        one[4:8] = index.to_bytes(4, "big")
        receiver.receive([bytes(one)])
    expect(receiver, lane=4)
    assert receiver.table.lanes == {}


def test_a_lane_of_another_link_does_not_open_it() -> None:
    """Each lane has its own key: the index is no mere label."""
    receiver = Receiver()
    one = bytearray(some_datagrams()[0])
    one[7] = 1
    receiver.receive([bytes(one)])
    expect(receiver, auth=1)


@pytest.mark.parametrize("at", [7, 8, 15, 16, 26, 200, -17, -16, -1])
def test_a_flipped_bit_anywhere(at: int) -> None:
    """Lane and counter are authenticated, and so is every sealed byte and the tag."""
    receiver = Receiver()
    one = bytearray(some_datagrams()[0])
    one[at] ^= 1
    receiver.receive([bytes(one)])
    expect(receiver, auth=1)


def test_a_datagram_cut_or_lengthened() -> None:
    one = some_datagrams()[0]
    receiver = Receiver()
    receiver.receive_each([one[:-1], one[:100], one + b"\0"])
    assert receiver.count(Drop.AUTH) + receiver.count(Drop.SHORT) == 3
    assert receiver.tap.written == []


def test_larger_than_any_of_ours() -> None:
    receiver = Receiver()
    receiver.receive([sealed_by(Sender(), data(1, 0, bytes(SEALED_MAX_BYTES)))])
    expect(receiver, short=1)


def test_a_key_past_its_life_counts_each_datagram() -> None:
    for as_run in (True, False):
        receiver = Receiver()
        receiver.now = REJECT_AFTER_S
        datagrams = some_datagrams()[:10]
        if as_run:
            receiver.receive(datagrams)
        else:
            receiver.receive_each(datagrams)
        expect(receiver, expired=10)
        assert receiver.confirmed == []


@pytest.mark.parametrize(
    "sealed", [data(1, 0, b""), b"\1", data(1, 0, b"")[:11], data(STREAMS, 0, b"x" * 50)]
)
def test_authentic_data_that_makes_no_sense(sealed: bytes) -> None:
    receiver = Receiver()
    receiver.receive([sealed_by(Sender(), sealed)])
    expect(receiver, sealed=1)


def test_an_empty_chunk_in_the_middle_of_a_frame() -> None:
    receiver, sender = Receiver(), Sender()
    frame = super_frame(1, 0, 3000, 1448)
    chunks = [record(frame)[:1400], b"", record(frame)[1400:2800], record(frame)[2800:]]
    for sequence, chunk in enumerate(chunks):
        offset = 0 if sequence == 0 else NO_RECORD
        receiver.receive([sealed_by(sender, data(1, sequence, chunk, offset))])
    assert receiver.count(Drop.SEALED) == 1


@pytest.mark.parametrize("length", [1, 9, 23])
def test_a_record_too_short_for_a_frame(length: int) -> None:
    receiver = Receiver()
    receiver.receive([sealed_by(Sender(), data(1, 0, record(bytes(length)) + bytes(60)))])
    expect(receiver, sealed=1)


def test_a_virtio_header_that_is_not_safe() -> None:
    receiver, sender = Receiver(), Sender()
    headers = (
        b"\0\1" + bytes(8),
        b"\1\1\0\0\1\0\0\0\0\0",
        b"\1\xff" + bytes(8),
        b"\0\0\xff\xff" + bytes(6),
    )
    for sequence, header in enumerate(headers):
        frame = header + datagram(1, 1, 200)[10:]
        receiver.receive([sealed_by(sender, data(0, sequence, record(frame)))])
    expect(receiver, virtio=4)


def test_a_frame_the_tap_refuses() -> None:
    receiver = Receiver()
    receiver.tap.refuse = True
    receiver.receive([sealed_by(Sender(), data(1, 0, record(datagram(1, 1, 200))))])
    expect(receiver, tap=1)
    assert receiver.reassembly.frames == 0


def test_an_express_record_that_claims_to_go_on_elsewhere() -> None:
    receiver, sender = Receiver(), Sender()
    frame = datagram(1, 1, 300, port=53)
    receiver.receive([sealed_by(sender, data(0, 0, record(frame)[:200]))])
    expect(receiver, sealed=1)
    receiver.receive([sealed_by(sender, data(0, 1, record(frame)))])
    assert receiver.tap.written == [frame]


def test_after_a_forged_tag_the_plaintext_is_nowhere() -> None:
    """After InvalidTag the row holds unauthenticated bytes; the next frame is its own."""
    receiver = Receiver()
    datagrams = some_datagrams(2, 20_000)
    forged = [bytearray(one) for one in datagrams[:10]]
    forged[5][30] ^= 1
    receiver.receive([bytes(one) for one in forged])
    assert receiver.drops.as_dict() == {"auth": 1}
    receiver.receive(datagrams[5:])
    assert receiver.tap.written == [super_frame(1, 0, 20_000, 1448), super_frame(1, 20_000, 20_000, 1448)]


# -- what is control --------------------------------------------------------------------------------
def test_control_goes_to_the_session_singly_and_in_runs() -> None:
    receiver, sender = Receiver(), Sender()
    probes = [sealed_by(sender, emit_probe(Probe(i, 100), length=100)) for i in range(8)]
    receiver.receive_each(probes[:1])
    receiver.receive(probes[1:])
    receiver.receive([sealed_by(sender, b"\7\0")])
    assert [sealed[0] for _, sealed in receiver.session.control] == [3] * 8 + [7]
    assert receiver.session.control[3] == (0, emit_probe(Probe(3, 100), length=100))


def test_control_within_a_run_of_data() -> None:
    receiver, sender = Receiver(), Sender()
    frames = [datagram(1, i, 500) for i in range(6)]
    run = [sealed_by(sender, data(1, i, record(frame).ljust(600, b"\0"))) for i, frame in enumerate(frames)]
    other = sealed_by(sender, emit_probe(Probe(9, 0), length=612))
    run.append(sealed_by(sender, data(1, 6, record(datagram(1, 6, 500)).ljust(600, b"\0"))))
    receiver.receive_each(run[:1])  # the lane is known then, and runs are opened as such
    receiver.receive([*run[1:6], other, run[6]])
    assert [number for number, _ in receiver.session.control] == [0]
    assert receiver.tap.written == [*frames, datagram(1, 6, 500)]


def test_a_run_may_end_with_a_shorter_one() -> None:
    """GRO appends what follows in the flow, if it is shorter: the end of a frame, or control."""
    receiver, sender = Receiver(), Sender()
    frame = super_frame(1, 0, 20_000, 1448)
    chunks = [record(frame)[at : at + 1400] for at in range(0, len(frame) + 2, 1400)]
    assert len(chunks[-1]) < 1400
    run = [sealed_by(sender, data(1, i, chunk, NO_RECORD if i else 0)) for i, chunk in enumerate(chunks)]
    receiver.receive_each(run[:1])
    receiver.receive(run[1:])
    assert receiver.tap.written == [frame]
    again = [sealed_by(sender, data(1, len(run) + i, record(datagram(1, i, 500)))) for i in range(6)]
    probe = emit_probe(Probe(9, 0), length=40)
    receiver.receive([*again, sealed_by(sender, probe)])
    assert receiver.tap.written[1:] == [datagram(1, i, 500) for i in range(6)]
    assert receiver.session.control == [(0, probe)]
    assert receiver.drops.as_dict() == {}


def test_a_frame_that_goes_on_behind_a_shorter_chunk() -> None:
    """No peer of ours sends it; what it says is believed all the same."""
    receiver, sender = Receiver(), Sender()
    frame = super_frame(1, 0, 9_000, 1448)
    places = [*range(0, 8000, 1400), 7700, len(frame) + 2]
    chunks = [record(frame)[start:end] for start, end in pairwise(places)]
    run = [sealed_by(sender, data(1, i, chunk, NO_RECORD if i else 0)) for i, chunk in enumerate(chunks)]
    receiver.receive_each(run[:1])
    receiver.receive(run[1:6])
    receiver.receive_each(run[6:])
    assert receiver.tap.written == [frame]


def test_neighbours_of_several_streams_in_a_run() -> None:
    receiver, sender = Receiver(), Sender()
    frames = {(stream, i): datagram(stream, i, 500) for stream in (1, 2) for i in range(6)}
    order = [(1, 0), (1, 1), (2, 0), (2, 1), (2, 2), (1, 2), (1, 3), (1, 5), (1, 4), (2, 3)]
    run = [sealed_by(sender, data(*place, record(frames[place]))) for place in order]
    receiver.receive_each(run[:1])
    receiver.receive(run[1:])
    order[7:9] = (1, 4), (1, 5)
    assert receiver.tap.written == [frames[place] for place in order]


def test_the_first_authentic_datagram_confirms_the_keypair_and_no_forged_one_does() -> None:
    receiver = Receiver()
    datagrams = some_datagrams()
    receiver.receive([datagrams[0][:-1] + b"\0"])
    assert receiver.confirmed == []
    receiver.receive(datagrams)
    receiver.receive(some_datagrams()[:1])
    assert receiver.confirmed == [receiver.keypair]


# -- links ------------------------------------------------------------------------------------------
def test_the_link_counts_what_came_and_follows_the_newest_only() -> None:
    receiver, sender = Receiver(), Sender()
    link = receiver.session.links[0] = Link(0, "line0", sender.observer, receiver.drops)
    link.set_path(Path(receiver.socket, ("192.0.2.7", 4000)))  # type: ignore[arg-type]
    datagrams = some_datagrams()
    receiver.now = 5.0
    receiver.receive(datagrams[:8])
    assert (link.rx_datagrams, link.last_received) == (8, 5.0)
    assert link.rx_bytes == sum(len(one) + link.frame_overhead for one in datagrams[:8])
    elsewhere = ("192.0.2.8", 5000)
    receiver.receive([datagrams[9]])
    receiver.receive([datagrams[8]], elsewhere)  # overtaken
    receiver.receive([datagrams[9]], elsewhere)  # replayed
    receiver.receive([datagrams[10][:-1] + b"\0"], elsewhere)  # forged
    assert receiver.session.moves == []
    receiver.receive([datagrams[10]], elsewhere)
    assert receiver.session.moves == [elsewhere]


# -- bounds -----------------------------------------------------------------------------------------
def test_one_wakeup_takes_no_more_than_its_share() -> None:
    receiver = Receiver()
    for i in range(40):
        receiver.socket.feed([bytes(10)], i)
    receiver.inbound.on_readable(receiver.socket, lambda: 0.0)
    assert receiver.count(Drop.SHORT) == 32
    assert len(receiver.socket.calls) == 8


def test_nor_many_bytes_of_it() -> None:
    receiver = Receiver()
    for i in range(10):
        receiver.socket.feed([bytes(60_000)], i)
    receiver.inbound.on_readable(receiver.socket, lambda: 0.0)
    assert len(receiver.socket.calls) == 7


def test_many_sizes_do_not_keep_views_for_ever() -> None:
    receiver, sender = Receiver(), Sender()
    for size in range(60, 100):
        frames = [datagram(1, i, size, port=53) for i in range(6)]
        receiver.receive(
            [sealed_by(sender, data(0, size * 6 + i, record(frame))) for i, frame in enumerate(frames)]
        )
    assert len(receiver.tap.written) == 240
    assert len(receiver.inbound._runs) <= 8
    assert len(receiver.inbound._slab._sealed) <= 8


def test_each_call_is_stamped() -> None:
    """One stamp a wake-up would make the smallest one-way delay too small."""
    receiver = Receiver()
    for one in some_datagrams()[:5]:
        receiver.socket.feed([one])
    times = iter(range(100))
    receiver.inbound.on_readable(receiver.socket, lambda: next(times) * LONE_S / 2)
    assert next(times) >= 5


@pytest.mark.parametrize("count", [1, 14])
def test_what_waited_for_a_late_reader_did_not_wait_in_the_line(count: int) -> None:
    """One datagram, and a run: arrival, delay and the equaliser's delay go by when the kernel had it."""
    prompt, late = Receiver(), Receiver()
    datagrams = some_datagrams()[:count]
    prompt.now, late.now, late.socket.waited_s = 1.0, 1.25, 0.25
    told = []
    for receiver in (prompt, late):
        receiver.session.links[0] = Link(0, "a", QuietLinks(), receiver.drops)
        receiver.receive(datagrams)
        arrivals = receiver.keypair.receive_lane(0).arrivals
        delay, _ = arrivals.take(count - 1)
        told.append((arrivals.at, delay, receiver.session.equaliser._bases[0].value))
    assert told[0] == told[1]
    assert told[0][0] == 1.0


def test_an_express_frame_out_of_silence_is_delivered_before_more_is_looked_for() -> None:
    sender, receiver = Sender(), Receiver()
    frames = [datagram(1, i, 200, port=53) for i in range(3)]
    runs = [sealed_by(sender, data(0, i, record(frame))) for i, frame in enumerate(frames)]
    for one in runs:
        receiver.socket.feed([one])
    receiver.now = 2 * LONE_S
    receiver.inbound.on_readable(receiver.socket, lambda: receiver.now)
    assert receiver.tap.written == frames[:1]
    assert len(receiver.answerable) == 1
    receiver.inbound.on_readable(receiver.socket, lambda: receiver.now + LONE_S / 2)
    assert len(receiver.answerable) == 1
    assert receiver.reassembly.frames == 3


def test_what_waited_for_its_turn_does_not_come_out_of_silence() -> None:
    receiver = Receiver()
    for one in some_datagrams()[:5]:
        receiver.socket.feed([one])
    receiver.now = 2 * LONE_S
    receiver.inbound.on_readable(receiver.socket, lambda: receiver.now, polled=True)
    assert not receiver.socket.calls
    assert receiver.answerable == []


def test_the_ring_says_when_it_comes_round() -> None:
    slab = OpenSlab()
    slab.next = slab.ROWS - 3
    assert not slab.reserve(3)
    assert slab.reserve(4)
    assert slab.next == 0


def test_sequences_that_wrap_within_a_run() -> None:
    receiver, sender = Receiver(), Sender()
    start = 2**32 - 3
    receiver.reassembly._reorders[1].expected = start
    frames = [datagram(1, i, 500) for i in range(8)]
    run = [
        sealed_by(sender, data(1, (start + i) & 0xFFFFFFFF, record(frame))) for i, frame in enumerate(frames)
    ]
    receiver.receive_each(run[:1])
    with np.errstate(all="raise"):
        receiver.receive(run[1:])
    assert receiver.tap.written == frames


def test_a_lane_is_found_by_its_index_after_the_first_datagram_only() -> None:
    receiver, sender = Receiver(), Sender(3)
    receiver.receive([sealed_by(sender, data(1, 0, record(datagram(1, 0, 100))), lane=2)])
    assert list(receiver.table.lanes) == [transport.lane_index(INDEX, 2)]
    receiver.table.remove(receiver.keypair)
    assert receiver.table.lanes == {}
