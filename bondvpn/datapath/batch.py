"""What has been received and is not opened yet.

A run comes by one call where the kernel put it together (GRO). Slower lines bring one datagram a call, but
those that waited when we looked belong together as well: the next of a lane is received right behind the one
before it, and all are opened as a run (datapath.inbound).
"""

from typing import Any

from bondvpn.datapath.reassembly import Buffer
from bondvpn.datapath.slab import RECEIVE_BYTES
from bondvpn.wire.transport import HEADER, OVERHEAD, TYPE_WORD


class Batch:
    """The datagrams of one call, or equal ones of one lane, in order, of several calls."""

    __slots__ = ("_came_at", "_from", "_next", "_whole", "address", "length", "local", "segment", "view")

    def __init__(self) -> None:
        self.view = memoryview(bytearray(2 * RECEIVE_BYTES))
        self.length = 0
        """Bytes of it; 0: nothing has come."""
        self.segment = 0
        """Bytes of each datagram; the last of a call's may be shorter."""
        self.address: Any = None
        self.local = b""
        self._whole: list[Buffer] = [self.view]
        self._from = 0  # where the last call received to
        self._next: tuple[int, int, int] | None = None  # the header of the datagram that would follow
        self._came_at: list[float] = []

    def room(self) -> list[Buffer]:
        """Buffers for the next receive call: a whole run more fits behind what is there."""
        self._from = self.length
        return [self.view[self.length :]] if self.length else self._whole

    def follows(self, length: int, segment: int, address: Any, local: bytes, came_at: float) -> bool:
        """Take what that call received as well, if it is the next datagram of the same lane."""
        if (
            self._next is None
            or not length == segment == self.segment
            or HEADER.unpack_from(self.view, self._from) != self._next
            or (address, local) != (self.address, self.local)
            or self.length + length > RECEIVE_BYTES
        ):
            return False
        word, index, counter = self._next
        self._next = word, index, counter + 1
        self.length += length
        self._came_at.append(came_at)
        return True

    def begin(self, length: int, segment: int, address: Any, local: bytes, came_at: float) -> None:
        """Begin with what that call received."""
        if self._from:
            self.view[:length] = self.view[self._from : self._from + length]
        self.length, self.segment = length, segment
        self.address, self.local = address, local
        self._came_at = [came_at]
        self._next = None
        if length == segment and length > OVERHEAD:
            word, index, counter = HEADER.unpack_from(self.view)
            if word == TYPE_WORD:
                self._next = word, index, counter + 1

    def end(self) -> None:
        """All of it has been opened."""
        self.length = 0
        self._next = None

    def came_at(self, number: int) -> float:
        """When the kernel had that datagram; of one call it tells of the first."""
        times = self._came_at
        return times[number] if len(times) > 1 else times[0]

    @property
    def last_came_at(self) -> float:
        return self._came_at[-1]
