"""A frame's way out.

1. read      super-frames from the TAP, scattered straight into free chunk slots
2. classify  which stream: express, or its flow's bulk stream (bond.flows); pure ACKs wait apart
3. pack      number the chunks; under load a frame begins in the tail of the one before (datapath.packer)
4. dispatch  the scheduler names a line with room, streams take turns to fill its run
5. seal      headers and nonces by numpy, one AEAD call per datagram
6. send      the run in one call (GSO)
7. keep      the chunks until the peer reports them; what a line lost leaves again, before all else
"""

from math import inf
from struct import Struct
from typing import Any

from bondvpn.bond.aqm import QueueLimits
from bondvpn.bond.classify import ACKS, EXPRESS, EXPRESS_MAX_BYTES, classify
from bondvpn.bond.flight import Piece
from bondvpn.bond.flows import Flows
from bondvpn.bond.line import EXPRESS_DEBT_S, Scheduler
from bondvpn.bond.sparse import SparseFlows
from bondvpn.datapath import LONE_S
from bondvpn.datapath.backlog import Lost, OutStream
from bondvpn.datapath.packer import Packer
from bondvpn.datapath.sealer import Sealer
from bondvpn.datapath.slab import CHUNK_MAX_BYTES, RUN_MAX, ChunkSlab, Extent, SealSlab, run_chunks
from bondvpn.datapath.train import FrameSource, Train
from bondvpn.session.link import Link
from bondvpn.stats import Drop, Drops
from bondvpn.wire.sealed import (
    DATA_HEADER_LEN,
    RECORD_LENGTH_LEN,
    time_of,
)
from bondvpn.wire.transport import OVERHEAD
from bondvpn.wire.virtio import HEADER_BYTES as VIRTIO_BYTES

# What waits and what is under way: 5.9 MB are 100 ms of each at 230 Mbit/s. Fast lines that are long take
# more: over one of 100 Mbit/s and 256 ms and one of 13 and 388 bbr had 0.66 of the sum with those, now 0.94
# (simulated). When there are no more, the oldest chunks under way can no longer be sent again.
SLOTS, SLOTS_MAX = 4096, 12_288
READS_PER_WAKEUP = 16  # then the other direction and the timers have their turn
SMALL_READS_PER_WAKEUP = 128  # of frames that take no more than two slots
FRAME_MAX_BYTES = 65_535  # a record's length is 16 bits; gso_max_size keeps the kernel below
QUEUE_MIN_BYTES = 24_000  # 16 full packets: 200 ms at 1 Mbit/s
QUEUE_EXCESS = 2  # times its limit, whatever a stream's share
QUEUE_MAX_BYTES = SLOTS // 2 * CHUNK_MAX_BYTES
QUEUE_BURST_MAX_BYTES = SLOTS_MAX // 2 * CHUNK_MAX_BYTES  # the rest is for what is under way
SLOWER = 0.75  # of the lines' rate, or less: one is gone, and what its flows have under way is no burst
SLOWER_S = 1.0  # for so long
# A stream's quantum while others wait: so many, and on a fast line what it carries in QUANTUM_S. Each is a
# send and a receive call of its own: 8 flows of 1.6 Gbit/s took 8.5 CPU seconds per GB by eights, not 5.
TURN_CHUNKS = 8
QUANTUM_S = 0.0003
SHORT_SLOTS = 2  # what a frame without offload needs at the most
_RECORD_LENGTH = Struct(">H")


