"""A frame's way out.

1. read      super-frames from the TAP, scattered straight into free chunk slots
2. classify  which stream: express, or the bulk stream of its flow; pure ACKs wait apart
3. pack      number the chunks; under load a frame begins in the tail of the one before
4. dispatch  the scheduler names a line with room, streams take turns to fill its run
5. seal      headers and nonces by numpy, one AEAD call per datagram
6. send      the run in one call (GSO)
7. keep      the chunks until the peer reports them; what a line lost leaves again, before all else
"""

from collections import deque
from math import inf
from struct import Struct
from typing import Any

import numpy as np

from bondvpn.bond.classify import ACKS, EXPRESS_MAX_BYTES, classify
from bondvpn.bond.flight import Piece
from bondvpn.bond.line import EXPRESS_DEBT_S, Scheduler
from bondvpn.bond.sparse import SparseFlows
from bondvpn.datapath import LONE_S
from bondvpn.datapath.backlog import Lost, OutStream
from bondvpn.datapath.sealer import Sealer
from bondvpn.datapath.slab import CHUNK_MAX_BYTES, RUN_MAX, ChunkSlab, Extent, SealSlab, run_max
from bondvpn.datapath.train import FrameSource, Train
from bondvpn.session.link import Link
from bondvpn.stats import Drop, Drops
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
    time_of,
)
from bondvpn.wire.transport import OVERHEAD
from bondvpn.wire.virtio import HEADER_BYTES as VIRTIO_BYTES

# What waits and what is under way: 5.9 MB are 100 ms of each at 230 Mbit/s. Faster bonds have shorter ways;
# when the slots run out all the same, the oldest chunks under way can no longer be sent again.
SLOTS = 4096
READS_PER_WAKEUP = 16  # then the other direction and the timers have their turn
SMALL_READS_PER_WAKEUP = 128  # of frames that take no more than two slots
FRAME_MAX_BYTES = 65_535  # a record's length is 16 bits; gso_max_size keeps the kernel below
QUEUE_MIN_BYTES = 24_000  # 16 full packets: 200 ms at 1 Mbit/s
QUEUE_EXCESS = 2  # times its limit, whatever a stream's share
QUEUE_MAX_BYTES = SLOTS // 2 * CHUNK_MAX_BYTES
TURN_CHUNKS = 8  # a stream's quantum while others wait
SHORT_SLOTS = 2  # what a frame without offload needs at the most
# Frames whose heads are told by differences: TCP at 15 Mbit/s makes them of two segments, and their heads are
# 2.6 % of them; told, 0.9 %. Of longer ones they are 0.5 %. 5 µs a frame at each end.
TOLD_MIN_BYTES, TOLD_MAX_BYTES = 1_000, 16_000

_RECORD_LENGTH = Struct(">H")
_OFFSET = Struct(">H")


