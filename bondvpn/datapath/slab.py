"""Preallocated buffers and the views into them.

Making a memoryview costs 0.1 µs and an array 0.5 µs, as much as a tenth of sealing a datagram; so
every view the hot path needs is made when its slab is, not when a datagram comes.
"""

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bondvpn.wire.sealed import (
    DATA_HEADER_LEN,
    ENQUEUED_OFFSET,
    KIND_OFFSET,
    RECORD_LENGTH_LEN,
    RECORD_OFFSET,
    TIME_OFFSET,
)
from bondvpn.wire.transport import COUNTER_OFFSET, HEADER_LEN, NONCE_LEN, OVERHEAD
from bondvpn.wire.virtio import HEADER_BYTES as VIRTIO_BYTES

PATH_MTU_MAX_BYTES = 1500  # larger links exist in data centres only, behind none of our uplinks
DATAGRAM_MAX_BYTES = PATH_MTU_MAX_BYTES - 28
SEALED_MAX_BYTES = DATAGRAM_MAX_BYTES - OVERHEAD
CHUNK_MAX_BYTES = SEALED_MAX_BYTES - DATA_HEADER_LEN
RUN_MAX_BYTES = 65_000  # one UDP payload, and what GSO takes in one call
RUN_MAX = 64  # UDP_MAX_SEGMENTS before Linux 6.2
RECEIVE_BYTES = 65_536


drain: Callable[[Iterable[object]], None] = deque[object](maxlen=0).extend
"""Run an iterator to its end: `drain(map(encrypt_into, ...))` calls it from C for every datagram of a run."""


def column(
    memory: bytearray | NDArray[np.uint8], kind: str, start: int, stride: int, count: int
) -> NDArray[Any]:
    """One field of `count` equal records in `memory`, as an array that numpy writes and reads at once.

    `kind` is a numpy type such as ">u8"; `start` the field's offset in the first record, `stride` the
    records' size, both in bytes.
    """
    return np.ndarray((count,), kind, memory, start, (stride,))


def split(view: memoryview, size: int, count: int) -> list[memoryview]:
    """The first `count` records of `size` bytes."""
    return [view[start : start + size] for start in range(0, count * size, size)]


class Nonces:
    """AEAD nonces for runs of datagrams: `counters` is written as an array, `views` are handed out."""

    def __init__(self, count: int) -> None:
        memory = bytearray(count * NONCE_LEN)
        self.counters = column(memory, ">u8", NONCE_LEN - 8, NONCE_LEN, count)
        self.views = split(memoryview(memory), NONCE_LEN, count)


class Extent:
    """Neighbouring slots that hold consecutive chunks of one stream; all full but perhaps the last."""

    __slots__ = ("born", "capacity", "count", "last", "lost_by", "start", "stream", "tries")

    def __init__(
        self,
        stream: int,
        start: int,
        count: int,
        last: int,
        capacity: int,
        *,
        born: float = 0.0,
        tries: int = 0,
    ) -> None:
        self.stream = stream
        self.start = start
        self.count = count
        self.last = last  # chunk bytes in the last one
        self.capacity = capacity  # chunk bytes in all others
        self.born = born  # when it was first sent, seconds
        self.tries = tries  # times it was sent again
        self.lost_by: Any = None  # the link that lost it last

    @property
    def end(self) -> int:
        return self.start + self.count

    @property
    def nbytes(self) -> int:
        return (self.count - 1) * self.capacity + self.last

    def cut(self, first: int, count: int) -> "Extent":
        """The `count` chunks from `first` on, as an extent of their own."""
        last = self.last if first + count == self.count else self.capacity
        return Extent(
            self.stream, self.start + first, count, last, self.capacity, born=self.born, tries=self.tries
        )


class ChunkSlab:
    """A ring of slots for chunks on their way out: a DATA header and up to CHUNK_MAX_BYTES each.

    A super-frame is read into neighbouring slots, so a run of its chunks is a slice wherever it goes:
    47 of them cost one list or array operation, not 47 (measured: 25 µs less a super-frame than with a
    free list). A slot is in use until the peer has its chunk, or nobody hopes so any more.
    """

    def __init__(self, slots: int, most: int, capacity: int) -> None:
        """`slots` to begin with; `grow` doubles them, up to `most`."""
        memory = np.zeros(
            most * SEALED_MAX_BYTES, np.uint8
        )  # unlike a bytearray's, pages not used cost nothing
        self._memory = memory.data
        self._most = most
        self.slots = slots
        self.rows = split(self._memory, SEALED_MAX_BYTES, slots)
        self.starts = column(memory, ">u8", KIND_OFFSET, SEALED_MAX_BYTES, most)  # up to the time
        self.times = column(memory, ">u2", TIME_OFFSET, SEALED_MAX_BYTES, most)
        self.offsets = column(memory, ">u2", RECORD_OFFSET, SEALED_MAX_BYTES, most)
        self.enqueueds = column(memory, ">u2", ENQUEUED_OFFSET, SEALED_MAX_BYTES, most)
        self._free = bytes(most)
        self._taken = b"\1" * most
        self.clear()
        self.set_capacity(capacity)

    def grow(self) -> bool:
        """Twice as many slots, for what is under way on fast and long lines; False if there may be no more.
        The views of a slot take a third of what it holds, so they are made when they are needed."""
        grown = min(2 * self.slots, self._most) - self.slots
        if not grown:
            return False
        self.rows += split(self._memory[self.slots * SEALED_MAX_BYTES :], SEALED_MAX_BYTES, grown)
        self._state += bytes(grown)
        self.slots += grown
        self.set_capacity(self.capacity)
        return True

    def clear(self, kept: Iterable[Extent] = ()) -> None:
        """Every slot is free, but for what is kept."""
        self.next = 0  # the first free slot
        self.in_use = 0
        self._state = bytearray(self.slots)  # 1 a slot in use: then finding room is a search for zeros
        for extent in kept:
            self._state[extent.start : extent.end] = self._taken[: extent.count]
            self.in_use += extent.count

    def set_capacity(self, capacity: int) -> None:
        """Chunk bytes per slot from now on; chunks already filled keep their size."""
        end = DATA_HEADER_LEN + capacity
        self.capacity = capacity
        self.sealed = [row[:end] for row in self.rows]  # what a full chunk's datagram seals
        self.chunk = [row[DATA_HEADER_LEN:end] for row in self.rows]
        self.record = [chunk[RECORD_LENGTH_LEN:] for chunk in self.chunk]  # behind a record's length

    def has_room(self, count: int) -> bool:
        """Whether there are `count` neighbouring free slots; `next` is then the first of them."""
        if not self.in_use:
            self.next = 0  # and the slots in use stay in the cache
            return True
        room = self._free[:count]
        place = self._state.find(room, self.next)
        if place < 0:
            place = self._state.find(room)
            if place < 0:
                return False
        self.next = place
        return True

    def take(self, count: int) -> None:
        """The slots from `next` on are in use."""
        first = self.next
        self.next = end = first + count
        self._state[first:end] = self._taken[:count]
        self.in_use += count

    def give(self, first: int, count: int) -> None:
        """The slots are free again."""
        self._state[first : first + count] = self._free[:count]
        self.in_use -= count


