"""From chunks in any order to frames for the TAP: the streams of one session's receiving side.

A stream's chunks go through its `Reorder`, then its `Assembler` cuts records out of the byte
sequence without copying: a frame is a list of views into the rows its datagrams were opened into,
gathered by one `writev`. Views are good until the ring of rows comes round; `persist` then copies
what is still held, once in five receive calls at full load.

A chunk that never comes leaves a hole. The frame around it is completed all the same, and what the
hole spared of a super-frame is rescued as whole TCP segments. After a hole at a frame's end the next
frame is found by the offset in a later chunk's header.
"""

from collections.abc import Callable, Sequence
from struct import Struct
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bondvpn.bond.reorder import Reorder
from bondvpn.datapath.joiner import Joiner
from bondvpn.datapath.rescue import rescue
from bondvpn.noise.replay import ReplayWindow
from bondvpn.stats import Drop, Drops
from bondvpn.wire import delta, virtio
from bondvpn.wire.sealed import (
    EXPRESS,
    NO_RECORD,
    PADDING_BOUND,
    RECORD_LENGTH_LEN,
    SEQUENCE_MASK,
    STREAMS,
)

Buffer = bytes | bytearray | memoryview
Chunk = tuple[Buffer, int]  # chunk bytes, record offset
Offsets = NDArray[np.uint16] | list[int]  # read only where something was lost

FRAME_MIN_BYTES = virtio.HEADER_BYTES + 14
EXPRESS_WINDOW = 1024  # express chunks among which a second copy is known for one
HEAD_BYTES = 128  # of a frame, to check its headers
MAX_FRAME_BYTES = 65_535

_RECORD_LENGTH = Struct(">H").unpack_from


class FrameSink(Protocol):
    """The TAP as seen from here."""

    def write(self, parts: Sequence[Buffer]) -> bool: ...


