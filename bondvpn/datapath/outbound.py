"""A frame's way out.

1. read      super-frames from the TAP, scattered straight into free chunk slots
2. classify  which stream: express, or the bulk stream of its flow
3. pack      number the chunks; under load a frame begins in the tail of the one before
4. dispatch  the scheduler names a line with room, streams take turns to fill its run
5. seal      headers and nonces by numpy, one AEAD call per datagram
6. send      the run in one call (GSO)
"""

from collections import deque
from struct import Struct
from typing import Protocol

import numpy as np

from bondvpn.bond.classify import classify
from bondvpn.bond.weighted import Weighted
from bondvpn.datapath.slab import CHUNK_MAX_BYTES, RUN_MAX, ChunkSlab, SealSlab, column
from bondvpn.session.link import Link
from bondvpn.stats import Drop, Drops
from bondvpn.wire.sealed import (
    DATA,
    DATA_HEADER,
    DATA_HEADER_LEN,
    EXPRESS,
    KIND_OFFSET,
    NO_RECORD,
    RECORD_LENGTH_LEN,
    RECORD_OFFSET,
    SEQUENCE_MASK,
    SEQUENCE_OFFSET,
    STREAM_OFFSET,
    STREAMS,
    TIME_UNIT_S,
)
from bondvpn.wire.transport import HEADER_LEN, OVERHEAD
from bondvpn.wire.virtio import HEADER_BYTES as VIRTIO_BYTES

SLOTS = 2048  # 2.9 MB: 60 ms at 390 Mbit/s; faster bonds drain faster than they fill
READS_PER_WAKEUP = 16  # then the other direction and the timers have their turn
SMALL_READS_PER_WAKEUP = 64  # of frames that take no more than two slots
FRAME_MAX_BYTES = 65_535  # a record's length is 16 bits; gso_max_size keeps the kernel below
QUEUE_S = 0.06  # of the lines' sum; more only adds delay, less starves a slow line (design.md, 5)
QUEUE_MIN_BYTES = 200_000
QUEUE_MAX_BYTES = (SLOTS - 64) * CHUNK_MAX_BYTES
TURN_CHUNKS = 8  # a stream's quantum while others wait
RECORD_ROOM_MIN = 64  # in less a record does not begin: its headers stay in one piece
SHORT_SLOTS = 2  # what a frame without offload needs at the most

_RECORD_LENGTH = Struct(">H")
_OFFSET = Struct(">H")


class FrameSource(Protocol):
    """The TAP as seen from here."""

    def read_into(self, buffers: list[memoryview]) -> int: ...


class OutStream:
    """One stream's chunks that wait for a line."""

    __slots__ = ("number", "queue", "sequence", "tail")

    def __init__(self, number: int) -> None:
        self.number = number
        self.sequence = 0
        self.queue: deque[int] = deque()  # slots
        self.tail = -1  # the slot that still takes bytes, -1: none


