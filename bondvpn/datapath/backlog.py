"""What waits to leave: each stream's chunks, and those that a line has lost.

A stream's chunks lie in the slab as extents. A run is taken from the front, or from deeper down when the line
that takes it is slow (bond.adaptive). What a line lost waits here to leave by another, ahead of everything
else: all that came after it is held at the receiver.
"""

from collections import deque
from typing import Any

from bondvpn.bond.aqm import FlowQueue
from bondvpn.bond.flight import Piece
from bondvpn.datapath.slab import ChunkSlab, Extent, run_chunks
from bondvpn.wire import delta

TRIES_MAX = 3  # resends of a chunk (design.md, 5)
RESEND_WITHIN_S = 1.0  # of when it first left: the receiver does not wait longer
KEPT_EACH = 8  # told heads: a chunk that never comes costs the frames up to the next head that is kept


class OutStream:
    """One stream's chunks that wait for a line."""

    __slots__ = ("_kept", "_told", "aqm", "number", "numbered", "open", "queue", "sequence", "waiting")

    def __init__(self, number: int, numbered: "OutStream | None" = None) -> None:
        """`numbered`: the stream whose sequence numbers this one shares."""
        self.number = number
        self.numbered = numbered or self
        self.sequence = 0
        self.queue: deque[Extent] = deque()
        self.open = False  # whether the last chunk still takes bytes
        self.waiting = 0  # bytes in the queue
        self.aqm = FlowQueue()
        self._kept = delta.ZERO
        self._told = 0  # heads

    def tell(self, frame: memoryview, length: int, room: int) -> bytes:
        """The record of a frame of `length` bytes (virtio header first, HEAD_BYTES or more) up to where its
        head ends; empty if that exceeds `room`, which the head must lie in."""
        head = delta.head_of(frame)
        if self._told % KEPT_EACH:
            told = delta.emit(delta.TOLD, head, length, self._kept)
        else:
            told = delta.emit(delta.KEPT, head, length, delta.ZERO)
        if len(told) > room:
            return b""
        if not self._told % KEPT_EACH:
            self._kept = head
        self._told += 1
        return told

    def forget_head(self) -> None:
        """What waits begins anew: the kept head may be one that was given up seconds ago, and what is told by
        it would be a second loss to TCP, after it has recovered from the first."""
        self._told = 0

    def take(self, skip: int, most: int) -> Extent:
        """At most `most` neighbouring chunks and one send call's, the first of them `skip` bytes into the
        queue (or the last one of it)."""
        queue = self.queue
        place = 0
        extent = queue[0]
        skip //= extent.capacity
        while skip >= extent.count and place + 1 < len(queue):
            skip -= extent.count
            place += 1
            extent = queue[place]
        skip = min(skip, extent.count - 1)
        count = min(most, extent.count - skip, run_chunks(extent.capacity))
        taken = extent if count == extent.count else extent.cut(skip, count)
        self.waiting -= taken.nbytes
        if skip + count < extent.count:
            rest = extent.cut(skip + count, extent.count - skip - count)
            if not skip:
                queue[place] = rest
                return taken
            queue.insert(place + 1, rest)
        elif place == len(queue) - 1:
            self.open = False
        if skip:
            extent.count, extent.last = skip, extent.capacity
        else:
            del queue[place]
        return taken


class Lost:
    """Chunks that a line has lost, in the order in which they should leave again."""

    def __init__(self, slab: ChunkSlab) -> None:
        self._slab = slab
        self.queue: deque[Extent] = deque()
        self.given_up = 0
        """Chunks that were not sent again: tried often enough, or too old."""

    def came(self, pieces: list[Piece[Extent | None]]) -> None:
        """The peer has these: their slots are free."""
        for extent, start, count in pieces:
            if extent is not None:
                self._slab.give(extent.start + start, count)

    def lost(self, link: Any, pieces: list[Piece[Extent | None]], now: float) -> int:
        """These left by `link` and will not arrive by it; how many chunks will leave again."""
        again: list[Extent] = []
        for extent, start, count in pieces:
            if extent is None:
                continue
            piece = extent.cut(start, count)
            if piece.tries >= TRIES_MAX or now - piece.born > RESEND_WITHIN_S:
                self.given_up += count
                self._slab.give(piece.start, count)
                continue
            piece.tries += 1
            piece.lost_by = link
            again.append(piece)
        self.queue.extend(again)
        return sum(extent.count for extent in again)

    def forget(self, piece: Piece[Extent | None] | None) -> bool:
        """Give up being able to send it again, for its slots; False if there is nothing."""
        if piece is None:
            return False
        extent, start, count = piece
        if extent is not None:
            self._slab.give(extent.start + start, count)
        return True