class Assembler:
    """Cuts one stream's byte sequence into frames."""

    __slots__ = ("_chunk_bytes", "_holes", "_joins", "_kept", "_lost", "_parts", "_sink", "_total", "need")

    def __init__(self, sink: "Reassembly", joins: Callable[[Buffer, int, int], bool]) -> None:
        """`joins`: whether the frame at a place in a chunk went to those that are held."""
        self._sink = sink
        self._joins = joins
        self._parts: list[Buffer] = []  # of the frame under way
        self._total = 0  # its bytes
        self.need = 0  # bytes of it that are still to come
        self._holes: list[tuple[int, int]] = []
        self._lost = True  # where the next record begins is not known; of a new stream either
        self._chunk_bytes = 0  # of the chunk it began in: full ones, so a missing one held as much
        self._kept: delta.Head | None = None  # None: another may have been kept in what was lost

    def feed(self, chunk: Buffer, offset: int) -> None:
        """The next chunk in order."""
        size = full = len(chunk)
        if self._lost or self._holes:
            chunk = self._resume(chunk, offset)
            size = len(chunk)
            if not size:
                return
        start = 0
        need = self.need
        if need:
            if need > size:
                self._parts.append(chunk)
                self.need = need - size
                return
            self._parts.append(chunk if need == size else chunk[:need])
            start = need
            self._finish()
        while size - start > RECORD_LENGTH_LEN:
            length = _RECORD_LENGTH(chunk, start)[0]
            if length < FRAME_MIN_BYTES:
                if not length:
                    return  # padding up to the end
                start = self._told(chunk, start, full)
                continue
            start += RECORD_LENGTH_LEN
            end = start + length
            if end > size:
                self._parts = [chunk[start:]]
                self._chunk_bytes = full
                self._total = length
                self.need = end - size
                return
            if not self._joins(chunk, start, length):
                self._sink.deliver([chunk[start:end]], length)
            start = end

    def _told(self, chunk: Buffer, start: int, full: int) -> int:
        """A record whose head is told begins at `start`; where the next one begins."""
        told = delta.parse(chunk, start, self._kept)
        if told is None:
            self._sink.drops.count(Drop.SEALED)
            self._lost = True
            return len(chunk)
        end = told.end + told.length - delta.HEAD_BYTES
        if told.head is None:
            self._sink.drops.count(Drop.FRAME)
            self._lost = end > len(chunk)
            return end
        if told.kept:
            self._kept = told.head
        parts: list[Buffer] = [delta.head_bytes(told.head), chunk[told.end : end]]
        if end > len(chunk):
            self._parts, self._chunk_bytes = parts, full
            self._total, self.need = told.length, end - len(chunk)
        else:
            self._sink.deliver(parts, told.length)
        return end

    def feed_run(self, chunks: list[memoryview]) -> int:
        """As many whole chunks as lie within the frame under way; how many were taken."""
        if not self.need or self._holes or self._lost:
            return 0
        size = len(chunks[0])
        count = min(len(chunks), (self.need - 1) // size)
        if count == len(chunks) and len(chunks[-1]) < size:
            count -= 1
        if count:
            self._parts += chunks[:count]
            self.need -= count * size
        return count

    def feed_all(self, chunks: list[memoryview], offsets: Offsets) -> None:
        """The next chunks in order, of one size but perhaps the last."""
        i, count, size = 0, len(chunks), len(chunks[0])
        while i < count:
            if self.need > size:  # else small frames: asking costs them 0.3 µs a chunk
                i += self.feed_run(chunks[i:] if i else chunks)
            if i < count:
                self.feed(chunks[i], offsets[i])
                i += 1

    def gap(self, missing: int) -> None:
        """`missing` chunks will never come."""
        self._kept = None
        if not self.need:
            self._lost = True
            return
        size = missing * self._chunk_bytes
        start = self._total - self.need
        if size < self.need:
            self._holes.append((start, start + size))
            self._parts.append(bytes(size))
            self.need -= size
            return
        self._holes.append((start, self._total))
        self._parts.append(bytes(self.need))
        self._lost = True
        self._finish()

    def _resume(self, chunk: Buffer, offset: int) -> Buffer:
        """After a hole: check that this chunk continues the frame, or find the next record."""
        if not self._lost:
            size, need = len(chunk), self.need
            if need > size:
                fits = size == self._chunk_bytes and offset == NO_RECORD
            else:  # behind a record's end begins another, or nothing but a little padding
                fits = offset == need or (offset == NO_RECORD and size - need < PADDING_BOUND)
            if fits:
                return chunk
            start = self._total - self.need  # the missing chunks were not full: their bytes are unknown
            self._holes.append((start, self._total))
            self._parts.append(bytes(self.need))
            self._finish()
            self._lost = True
        if offset == NO_RECORD or offset > len(chunk):
            return b""
        self._lost = False
        return chunk[offset:]

    def _finish(self) -> None:
        parts, total = self._parts, self._total
        self._parts, self.need = [], 0
        if not self._holes:
            self._sink.deliver(parts, total)
            return
        holes, self._holes = self._holes, []
        self._sink.drops.count(Drop.FRAME)
        for frame in rescue(bytearray(b"".join(parts)), holes):
            self._sink.deliver([frame], len(frame))

    def persist(self) -> None:
        """Copy what still lies in the ring of rows."""
        self._parts = [bytes(part) if type(part) is memoryview else part for part in self._parts]


class Reassembly:
    """All streams of a session, and the TAP behind them."""

    def __init__(self, tap: FrameSink, drops: Drops, *, uso: bool) -> None:
        """`uso`: whether our kernel takes super-frames of UDP."""
        self._tap = tap
        self._uso = uso
        self.drops = drops
        self.frames = 0
        self.bytes = 0
        self.reset()

    def reset(self) -> None:
        """A new session: its streams start from zero."""
        self._joiner = Joiner()
        self._reorders: list[Reorder[Chunk]] = [Reorder() for _ in range(STREAMS)]
        self._assemblers = [Assembler(self, self._joiner.follow) for _ in range(STREAMS)]
        self._gaps: set[int] = set()  # streams that hold chunks: behind a gap, or not due yet
        self.patience_s = 0.0  # that the lines' delays ask for, on top of the hold
        self._express_seen = ReplayWindow(EXPRESS_WINDOW)

    # -- in -------------------------------------------------------------------------------------
    def receive_run(
        self, stream: int, sequence: int, chunks: list[memoryview], offsets: Offsets, now: float, due: float
    ) -> None:
        """Chunks with consecutive sequence numbers, to be delivered when `due`. `offsets` as they stand in
        the headers."""
        if stream >= STREAMS:
            self.drops.count(Drop.SEALED, len(chunks))
            return
        assembler = self._assemblers[stream]
        reorder = self._reorders[stream]
        place = reorder.place(sequence)
        if place != reorder.expected or due > now:
            held = 0
            for i, chunk in enumerate(chunks):
                held += reorder.hold(place + i, (chunk, int(offsets[i])), now, due)
            if held < len(chunks):
                self.drops.count(Drop.LATE, len(chunks) - held)
            if reorder.expected not in reorder.held:
                if reorder.held:
                    self._gaps.add(stream)
                return
        else:
            assembler.feed_all(chunks, offsets)
            count = len(chunks)
            reorder.expected += count
            if reorder.held:
                late = sum(reorder.held.pop(p, None) is not None for p in range(place, place + count))
                self.drops.count(Drop.LATE, late)
        if reorder.held:
            self._release(stream, reorder, assembler, now)

    def receive_express(self, sequence: int, chunks: list[memoryview], offsets: Offsets) -> None:
        """Whole records in every chunk, and nothing to wait for; some come twice."""
        seen = self._express_seen
        ahead = sequence - seen.highest & SEQUENCE_MASK
        place = seen.highest + (ahead if ahead < SEQUENCE_MASK // 2 else ahead - SEQUENCE_MASK - 1)
        for i, (chunk, offset) in enumerate(zip(chunks, offsets, strict=False)):
            if place + i < 0 or not seen.accept(place + i):
                continue  # the copy
            if offset == 0:
                self._assemblers[EXPRESS].feed(chunk, offset)
            if self._assemblers[EXPRESS].need:  # a record that claims to go on elsewhere
                self.drops.count(Drop.SEALED)
                self._assemblers[EXPRESS] = Assembler(self, self._joiner.follow)

    def _release(self, stream: int, reorder: Reorder[Chunk], assembler: Assembler, now: float) -> None:
        while (chunk := reorder.pop(now)) is not None:
            assembler.feed(*chunk)
        if reorder.held:
            self._gaps.add(stream)
        else:
            self._gaps.discard(stream)

    # -- timers ---------------------------------------------------------------------------------
    def poll(self, now: float) -> None:
        """Give up what has been waited for long enough."""
        for stream in list(self._gaps):
            reorder, assembler = self._reorders[stream], self._assemblers[stream]
            while reorder.deadline(self.patience_s) <= now:
                if missing := reorder.skip():
                    assembler.gap(missing)
                self._release(stream, reorder, assembler, now)
        self.flush()

    @property
    def deadline(self) -> float:
        """When `poll` is due next."""
        if not self._gaps:
            return float("inf")
        extra_s = self.patience_s
        return min(self._reorders[stream].deadline(extra_s) for stream in self._gaps)

    def persist(self) -> None:
        """The ring of rows comes round: copy what is still held."""
        self.flush()
        for stream in self._gaps:
            held = self._reorders[stream].held
            for place, (came, due, (chunk, offset)) in held.items():
                if type(chunk) is memoryview:
                    held[place] = (came, due, (bytes(chunk), offset))
        for assembler in self._assemblers:
            if assembler.need:
                assembler.persist()

    # -- out ------------------------------------------------------------------------------------
    def deliver(self, parts: list[Buffer], length: int) -> None:
        """One whole frame, its virtio header checked, on to the TAP."""
        joiner = self._joiner
        if joiner.count and joiner.take(parts, length):
            return  # its headers are those of one that was checked
        head = parts[0]
        if len(head) < HEAD_BYTES and len(parts) > 1:
            head = b"".join(parts[:2])
        if not virtio.check(head, length, max_frame=MAX_FRAME_BYTES, uso=self._uso):
            self.drops.count(Drop.VIRTIO)
            return
        self.flush()
        if self._uso and joiner.take(parts, length):
            return
        self._write(parts, length, 1)

    def flush(self) -> None:
        """Write what was held to be joined; whoever delivers calls it before it goes to sleep."""
        count = self._joiner.count
        if count:
            self._write(*self._joiner.flush(), count)

    def _write(self, parts: list[Buffer], length: int, frames: int) -> None:
        if self._tap.write(parts):
            self.frames += frames
            self.bytes += length - virtio.HEADER_BYTES
        else:
            self.drops.count(Drop.TAP, frames)