class Outbound:
    """Carries one TAP's frames to the links of one session."""

    def __init__(self, tap: FrameSource, scheduler: Scheduler[Link], seal: SealSlab, drops: Drops) -> None:
        self._tap = tap
        self._scheduler = scheduler
        self._drops = drops
        self._slab = ChunkSlab(SLOTS, SLOTS_MAX, CHUNK_MAX_BYTES)
        self._sealer = Sealer(self._slab, seal)
        self._overflow = memoryview(bytearray(65_536 + 64))
        self._packer = Packer(self._slab)
        self._now = 0.0  # when the TAP is read
        self._read_at = 0.0  # when it had a frame
        self._flows = Flows()
        self._sparse = SparseFlows()
        self._train = Train(tap, self._overflow)
        self._small = False
        self._limits = QueueLimits(QUEUE_MAX_BYTES, QUEUE_MAX_BYTES, 0.0, 0.0)
        self._bursts_at = -inf  # from when on a burst may exceed them
        self.queue_limit = QUEUE_MAX_BYTES
        """Bytes that may wait for longer than a burst."""
        self.frames = 0
        self.bytes = 0
        self.restart()
        self.set_capacity(CHUNK_MAX_BYTES)

    def restart(self) -> None:
        """A new session: sequences start again, with what waited for the old one. TCP inside then hears what
        is missing at once, not after its next timeout. Whether what was under way came is not known."""
        self._dispatching = False
        self._train.forget()
        self._slab.clear(self._packer.restart())
        self._lost = Lost(self._slab)

    def set_capacity(self, capacity: int) -> None:
        """Chunk bytes per datagram from now on: the smallest active path MTU decides."""
        self._slab.set_capacity(capacity)
        self._packer.close()
        self._train.forget()
        self._express_max = min(EXPRESS_MAX_BYTES, capacity - RECORD_LENGTH_LEN - VIRTIO_BYTES)
        # A super-frame of TCP (whole segments, so up to two chunks less than a call takes), or as many
        # datagrams as go in one call: 5 % more of 1,300 bytes than by half as many.
        self._run_bytes = (run_chunks(capacity) - 2) * capacity
        self._slots_needed = -(-(FRAME_MAX_BYTES + RECORD_LENGTH_LEN + 32) // capacity)

    def set_queue_limits(self, limits: QueueLimits, now: float) -> None:
        """How much may wait here before frames are dropped, those beyond their stream's share. Soon after the
        lines became slower no burst may exceed it: the flows' windows are still those of the faster lines,
        and what TCP sends again waits behind what they fill (measured: with one of two lines cut cubic's flow
        is silent for 0.15 s, not 0.26)."""
        standing = int(max(min(limits.standing, QUEUE_MAX_BYTES), QUEUE_MIN_BYTES))
        if limits.rate < SLOWER * self._limits.rate:
            self._bursts_at = now + SLOWER_S
        burst = float(standing)
        if limits.burst > limits.standing and now >= self._bursts_at:
            burst = max(min(limits.burst, QUEUE_BURST_MAX_BYTES), burst)
        self.queue_limit = standing
        self._limits = limits._replace(standing=standing, burst=burst)
        self._packer.sparing = limits.standing < QUEUE_MAX_BYTES  # below 230 Mbit/s

    @property
    def queued(self) -> int:
        """Bytes that wait for a line."""
        return self._packer.queued

    @property
    def full(self) -> bool:
        """Whether the TAP need not be read at once: no line has room and the queue is at its limit."""
        return self.queued >= self.queue_limit or not self._make_room()

    def _make_room(self) -> bool:
        """Have slots for a frame, if need be those of the oldest chunks under way: no more resends."""
        while not self._slab.has_room(self._slots_needed):
            if self._slab.grow():
                continue
            oldest = min(self._scheduler.lines, key=lambda link: link.oldest, default=None)
            if oldest is None or not self._lost.forget(oldest.forget()):
                return False
        return True

    # -- 1. read --------------------------------------------------------------------------------
    def on_readable(self, now: float) -> None:
        """Drain the TAP, but bounded; send what the lines have room for."""
        lone = now - self._read_at > LONE_S and not self._packer.queued
        self._now = now
        packer = self._packer
        packer.enqueued = time_of(now)
        run_bytes = self._run_bytes
        since_dispatch = packer.queued
        slab, needed = self._slab, self._slots_needed
        begun = self.frames
        while (done := self.frames - begun) < SMALL_READS_PER_WAKEUP:
            if not slab.has_room(needed):
                self.dispatch(now)
                if not self._make_room():
                    return
            stream = self._train.stream
            if stream is not None and packer.queued + run_bytes <= self.queue_limit:
                length = self._follow(
                    stream, min(SMALL_READS_PER_WAKEUP - done, run_bytes // self._train.length)
                )
            else:
                length = self._read()
            if not length:
                break
            if packer.queued - since_dispatch >= run_bytes:
                self.dispatch(now)
                since_dispatch = packer.queued
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
            self._packer.spread(self._overflow[:spill], first + SHORT_SLOTS)
        self._small = spill <= 0
        self._accept(length)
        return length

    def _follow(self, stream: OutStream, most: int) -> int:
        """Like `_read`, but up to `most` frames of the train, which goes to that stream."""
        train, slab, packer = self._train, self._slab, self._packer
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
            packer.append(stream, nbytes, room, train.offsets)
        if stranger is not None:
            length = len(stranger) - RECORD_LENGTH_LEN
            if length > FRAME_MAX_BYTES:
                self._drops.count(Drop.FRAME)
            else:
                self._packer.spread(stranger, slab.next)
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
        record = RECORD_LENGTH_LEN + length
        packer = self._packer
        flow = classify(frame, frame_length, self._express_max)
        if flow == ACKS:
            packer.pack_ack(record)
            return
        small = frame_length <= self._express_max
        if flow == EXPRESS or (small and self._sparse.admits(frame, self._now)):
            packer.pack(packer.express, record)
            return
        stream = packer.streams[self._flows.stream(flow, self._now)]
        if packer.queued < self.queue_limit:
            stream.aqm.short_at = self._now
        elif self._too_long(stream):
            self._drops.count(Drop.QUEUE)
            return
        if record <= self._slab.capacity:
            self._train.note(row[RECORD_LENGTH_LEN:], length, stream)
        packer.pack(stream, record)

    def _too_long(self, stream: OutStream) -> bool:
        """More waits than may for long: whether a frame of this stream is to be dropped. Who has less than a
        fair share of it in there may still add to it (as FQ-CoDel drops from the longest queue, RFC 8290)."""
        limits, queued, now = self._limits, self._packer.queued, self._now
        share = self.queue_limit // max(len(self._packer.turns), 1)
        if stream.waiting < share and queued < QUEUE_EXCESS * self.queue_limit:
            stream.aqm.short_at = now
            return False
        return queued >= limits.burst or stream.aqm.drops(
            stream.waiting, queued / limits.rate, limits.trip_s, now
        )

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
        packer, scheduler = self._packer, self._scheduler
        turns = packer.turns
        while turns:
            choice = scheduler.next(now, packer.queued, self.queue_limit)
            if choice is None:
                return
            link, budget, skip = choice
            frame = self._slab.capacity + OVERHEAD + DATA_HEADER_LEN + link.frame_overhead
            chunks = max(1, budget // frame)
            stream = turns[0]
            if len(turns) > 1:
                chunks = min(chunks, max(TURN_CHUNKS, int(link.capacity.rate * QUANTUM_S / frame)))
                skip = skip * stream.waiting // packer.queued
            extent = packer.take(stream, skip, chunks, now)
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
            count = min(extent.count, run_chunks(extent.capacity))
            if count == extent.count:
                queue.popleft()
            else:
                queue[0] = extent.cut(count, extent.count - count)
                extent = extent.cut(0, count)
            link.resent_chunks += count
            self._send(link, extent, now)

    def _dispatch_express(self, now: float) -> None:
        """By the quickest line, and a second copy by the next while the budget for that lasts."""
        packer, express = self._packer, self._packer.express
        while express.queue:
            link = self._scheduler.express(now)
            if link is None:
                return
            extent = packer.take(express, 0, RUN_MAX, now)
            self._send(link, extent, now)
            overhead = OVERHEAD + DATA_HEADER_LEN + link.frame_overhead
            if self._scheduler.copies(extent.nbytes + extent.count * overhead):
                second = self._scheduler.express(now, link)
                if second is not None:
                    self._send(second, extent, now, kept=False)

    def _dispatch_acks(self, now: float) -> None:
        """By the line that brings them the soonest, once its pace allows: what waits shares a datagram."""
        packer, acks = self._packer, self._packer.acks
        while acks.queue:
            link = self._scheduler.patient(now)
            if link is None:
                return
            extent = packer.take(acks, 0, RUN_MAX, now)
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