class Outbound:
    """Carries one TAP's frames to the links of one session."""

    def __init__(self, tap: FrameSource, scheduler: Weighted[Link], seal: SealSlab, drops: Drops) -> None:
        self._tap = tap
        self._scheduler = scheduler
        self._seal = seal
        self._drops = drops
        self._slab = ChunkSlab(SLOTS, CHUNK_MAX_BYTES)
        self._overflow = memoryview(bytearray(65_536 + 64))
        self._order = np.arange(RUN_MAX, dtype=np.uint32)
        headers = bytearray(b"\xff" * DATA_HEADER_LEN * RUN_MAX)  # NO_RECORD in each
        self._headers = np.frombuffer(headers, np.uint8).reshape(RUN_MAX, DATA_HEADER_LEN)
        self._sequences = column(headers, ">u4", SEQUENCE_OFFSET, DATA_HEADER_LEN, RUN_MAX)
        self._headers[:, KIND_OFFSET] = DATA
        self._small = False
        self.queue_limit = QUEUE_MIN_BYTES
        self.frames = 0
        self.bytes = 0
        self.reset()
        self.set_capacity(CHUNK_MAX_BYTES)

    def reset(self) -> None:
        """A new session: sequences start again, what waited for the old one is dropped."""
        self._streams = [OutStream(i) for i in range(STREAMS)]
        self._express = self._streams[EXPRESS]
        self._turns: deque[OutStream] = deque()  # bulk streams with something to send
        self._slab.free = list(range(SLOTS - 1, -1, -1))
        self.queued = 0  # bytes that wait for a line

    def set_capacity(self, capacity: int) -> None:
        """Chunk bytes per datagram from now on: the smallest active path MTU decides."""
        self._slab.set_capacity(capacity)
        self._slots_needed = -(-(FRAME_MAX_BYTES + RECORD_LENGTH_LEN + 32) // capacity)

    def set_rate(self, rate_bps: float | None) -> None:
        """The lines' sum, which bounds the queue; None: unlimited lines."""
        wanted = QUEUE_MAX_BYTES if rate_bps is None else rate_bps / 8 * QUEUE_S
        self.queue_limit = int(min(max(wanted, QUEUE_MIN_BYTES), QUEUE_MAX_BYTES))

    @property
    def full(self) -> bool:
        """Whether the TAP should not be read: no line has room and the queue is at its limit."""
        return self.queued >= self.queue_limit or len(self._slab.free) < self._slots_needed + 1

    # -- 1. read --------------------------------------------------------------------------------
    def on_readable(self, now: float) -> None:
        """Drain the TAP, but bounded; send what the lines have room for."""
        run_bytes = RUN_MAX // 2 * self._slab.capacity
        since_dispatch = self.queued
        for i in range(SMALL_READS_PER_WAKEUP):
            if self.full:
                self.dispatch(now)
                if self.full:
                    return
            length = self._read()
            if not length:
                break
            if self.queued - since_dispatch >= run_bytes:
                self.dispatch(now)
                since_dispatch = self.queued
            if i >= READS_PER_WAKEUP and not self._small:
                break
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
        free = slab.free
        first = free[-1]
        if self._small:
            buffers = [slab.record[first], slab.chunk[free[-2]], self._overflow]
        else:
            chunk = slab.chunk
            buffers = [chunk[slot] for slot in free[: -self._slots_needed - 1 : -1]]
            buffers[0] = slab.record[first]
        length = self._tap.read_into(buffers)
        if not length:
            return 0
        if length > FRAME_MAX_BYTES:
            self._drops.count(Drop.FRAME)
            return length
        record = length + RECORD_LENGTH_LEN
        spill = record - SHORT_SLOTS * slab.capacity
        if self._small and spill > 0:
            self._spread(self._overflow[:spill], free[-SHORT_SLOTS - 1 :: -1])
        self._small = spill <= 0
        row = slab.chunk[first]
        _RECORD_LENGTH.pack_into(row, 0, length)
        self.frames += 1
        self.bytes += length - VIRTIO_BYTES
        self._pack(classify(row[RECORD_LENGTH_LEN + VIRTIO_BYTES :], length - VIRTIO_BYTES), record)
        return length

    def _spread(self, data: memoryview, slots: list[int]) -> None:
        """Copy `data` into the chunks of `slots`, in order."""
        capacity = self._slab.capacity
        for slot, start in zip(slots, range(0, len(data), capacity), strict=False):
            piece = data[start : start + capacity]
            self._slab.chunk[slot][: len(piece)] = piece

    # -- 3. pack --------------------------------------------------------------------------------
    def _pack(self, number: int, record: int) -> None:
        """Put the record that lies in the first free slots into its stream's byte sequence."""
        stream = self._streams[number]
        if not stream.queue and number != EXPRESS:
            self._turns.append(stream)
        self.queued += record
        slab = self._slab
        if stream.tail >= 0:
            fill = slab.fill[stream.tail]
            room = slab.capacity - fill
            if record <= room:
                self._join(stream, slab.chunk[slab.free[-1]][:record], fill)
                return
            if room >= RECORD_ROOM_MIN and number != EXPRESS:
                self._split(stream, record, fill, room)
                return
            self._close_tail(stream)
        self._place(stream, record, first_offset=0)

    def _join(self, stream: OutStream, data: memoryview, fill: int) -> None:
        """Append to the tail chunk, which has room; a record begins here."""
        slab = self._slab
        slot = stream.tail
        end = fill + len(data)
        slab.chunk[slot][fill:end] = data
        slab.fill[slot] = end
        row = slab.rows[slot]
        if row[RECORD_OFFSET] == 0xFF and row[RECORD_OFFSET + 1] == 0xFF:
            _OFFSET.pack_into(row, RECORD_OFFSET, fill)
        if slab.capacity - end < RECORD_ROOM_MIN:
            self._close_tail(stream)

    def _split(self, stream: OutStream, record: int, fill: int, room: int) -> None:
        """Head into the tail chunk, the rest into new ones. Only under backlog, so a copy costs nothing."""
        slab = self._slab
        count = -(-record // slab.capacity)
        slots = slab.free[: -count - 1 : -1]
        data = memoryview(b"".join([slab.chunk[slot] for slot in slots]))[:record]
        self._join(stream, data[:room], fill)
        self._spread(data[room:], slots)
        self._place(stream, record - room, first_offset=NO_RECORD)

    def _close_tail(self, stream: OutStream) -> None:
        """The tail takes no more: what is left of it becomes padding, so that runs stay equal-sized."""
        slab = self._slab
        slot = stream.tail
        fill = slab.fill[slot]
        if fill < slab.capacity and stream.number != EXPRESS:
            padding = slab.capacity - fill
            slab.chunk[slot][fill:] = bytes(padding)
            slab.fill[slot] = slab.capacity
            self.queued += padding
        stream.tail = -1

    def _place(self, stream: OutStream, length: int, first_offset: int) -> None:
        """Number the first free slots, which hold `length` bytes, as the stream's next chunks."""
        slab = self._slab
        capacity = slab.capacity
        count = -(-length // capacity)
        sequence = stream.sequence
        stream.sequence = sequence + count & SEQUENCE_MASK
        last = slab.free[-count]
        if count <= 2:  # numpy pays from the third chunk on
            first = slab.free[-1]
            DATA_HEADER.pack_into(slab.rows[first], 0, DATA, stream.number, sequence, 0, first_offset)
            if count == 2:
                sequence = sequence + 1 & SEQUENCE_MASK
                DATA_HEADER.pack_into(slab.rows[last], 0, DATA, stream.number, sequence, 0, NO_RECORD)
                slab.fill[first] = capacity
                stream.queue.append(first)
        else:
            slots = slab.free[: -count - 1 : -1]
            self._sequences[:count] = self._order[:count] + np.uint32(sequence)
            self._headers[:, STREAM_OFFSET] = stream.number
            slab.cells[slots, :DATA_HEADER_LEN] = self._headers[:count]
            _OFFSET.pack_into(slab.rows[slots[0]], RECORD_OFFSET, first_offset)
            fill = slab.fill
            for slot in slots:
                fill[slot] = capacity
            stream.queue.extend(slots[:-1])
        stream.queue.append(last)
        slab.fill[last] = length - (count - 1) * capacity
        del slab.free[-count:]
        stream.tail = last
        if capacity - slab.fill[last] < RECORD_ROOM_MIN:
            self._close_tail(stream)

    # -- 4. dispatch ----------------------------------------------------------------------------
    def dispatch(self, now: float) -> None:
        """Give runs to lines until nothing waits or no line has room."""
        express = self._express
        while express.queue:
            link = self._scheduler.express(now)
            if link is None:
                break
            self._send(link, self._take(express, RUN_MAX), now)
        turns = self._turns
        while turns:
            choice = self._scheduler.next(now)
            if choice is None:
                return
            link, budget = choice
            chunks = max(
                1, budget // (self._slab.capacity + OVERHEAD + DATA_HEADER_LEN + link.frame_overhead)
            )
            stream = turns[0]
            slots = self._take(stream, chunks if len(turns) == 1 else min(chunks, TURN_CHUNKS))
            turns.rotate(-1)
            if not stream.queue:
                turns.pop()
            self._send(link, slots, now)

    def _take(self, stream: OutStream, most: int) -> list[int]:
        """The stream's next chunks, all full but perhaps the last: what one GSO call can carry."""
        slab = self._slab
        queue = stream.queue
        fill = slab.fill
        capacity = slab.capacity
        self._seal.set_segment(capacity + DATA_HEADER_LEN + OVERHEAD)
        most = min(most, self._seal.run)
        slots: list[int] = []
        while queue and len(slots) < most:
            length = fill[queue[0]]
            if length > capacity and slots:  # filled when the path MTU was larger: goes alone
                break
            slots.append(queue.popleft())
            self.queued -= length
            if length != capacity:
                break
        if not queue:
            stream.tail = -1
        return slots

    # -- 5. seal, 6. send -----------------------------------------------------------------------
    def _send(self, link: Link, slots: list[int], now: float) -> None:
        slab, seal = self._slab, self._seal
        lane = link.send_lane
        count = len(slots)
        counter = lane.counter
        lane.counter = counter + count
        counters = self._order[:count] + np.uint64(counter)
        seal.counters[:count] = counters
        seal.nonces.counters[:count] = counters
        seal.prefixes[:count] = lane.prefix
        slab.times[slots] = int(now / TIME_UNIT_S) & 0xFFFF
        last = slots[-1]
        length = slab.fill[last]
        full = count if length == slab.capacity else count - 1
        encrypt_into = lane.encrypt_into
        plain = slab.sealed
        for nonce, slot, header, body in zip(
            seal.nonces.views, slots[:full], seal.headers, seal.bodies, strict=False
        ):
            encrypt_into(nonce, plain[slot], header, body)
        end = full * seal.segment
        if full < count:
            sealed = DATA_HEADER_LEN + length
            start, end = end, end + sealed + OVERHEAD
            encrypt_into(
                seal.nonces.views[full],
                slab.rows[last][:sealed],
                seal.view[start : start + HEADER_LEN],
                seal.view[start + HEADER_LEN : end],
            )
        slab.free.extend(reversed(slots))
        segment = seal.segment if full else end
        self._scheduler.spent(link, end + count * link.frame_overhead)
        link.send_run(seal.view[:end], segment, count, now)
