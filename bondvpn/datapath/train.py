"""A train: datagrams of one dense flow, one right behind the other (QUIC, WireGuard, media).

A frame on its own is read into free slots, classified, counted by the sparse flows and copied behind the one
before. The next one of a train is read straight to where it belongs, also over a chunk's end; if its headers
show the same flow and size, that is where it stays. If not, it is moved.
"""

from struct import Struct
from typing import Any, Protocol

from bondvpn.datapath.backlog import OutStream
from bondvpn.datapath.slab import ChunkSlab
from bondvpn.wire.datagram import IPV4, family_of
from bondvpn.wire.sealed import NO_RECORD, PADDING_BOUND, RECORD_LENGTH_LEN

_RECORD_LENGTH = Struct(">H").pack_into


class FrameSource(Protocol):
    """The TAP as seen from here."""

    def read_into(self, buffers: list[memoryview]) -> int: ...


class Train:
    """What the last frames had in common; `stream` is set once two in a row did."""

    __slots__ = ("_key", "_key_bytes", "_overflow", "_tap", "_unpack_key", "length", "offsets", "stream")

    def __init__(self, tap: FrameSource, overflow: memoryview) -> None:
        """`overflow`: takes what a frame is longer than expected."""
        self._tap = tap
        self._overflow = overflow
        self.offsets: list[int] = []
        """Of the chunks begun by the last `read`, where in each its first record begins."""
        self.forget()

    def forget(self) -> None:
        """The next frame is not to be guessed."""
        self.stream: OutStream | None = None
        self.length = 0  # of each frame, virtio header included
        self._key: tuple[Any, ...] = ()
        self._key_bytes = IPV4.key.size
        self._unpack_key = IPV4.key.unpack_from

    def note(self, frame: memoryview, length: int, stream: OutStream) -> None:
        """A frame of `length` bytes, virtio header first, went to the end of a bulk stream."""
        if length == self.length and self._unpack_key(frame) == self._key:
            self.stream = stream
            return
        self.stream = None
        family = family_of(frame)
        if family is None or length < family.key.size:
            self.length = 0
            return
        self.length = length
        self._key_bytes = family.key.size
        self._unpack_key = family.key.unpack_from
        self._key = family.key.unpack_from(frame)

    def read(self, slab: ChunkSlab, slot: int, fill: int, most: int) -> tuple[int, int, memoryview | None]:
        """Read what follows as records: into the chunk in `slot` from `fill` on, then into the slots behind.

        Ends after `most` frames, when none waits, at a frame that is not of the train, or where one's headers
        would lie in two chunks. Returns how many frames were read, the bytes that they and the padding behind
        them take, and the frame that is not of the train, with room for its record's length before it: that
        ends the train.
        """
        length, key, unpack_key = self.length, self._key, self._unpack_key
        record = RECORD_LENGTH_LEN + length
        capacity, chunks, read_into, overflow = slab.capacity, slab.chunk, self._tap.read_into, self._overflow
        offsets = self.offsets
        offsets.clear()
        first, begun = slot, fill
        chunk = chunks[slot]
        stranger = None
        frames = 0
        while frames < most:
            if fill == capacity:
                slot, fill = slot + 1, 0
                chunk = chunks[slot]
            start = fill + RECORD_LENGTH_LEN
            rest = fill + record - capacity
            if rest <= 0:
                parts = [chunk[start : fill + record], overflow]
            elif start + self._key_bytes <= capacity:
                parts = [chunk[start:], chunks[slot + 1][:rest], overflow]
            else:
                break
            got = read_into(parts)
            if got != length or unpack_key(chunk, start) != key:
                if got:
                    stranger = self._stranger(parts, got)
                break
            _RECORD_LENGTH(chunk, fill, length)
            frames += 1
            if not fill:
                offsets.append(0)
            elif offsets and offsets[-1] == NO_RECORD:
                offsets[-1] = fill
            fill += record
            if rest > 0:
                slot, fill = slot + 1, rest
                chunk = chunks[slot]
                offsets.append(NO_RECORD)
            if capacity - fill < PADDING_BOUND:
                chunk[fill:] = bytes(capacity - fill)
                fill = capacity
        return frames, (slot - first) * capacity + fill - begun, stranger

    def _stranger(self, parts: list[memoryview], length: int) -> memoryview:
        frame = b"".join((bytes(RECORD_LENGTH_LEN), *parts))
        self.forget()
        return memoryview(frame)[: RECORD_LENGTH_LEN + length]