class SealSlab:
    """Where a run of datagrams is sealed into: `RUN_MAX` headers and nonces, written by numpy at once."""

    def __init__(self) -> None:
        self._memory = bytearray(RUN_MAX_BYTES + DATAGRAM_MAX_BYTES)
        self.view = memoryview(self._memory)
        self.nonces = Nonces(RUN_MAX)
        self.segment = 0

    def set_segment(self, segment: int) -> None:
        """Lay the slab out for datagrams of `segment` bytes."""
        if segment == self.segment:
            return
        self.segment = segment
        self.run = run = run_max(segment)
        starts = range(0, run * segment, segment)
        self.prefixes = column(self._memory, ">u8", 0, segment, run)
        self.counters = column(self._memory, ">u8", COUNTER_OFFSET, segment, run)
        self.headers = [self.view[o : o + HEADER_LEN] for o in starts]
        self.bodies = [self.view[o + HEADER_LEN : o + segment] for o in starts]


class RunViews:
    """The datagrams of one receive call, as they lie in the receive buffer at `segment` bytes each."""

    __slots__ = ("bodies", "headers")

    def __init__(self, view: memoryview, segment: int) -> None:
        count = RECEIVE_BYTES // segment
        starts = range(0, count * segment, segment)
        self.headers = [view[o : o + HEADER_LEN] for o in starts]
        self.bodies = [view[o + HEADER_LEN : o + segment] for o in starts]


class OpenSlab:
    """A ring of rows that datagrams are opened into.

    Views into it are good until the ring comes round: `reserve` says when, and whoever still holds
    some then copies them out. At 256 rows that is once in five receive calls under full load, and
    the ring stays within the second-level cache (0.4 MB).
    """

    ROWS = 256
    ROW_BYTES = SEALED_MAX_BYTES + 32  # whole cache lines

    def __init__(self) -> None:
        self._memory = bytearray(self.ROWS * self.ROW_BYTES)
        self.rows = split(memoryview(self._memory), self.ROW_BYTES, self.ROWS)
        self.starts = self._column(">u8", KIND_OFFSET)  # kind, stream, sequence, time
        self.offsets = self._column(">u2", RECORD_OFFSET)
        self._sealed: dict[int, list[memoryview]] = {}
        self._chunks: dict[int, list[memoryview]] = {}
        self.next = 0

    def _column(self, kind: str, start: int) -> NDArray[Any]:
        return column(self._memory, kind, start, self.ROW_BYTES, self.ROWS)

    def reserve(self, count: int) -> bool:
        """Make room for `count` rows from `self.next` on; True if the ring came round for it."""
        if self.next + count <= self.ROWS:
            return False
        self.next = 0
        return True

    def sealed(self, length: int) -> list[memoryview]:
        """Every row cut to `length` bytes of sealed part."""
        views = self._sealed.get(length)
        if views is None:
            if len(self._sealed) >= 8:
                self._sealed.clear()
                self._chunks.clear()
            views = self._sealed[length] = [row[:length] for row in self.rows]
            self._chunks[length] = [view[DATA_HEADER_LEN:] for view in views]
        return views

    def chunks(self, length: int) -> list[memoryview]:
        """The chunk bytes of the rows that `sealed(length)` gave."""
        return self._chunks[length]


def chunk_capacity(path_mtu: int, udp_overhead: int) -> int:
    """Chunk bytes of a datagram that fills an IP packet of `path_mtu` bytes."""
    return min(path_mtu - udp_overhead - OVERHEAD - DATA_HEADER_LEN, CHUNK_MAX_BYTES)


def run_max(segment: int) -> int:
    """Datagrams of `segment` bytes that one GSO call carries."""
    return min(RUN_MAX, RUN_MAX_BYTES // segment)


def run_chunks(capacity: int) -> int:
    """Chunks of `capacity` bytes that one GSO call carries."""
    return run_max(capacity + DATA_HEADER_LEN + OVERHEAD)


def run_frame_bytes(capacity: int) -> int:
    """Bytes of an Ethernet frame whose chunks fill one run.

    The kernel's super-frames are bounded to it: with 65,000 bytes each left a second run of one datagram
    behind, at the full price of a send and a receive call.
    """
    return run_chunks(capacity) * capacity - RECORD_LENGTH_LEN - VIRTIO_BYTES
