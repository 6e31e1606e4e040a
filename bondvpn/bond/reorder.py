"""Puts one stream's chunks back in order, strictly, with a bounded hold.

What is missing is waited for at most HOLD_S, counted from when the first chunk behind the gap came:
every later gap has been waiting meanwhile too, so a dead line costs the hold once, not once a gap.
Linux TCP takes the longest harm from reordering it meets before it has adapted; so nothing is ever
let through early.
"""

from typing import Generic, TypeVar

from bondvpn.wire.sealed import SEQUENCE_MASK

HOLD_S = 0.150  # design.md, 5: below an inner retransmission timeout, above real lines' delay differences
HELD_MAX = 4096  # chunks: 5.8 MB, 470 ms at 100 Mbit/s
WALK_MAX = 256  # steps to a gap's end; from there on a search is cheaper
_HALF = 1 << 31

T = TypeVar("T")


class Reorder(Generic[T]):
    """Sequence numbers are 32 bits on the wire and unbounded here."""

    __slots__ = ("expected", "held", "late")

    def __init__(self) -> None:
        self.expected = 0
        self.held: dict[int, tuple[float, T]] = {}  # sequence -> (when it came, chunk), in order of arrival
        self.late = 0

    def place(self, sequence: int) -> int:
        """The unbounded form of a sequence number from the wire; below `expected`: late."""
        ahead = sequence - self.expected & SEQUENCE_MASK
        return self.expected + (ahead if ahead < _HALF else ahead - SEQUENCE_MASK - 1)

    def hold(self, place: int, chunk: T, now: float) -> bool:
        """Keep a chunk from beyond a gap; False if it is there already or too late."""
        if place < self.expected or place in self.held:
            self.late += 1
            return False
        self.held[place] = (now, chunk)
        return True

    def pop(self) -> T | None:
        """The next chunk in order, if it is here."""
        entry = self.held.pop(self.expected, None)
        if entry is None:
            return None
        self.expected += 1
        return entry[1]

    @property
    def deadline(self) -> float:
        """When the gap in front is given up; infinite without one."""
        if not self.held:
            return float("inf")
        if len(self.held) > HELD_MAX:
            return 0.0
        return next(iter(self.held.values()))[0] + HOLD_S

    def skip(self) -> int:
        """Give the gap in front up; how many chunks it was. Only with something held."""
        place = self.expected
        held = self.held
        while place not in held:
            place += 1
            if place - self.expected == WALK_MAX:  # a leap, not a gap
                place = min(held)
        missing = place - self.expected
        self.expected = place
        return missing