class Outbound:
    """Carries one TAP's frames to the links of one session."""

    def __init__(self, tap: FrameSource, scheduler: Scheduler[Link], seal: SealSlab, drops: Drops) -> None:
        self._tap = tap
        self._scheduler = scheduler
        self._drops = drops
        self._slab = ChunkSlab(SLOTS, CHUNK_MAX_BYTES)
        self._sealer = Sealer(self._slab, seal)
        self._overflow = memoryview(bytearray(65_536 + 64))
        # as they stand in a chunk's first 8 bytes
        self._sequences = np.arange(RUN_MAX, dtype=np.uint64) << np.uint64(16)
        self._enqueued = 0  # now, as the headers have it
        self._now = 0.0  # when the TAP is read
        self._read_at = 0.0  # when it had a frame
        self._sparse = SparseFlows()
        self._train = Train(tap, self._overflow)
        self._small = False
        self.queue_limit = QUEUE_MAX_BYTES
        self._sparing = False  # of bytes more than of the processor
        self.frames = 0
        self.bytes = 0
        self.reset()
        self.set_capacity(CHUNK_MAX_BYTES)

    def reset(self) -> None:
        """A new session: sequences start again, what waited for the old one is dropped."""
        self._streams = [OutStream(i) for i in range(STREAMS)]
        self._express = self._streams[EXPRESS]
        self._acks = OutStream(EXPRESS, numbered=self._express)
        self._streams.append(self._acks)
        self._turns: deque[OutStream] = deque()  # bulk streams with something to send
        self._dispatching = False
        self._train.forget()
        self._slab.clear()
        self._lost = Lost(self._slab)
        self.queued = 0  # bytes that wait for a line

    def set_capacity(self, capacity: int) -> None:
        """Chunk bytes per datagram from now on: the smallest active path MTU decides."""
        self._slab.set_capacity(capacity)
        for stream in self._streams:
            stream.open = False  # a frame's chunks are of one size: the receiver counts on it
        self._train.forget()
        self._express_max = min(EXPRESS_MAX_BYTES, capacity - RECORD_LENGTH_LEN - VIRTIO_BYTES)
        self._slots_needed = -(-(FRAME_MAX_BYTES + RECORD_LENGTH_LEN + 32) // capacity)

    def set_queue_limit(self, nbytes: float) -> None:
        """How much may wait here before frames are dropped, those beyond their stream's share."""
        self.queue_limit = int(max(min(nbytes, QUEUE_MAX_BYTES), QUEUE_MIN_BYTES))
        self._sparing = nbytes < QUEUE_MAX_BYTES  # below 230 Mbit/s

    @property
    def full(self) -> bool:
        """Whether the TAP need not be read at once: no line has room and the queue is at its limit."""
        return self.queued >= self.queue_limit or not self._make_room()

    def _make_room(self) -> bool:
        """Have slots for a frame, if need be those of the oldest chunks under way: no more resends."""
        while not self._slab.has_room(self._slots_needed):
            oldest = min(self._scheduler.lines, key=lambda link: link.oldest, default=None)
            if oldest is None or not self._lost.forget(oldest.forget()):
                return False
        return True

    # -- 1. read --------------------------------------------------------------------------------
    def on_readable(self, now: float) -> None:
        """Drain the TAP, but bounded; send what the lines have room for."""
        lone = now - self._read_at > LONE_S and not self.queued
        self._now = now
        self._enqueued = time_of(now)
        run_bytes = RUN_MAX // 2 * self._slab.capacity
        since_dispatch = self.queued
        slab, needed = self._slab, self._slots_needed
        begun = self.frames
        while (done := self.frames - begun) < SMALL_READS_PER_WAKEUP:
            if not slab.has_room(needed):
                self.dispatch(now)
                if not self._make_room():
                    return
            stream = self._train.stream
            if stream is not None and self.queued + run_bytes <= self.queue_limit:
                length = self._follow(
                    stream, min(SMALL_READS_PER_WAKEUP - done, run_bytes // self._train.length)
                )
            else:
                length = self._read()
            if not length:
                break
            if self.queued - since_dispatch >= run_bytes:
                self.dispatch(now)
                since_dispatch = self.queued
            if lone or (done >= READS_PER_WAKEUP and not self._small):
                break
        if self.frames > begun:
            self._read_at = now
        self.dispatch(now)

    def discard(self) -> None:
        """Read and drop: nobody is there to carry it to, and stale frames help no one."""
        for _ in range(SMALL_READS_PER_WAKEUP):
            if not self._tap.read_into([self._overflow]):
                return
            self._drops.count(Drop.QUEUE)

    def _read(self) -> int:
        """One frame into free slots and on to its stream. Small frames come in long rows: after one
        the kernel is given two slots and an overflow area instead of 47 slots (3 µs less a frame)."""
        slab = self._slab
        first = slab.next
        if self._small:
            buffers = [slab.record[first], slab.chunk[first + 1], self._overflow]
        else:
            buffers = slab.chunk[first : first + self._slots_needed]
            buffers[0] = slab.record[first]
        length = self._tap.read_into(buffers)
        if not length:
            return 0
        if length > FRAME_MAX_BYTES:
            self._drops.count(Drop.FRAME)
            return length
        spill = length + RECORD_LENGTH_LEN - SHORT_SLOTS * slab.capacity
        if self._small and spill > 0:
            self._spread(self._overflow[:spill], first + SHORT_SLOTS)
        self._small = spill <= 0
        self._accept(length)
        return length

    def _follow(self, stream: OutStream, most: int) -> int:
        """Like `_read`, but up to `most` frames of the train, which goes to that stream."""
        train, slab = self._train, self._slab
        length = train.length
        if not stream.queue or not slab.has_room(2 * self._slots_needed):
            return self._read()
        tail = stream.queue[-1]
        room = tail.capacity - tail.last if stream.open else 0
        if slab.next != tail.end or not (room or tail.last == slab.capacity):
            return self._read()
        frames, nbytes, stranger = train.read(slab, tail.end - 1, slab.capacity - room, most)
        if frames:
            self.frames += frames
            self.bytes += frames * (length - VIRTIO_BYTES)
            self.queued += nbytes
            stream.waiting += nbytes
            if room:
                self._extend(stream, min(nbytes, room))
            if nbytes > room:
                first = slab.next
                self._place(stream, nbytes - room, first_offset=NO_RECORD)
                slab.offsets[first : slab.next] = train.offsets
        if stranger is not None:
            length = len(stranger) - RECORD_LENGTH_LEN
            if length > FRAME_MAX_BYTES:
                self._drops.count(Drop.FRAME)
            else:
                self._spread(stranger, slab.next)
                self._accept(length)
            return length
        return frames if frames == most else self._read()

    def _accept(self, length: int) -> None:
        """A frame of `length` bytes lies in the first free slots, behind room for its record's length."""
        row = self._slab.chunk[self._slab.next]
        _RECORD_LENGTH.pack_into(row, 0, length)
        self.frames += 1
        self.bytes += length - VIRTIO_BYTES
        frame = row[RECORD_LENGTH_LEN + VIRTIO_BYTES :]
        frame_length = length - VIRTIO_BYTES
        number = classify(frame, frame_length, self._express_max)
        if number == ACKS:
            self._pack(ACKS, length + RECORD_LENGTH_LEN)
            return
        if number and frame_length <= self._express_max and self._sparse.admits(frame, self._now):
            number = EXPRESS
        if number and self.queued >= self.queue_limit and self._beyond_share(self._streams[number]):
            self._drops.count(Drop.QUEUE)
            return
        if number and length + RECORD_LENGTH_LEN <= self._slab.capacity:
            self._train.note(row[RECORD_LENGTH_LEN:], length, self._streams[number])
        self._pack(number, length + RECORD_LENGTH_LEN)

    def _beyond_share(self, stream: OutStream) -> bool:
        """The queue is full: whether a frame of this stream is to be dropped. Who has less than a fair share
        of it in there may still add to it (as FQ-CoDel drops from the longest queue, RFC 8290)."""
        share = self.queue_limit // max(len(self._turns), 1)
        return stream.waiting >= share or self.queued >= QUEUE_EXCESS * self.queue_limit

    def _spread(self, data: memoryview, slot: int) -> None:
        """Copy `data` into the chunks from `slot` on."""
        capacity = self._slab.capacity
        for start in range(0, len(data), capacity):
            piece = data[start : start + capacity]
            self._slab.chunk[slot][: len(piece)] = piece
            slot += 1

    # -- 3. pack --------------------------------------------------------------------------------
    def _pack(self, number: int, record: int) -> None:
        """Put the record that lies in the first free slots into its stream's byte sequence."""
        stream = self._streams[number]
        bulk = stream.number != EXPRESS
        if bulk and not stream.queue:
            self._turns.append(stream)
        elif bulk and self._sparing and TOLD_MIN_BYTES <= record <= TOLD_MAX_BYTES:
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
            if bulk and room >= PADDING_BOUND:
                self._split(stream, record, room)
                return
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
            self._spread(data[room:], first)
            self._place(stream, len(data) - room, first_offset=NO_RECORD if room else 0)

    def _join(self, stream: OutStream, data: memoryview) -> None:
        """Append to the last chunk, which has room; a record begins here."""
        tail = stream.queue[-1]
        begun = DATA_HEADER_LEN + tail.last
        self._slab.rows[tail.end - 1][begun : begun + len(data)] = data
        self._extend(stream, len(data))

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
            self._spread(data[room:], first)
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
            slab.enqueueds[first : first + count] = self._enqueued
            slab.offsets[first : first + count] = NO_RECORD
            _OFFSET.pack_into(slab.rows[first], RECORD_OFFSET, first_offset)
        else:
            for i in range(count):
                offset = NO_RECORD if i else first_offset
                place = sequence + i & SEQUENCE_MASK
                DATA_HEADER.pack_into(
                    slab.rows[first + i], 0, DATA, stream.number, place, 0, self._enqueued, offset
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

    # -- 4. dispatch ----------------------------------------------------------------------------
    def dispatch(self, now: float) -> None:
        """Give runs to lines until nothing waits or no line has room."""
        if self._dispatching:
            return  # a line failed in mid-send, so the lines changed: the call under way goes on with them
        self._dispatching = True
        self._dispatch(now)
        self._dispatching = False

    def _dispatch(self, now: float) -> None:
        self._dispatch_lost(now)
        self._dispatch_express(now)
        self._dispatch_acks(now)
        turns = self._turns
        scheduler = self._scheduler
        while turns:
            choice = scheduler.next(now, self.queued, self.queue_limit)
            if choice is None:
                return
            link, budget, skip = choice
            frame = self._slab.capacity + OVERHEAD + DATA_HEADER_LEN + link.frame_overhead
            chunks = max(1, budget // frame)
            stream = turns[0]
            if len(turns) > 1:
                chunks = min(chunks, TURN_CHUNKS)
                skip = skip * stream.waiting // self.queued
            extent = stream.take(skip, chunks)
            self.queued -= extent.nbytes
            extent.born = now
            self._send(link, extent, now)
            for other in scheduler.mirrors(link):
                self._send(other, extent, now, kept=False)
            turns.rotate(-1)
            if not stream.queue:
                turns.pop()

    def _dispatch_lost(self, now: float) -> None:
        """What a line lost, each by the line that brings it the soonest."""
        queue = self._lost.queue
        while queue:
            extent = queue[0]
            link = self._scheduler.soonest(now, extent.lost_by, extent.tries)
            if link is None:
                return
            count = min(extent.count, run_max(extent.capacity + DATA_HEADER_LEN + OVERHEAD))
            if count == extent.count:
                queue.popleft()
            else:
                queue[0] = extent.cut(count, extent.count - count)
                extent = extent.cut(0, count)
            link.resent_chunks += count
            self._send(link, extent, now)

    def _dispatch_express(self, now: float) -> None:
        """By the quickest line, and a second copy by the next while the budget for that lasts."""
        express = self._express
        while express.queue:
            link = self._scheduler.express(now)
            if link is None:
                return
            extent = express.take(0, RUN_MAX)
            self.queued -= extent.nbytes
            extent.born = now
            self._send(link, extent, now)
            overhead = OVERHEAD + DATA_HEADER_LEN + link.frame_overhead
            if self._scheduler.copies(extent.nbytes + extent.count * overhead):
                second = self._scheduler.express(now, link)
                if second is not None:
                    self._send(second, extent, now, kept=False)

    def _dispatch_acks(self, now: float) -> None:
        """By the line that brings them the soonest, once its pace allows: what waits shares a datagram."""
        acks = self._acks
        while acks.queue:
            link = self._scheduler.patient(now)
            if link is None:
                return
            extent = acks.take(0, RUN_MAX)
            self.queued -= extent.nbytes
            extent.born = now
            self._send(link, extent, now)

    def hasten(self, now: float) -> float:
        """Nothing waits: what a line is late with leaves by an idle one too. The flow inside may have sent
        all it may and wait for just that (opportunistic retransmission, Raiciu et al., NSDI 2012). When to
        ask again."""
        due = inf
        if self.waiting or len(self._scheduler.spread) < 2:
            return due
        for link in self._scheduler.lines:
            while (late_at := link.late_at) <= now:
                other = self._scheduler.express(now, link)
                if other is None or other.late_at <= now:
                    return now + EXPRESS_DEBT_S
                piece = link.send_lane.flight.unload()
                if piece is None:
                    break
                self._send(other, piece.load.cut(piece.start, piece.n), now)
                other.resent_chunks += piece.n
            due = min(due, late_at)
        return due

    # -- 5. seal (datapath.sealer), 6. send ---------------------------------------------------------
    def _send(self, link: Link, extent: Extent, now: float, *, kept: bool = True) -> None:
        """All chunks of the extent, at most what one GSO call can carry, by `link`. `kept`: the slots are
        this run's to give back."""
        lane, count = link.send_lane, extent.count
        counter = lane.counter
        run, segment = self._sealer.seal(lane, extent, now)
        frame_bytes = len(run) + count * link.frame_overhead
        self._scheduler.spent(link, frame_bytes)
        lane.flight.sent(counter, count, frame_bytes // count, extent if kept else None, now)
        link.send_run(run, segment, count, now)

    # -- 7. keep --------------------------------------------------------------------------------
    def came(self, pieces: list[Piece[Any]]) -> None:
        """The peer has these."""
        self._lost.came(pieces)

    def lost(self, link: Link, pieces: list[Piece[Any]], now: float) -> None:
        """These left by `link` and will not arrive by it."""
        self._lost.lost(link, pieces, now)

    @property
    def waiting(self) -> bool:
        """Whether anything waits for a line."""
        return self.queued > 0 or bool(self._lost.queue)
