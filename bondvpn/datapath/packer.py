"""Step 3 of a frame's way out: records become the chunks of their streams, which wait in the slab for a line.

A chunk that is alone leaves as it is; while chunks wait, the next record begins in the tail of the last one,
and on slow lines its head is told by its difference from the one before (wire.delta).
"""

from collections import deque
from struct import Struct

import numpy as np

from bondvpn.datapath import ackfilter
from bondvpn.datapath.ackfilter import WaitingAcks
from bondvpn.datapath.backlog import OutStream
from bondvpn.datapath.slab import RUN_MAX, ChunkSlab, Extent
from bondvpn.wire.delta import HEAD_BYTES
from bondvpn.wire.sealed import (
    DATA,
    DATA_HEADER,
    DATA_HEADER_LEN,
    EXPRESS,
    NO_RECORD,
    PADDING_BOUND,
    RECORD_LENGTH_LEN,
    RECORD_OFFSET,
    SEQUENCE_MASK,
    STREAMS,
)

# Frames whose heads are told by differences: TCP at 15 Mbit/s makes them of two segments, and their heads are
# 2.6 % of them; told, 0.9 %. Of longer ones they are 0.5 %. 5 µs a frame at each end.
TOLD_MIN_BYTES, TOLD_MAX_BYTES = 1_000, 16_000
# From here on a record begins in a chunk of its own though the last one has room: a datagram more is 0.2 % of
# it, and to copy it half of what it costs to read, classify and pack it (0.56 µs a datagram, now 0.29).
LONG_BYTES = 32_000

_OFFSET = Struct(">H")


