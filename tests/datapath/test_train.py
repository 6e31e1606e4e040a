"""Trains: what is read straight behind the frame before leaves as if each frame had been read by itself."""

from itertools import count

import pytest
from frames import ack, datagram, super_frame
from hypothesis import given, settings
from hypothesis import strategies as st
from tunnelends import Receiver, Sender

from bondvpn.datapath.backlog import OutStream
from bondvpn.datapath.outbound import SMALL_READS_PER_WAKEUP
from bondvpn.datapath.slab import CHUNK_MAX_BYTES
from bondvpn.datapath.train import Train
from bondvpn.wire.sealed import RECORD_LENGTH_LEN

# (kind, flow, size, how many): 0 UDP, 1 UDP over IPv6, 2 ACK, 3 TCP super-frame
rows = st.tuples(
    st.integers(0, 3), st.integers(1, 2), st.one_of(st.integers(80, 1500), st.just(9000)), st.integers(1, 40)
)
capacities = st.one_of(st.just(CHUNK_MAX_BYTES), st.integers(1100, CHUNK_MAX_BYTES))


class NoTrain(Train):
    """Each frame is read by itself."""

    def note(self, frame: memoryview, length: int, stream: OutStream) -> None:
        pass


def frames_of(traffic: list[tuple[int, int, int, int]]) -> list[bytes]:
    numbers = count()
    frames = []
    for kind, flow, size, many in traffic:
        for number in (next(numbers) for _ in range(many)):
            if kind < 2:
                frames.append(datagram(flow, number, size, ipv6=kind == 1))
            elif kind == 2:
                frames.append(ack(flow, -number & 0xFFFFFFFF))  # none says all of the one before
            else:
                frames.append(super_frame(flow, number * 9000, size, 1448))
    return frames


def sent(frames: list[bytes], capacity: int, *, trains: bool) -> tuple[Sender, list[bytes]]:
    """The datagrams of frames that all waited before the first left."""
    sender = Sender()
    sender.out.set_capacity(capacity)
    for row in sender.out._slab.rows[: len(frames)]:
        row[:] = b"\xaa" * len(row)  # what a slot held before must not show
    if not trains:
        sender.out._train = NoTrain(sender.tap, sender.out._overflow)
    for link in sender.links:
        link.blocked = True
    sender.tap.frames.extend(frames)
    while sender.tap.frames:
        sender.out.on_readable(sender.now)
    for link in sender.links:
        link.blocked = False
    sender.out.dispatch(sender.now)
    return sender, [one.data for run in sender.taken() for one in run]


@given(traffic=st.lists(rows, min_size=1, max_size=8), capacity=capacities)
@settings(max_examples=60, deadline=None)
def test_the_wire_does_not_show_it(traffic: list[tuple[int, int, int, int]], capacity: int) -> None:
    frames = frames_of(traffic)
    plain, expected = sent(frames, capacity, trains=False)
    sender, found = sent(frames, capacity, trains=True)
    assert found == expected
    assert (sender.out.frames, sender.out.bytes) == (plain.out.frames, plain.out.bytes)
    assert sender.out.queued == 0
    receiver = Receiver()
    receiver.receive_each(found)
    assert sorted(receiver.tap.written) == sorted(frames)


@pytest.mark.parametrize("size", [80, 242, 700, 1354, 1402, CHUNK_MAX_BYTES - 2, CHUNK_MAX_BYTES - 1])
@pytest.mark.parametrize("ipv6", [False, True])
def test_a_flow_alone_is_read_as_a_train(size: int, ipv6: bool) -> None:
    """All but the first two, and now and then one whose headers would lie in two chunks."""
    alone = []

    def read() -> int:
        length = plain_read()
        alone.append(length)
        return length

    sender = Sender()
    plain_read, sender.out._read = sender.out._read, read  # type: ignore[method-assign]
    sender.links[0].blocked = True
    sender.tap.frames.extend(datagram(1, i, size, ipv6=ipv6) for i in range(SMALL_READS_PER_WAKEUP))
    sender.out.on_readable(sender.now)
    assert not sender.tap.frames
    fits = size + RECORD_LENGTH_LEN <= CHUNK_MAX_BYTES
    assert len(alone) <= 8 if fits else len(alone) == SMALL_READS_PER_WAKEUP
