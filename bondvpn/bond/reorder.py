"""Puts one stream's chunks back in order, strictly, with a bounded hold.

What is missing is waited for at most HOLD_S, counted from when the first chunk behind the gap came:
every later gap has been waiting meanwhile too, so a dead line costs the hold once, not once a gap.
Linux TCP takes the longest harm from reordering it meets before it has adapted; so nothing is ever
let through early.
"""

from typing import Generic, TypeVar

from bondvpn.wire.sealed import SEQUENCE_MASK

HOLD_S = 0.150  # design.md, 5: below an inner retransmission timeout, above real lines' delay differences
HELD_MAX = 8192  # chunks: 11.7 MB, 310 ms at 300 Mbit/s
WALK_MAX = 256  # steps to a gap's end; from there on a search is cheaper
_HALF = 1 << 31

T = TypeVar("T")


class Reorder(Generic[T]):
    """Sequence numbers are 32 bits on the wire and unbounded here."""

    __slots__ = ("expected", "held", "late")

    def __init__(self) -> None:
        self.expected = 0
        self.held: dict[int, tuple[float, float, T]] = {}
        """Sequence -> (when it came, when it is due, chunk), in order of arrival."""
        self.late = 0

    def place(self, sequence: int) -> int:
        """The unbounded form of a sequence number from the wire; below `expected`: late."""
        ahead = sequence - self.expected & SEQUENCE_MASK
        return self.expected + (ahead if ahead < _HALF else ahead - SEQUENCE_MASK - 1)

    def hold(self, place: int, chunk: T, now: float, due: float) -> bool:
        """Keep a chunk from beyond a gap, or until `due`; False if it is there already or too late."""
        if place < self.expected or place in self.held:
            self.late += 1
            return False
        self.held[place] = (now, due, chunk)
        return True

    def pop(self, now: float) -> T | None:
        """The next chunk in order, if it is here and due."""
        entry = self.held.get(self.expected)
        if entry is None or (entry[1] > now and len(self.held) <= HELD_MAX):
            return None
        del self.held[self.expected]
        self.expected += 1
        return entry[2]

    def deadline(self, extra_s: float) -> float:
        """When the next chunk is due or the gap in front is given up; infinite with nothing held.

        `extra_s`: what the lines' delays differ by, and so how much longer a chunk behind a gap may wait.
        """
        held = self.held
        if not held:
            return float("inf")
        if len(held) > HELD_MAX:
            return 0.0
        first = held.get(self.expected)
        return first[1] if first is not None else next(iter(held.values()))[0] + HOLD_S + extra_s

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