class Packer:
    """The streams of one session. Records lie in the first free slots of `slab` when they are packed."""

    def __init__(self, slab: ChunkSlab) -> None:
        self._slab = slab
        # as they stand in a chunk's first 8 bytes
        self._sequences = np.arange(RUN_MAX, dtype=np.uint64) << np.uint64(16)
        self.enqueued = 0
        """Now, as the headers have it."""
        self.sparing = False
        """Of bytes more than of the processor."""
        self._forget()

    def _forget(self) -> None:
        self.streams = [OutStream(i) for i in range(STREAMS)]
        self.express = self.streams[EXPRESS]
        self.acks = OutStream(EXPRESS, numbered=self.express)
        self._waiting_acks = WaitingAcks()
        self.turns: deque[OutStream] = deque()
        """Bulk streams with something to send."""
        self.queued = 0
        """Bytes that wait for a line."""

    def restart(self) -> list[Extent]:
        """Sequences start again, with what waits of bulk: that is the answer. A stream may begin within a
        record then; the receiver finds the next one by its offset. What was urgent is too late."""
        kept: list[Extent] = []
        waiting = list(self.turns)
        self._forget()
        for old in waiting:
            stream = self.streams[old.number]
            stream.queue, stream.waiting = old.queue, old.waiting
            self.turns.append(stream)
            self.queued += stream.waiting
            for extent in stream.queue:
                self._number(extent, stream.sequence)
                stream.sequence += extent.count
            kept += stream.queue
        return kept

    def _number(self, extent: Extent, sequence: int) -> None:
        slots = slice(extent.start, extent.end)
        start = DATA << 56 | extent.stream << 48 | sequence << 16
        places = np.arange(extent.count, dtype=np.uint64) << np.uint64(16)
        self._slab.starts[slots] = places + np.uint64(start)

    def close(self) -> None:
        """Chunks of another size follow: the receiver counts on a frame's being of one."""
        for stream in self.streams:
            stream.open = False

    def take(self, stream: OutStream, skip: int, most: int, now: float) -> Extent:
        """A run to be sent now, for the first time (OutStream.take)."""
        if stream is self.acks:
            self._waiting_acks.clear()
        extent = stream.take(skip, most)
        extent.born = now
        self.queued -= extent.nbytes
        return extent

    def pack_ack(self, record: int) -> None:
        """The same as `pack` for a pure ACK, unless it can take the place of one that waits."""
        slab = self._slab
        view = slab.chunk[slab.next][:record]
        ack = ackfilter.parse(view)
        if ack is not None and self._waiting_acks.replace(ack, view):
            return
        self.pack(self.acks, record)
        if ack is None:
            self._waiting_acks.clear()
        else:
            tail = self.acks.queue[-1]
            end = DATA_HEADER_LEN + tail.last
            self._waiting_acks.note(ack, slab.rows[tail.end - 1][end - record : end])

    def pack(self, stream: OutStream, record: int) -> None:
        """Put the record that lies in the first free slots into its stream's byte sequence."""
        bulk = stream.number != EXPRESS
        if bulk and not stream.queue:
            self.turns.append(stream)
            stream.forget_head()
        elif bulk and self.sparing and TOLD_MIN_BYTES <= record <= TOLD_MAX_BYTES:
            self._pack_told(stream, record)
            return
        self.queued += record
        stream.waiting += record
        if stream.open:
            slab = self._slab
            tail = stream.queue[-1]
            room = tail.capacity - tail.last
            if record <= room:
                self._join(stream, slab.chunk[slab.next][:record])
                return
            if record >= LONG_BYTES:
                stream.open = False
            elif bulk and room >= PADDING_BOUND:
                self._split(stream, record, room)
                return
            else:
                self._close(stream)
        self._place(stream, record, first_offset=0)

    def _pack_told(self, stream: OutStream, record: int) -> None:
        """The same for a record that may be told with fewer bytes, behind others that wait."""
        slab = self._slab
        first = slab.next
        tail = stream.queue[-1]
        room = tail.capacity - tail.last if stream.open else 0
        parts = slab.chunk[first : first - (-record // slab.capacity)]
        told = stream.tell(parts[0][RECORD_LENGTH_LEN:], record - RECORD_LENGTH_LEN, room or slab.capacity)
        if told:
            plain = RECORD_LENGTH_LEN + HEAD_BYTES
            parts[0] = parts[0][plain:]
            record -= plain - len(told)
        data = memoryview(b"".join((told, *parts)))[:record]
        self.queued += len(data)
        stream.waiting += len(data)
        if room:
            self._join(stream, data[:room])
        if len(data) > room:
            self.spread(data[room:], first)
            self._place(stream, len(data) - room, first_offset=NO_RECORD if room else 0)

    def _join(self, stream: OutStream, data: memoryview) -> None:
        """Append to the last chunk, which has room; a record begins here."""
        tail = stream.queue[-1]
        begun = DATA_HEADER_LEN + tail.last
        self._slab.rows[tail.end - 1][begun : begun + len(data)] = data
        self._extend(stream, len(data))

    def append(self, stream: OutStream, nbytes: int, room: int, offsets: list[int]) -> None:
        """`nbytes` of records lie in the last chunk, as many as it has `room` for, and in the slots behind
        it, where they begin at `offsets`."""
        slab = self._slab
        self.queued += nbytes
        stream.waiting += nbytes
        if room:
            self._extend(stream, min(nbytes, room))
        if nbytes > room:
            first = slab.next
            self._place(stream, nbytes - room, first_offset=NO_RECORD)
            slab.offsets[first : slab.next] = offsets

    def _extend(self, stream: OutStream, nbytes: int) -> None:
        """So many more bytes lie in the last chunk; a record begins with them."""
        tail = stream.queue[-1]
        row = self._slab.rows[tail.end - 1]
        if row[RECORD_OFFSET] == 0xFF and row[RECORD_OFFSET + 1] == 0xFF:
            _OFFSET.pack_into(row, RECORD_OFFSET, tail.last)
        tail.last += nbytes
        if tail.capacity - tail.last < PADDING_BOUND:
            self._close(stream)

    def _split(self, stream: OutStream, record: int, room: int) -> None:
        """Head into the last chunk, the rest into new ones. Only under backlog, so a copy costs nothing."""
        slab = self._slab
        first = slab.next
        count = -(-record // slab.capacity)
        if count == 1:  # packets of 1,300 bytes: 1 µs less each than by way of new bytes
            chunk = slab.chunk[first]
            self._join(stream, chunk[:room])
            chunk[: record - room] = chunk[room:record]
        else:
            data = memoryview(b"".join(slab.chunk[first : first + count]))[:record]
            self._join(stream, data[:room])
            self.spread(data[room:], first)
        self._place(stream, record - room, first_offset=NO_RECORD)

    def _close(self, stream: OutStream) -> None:
        """The last chunk takes no more: the rest of it becomes padding, so that runs stay equal-sized."""
        stream.open = False
        tail = stream.queue[-1]
        padding = tail.capacity - tail.last
        if padding and stream.number != EXPRESS:
            end = DATA_HEADER_LEN + tail.capacity
            self._slab.rows[tail.end - 1][end - padding : end] = bytes(padding)
            tail.last = tail.capacity
            self.queued += padding
            stream.waiting += padding

    def _place(self, stream: OutStream, length: int, first_offset: int) -> None:
        """Number the first free slots, which hold `length` bytes, as the stream's next chunks."""
        slab = self._slab
        capacity = slab.capacity
        count = -(-length // capacity)
        sequence = stream.numbered.sequence
        stream.numbered.sequence = sequence + count & SEQUENCE_MASK
        first = slab.next
        last = length - (count - 1) * capacity
        if count > 1 and sequence + count <= SEQUENCE_MASK:
            # One addition and two assignments for all of them, and no wrap to heed: 4 µs less a super-frame.
            start = DATA << 56 | stream.number << 48 | sequence << 16
            slab.starts[first : first + count] = self._sequences[:count] + np.uint64(start)
            slab.enqueueds[first : first + count] = self.enqueued
            slab.offsets[first : first + count] = NO_RECORD
            _OFFSET.pack_into(slab.rows[first], RECORD_OFFSET, first_offset)
        else:
            for i in range(count):
                offset = NO_RECORD if i else first_offset
                place = sequence + i & SEQUENCE_MASK
                DATA_HEADER.pack_into(
                    slab.rows[first + i], 0, DATA, stream.number, place, 0, self.enqueued, offset
                )
        tail = stream.queue[-1] if stream.queue else None
        if tail is not None and tail.end == first and tail.last == tail.capacity == capacity:
            tail.count += count
            tail.last = last
        else:
            stream.queue.append(Extent(stream.number, first, count, last, capacity))
        slab.take(count)
        stream.open = True
        if capacity - last < PADDING_BOUND:
            self._close(stream)

    def spread(self, data: memoryview, slot: int) -> None:
        """Copy `data` into the chunks from `slot` on."""
        capacity = self._slab.capacity
        for start in range(0, len(data), capacity):
            piece = data[start : start + capacity]
            self._slab.chunk[slot][: len(piece)] = piece
            slot += 1
