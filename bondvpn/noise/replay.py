"""Replay window of a lane: which counters were accepted, in the spirit of RFC 6479.

A ring with one byte per counter, in place of RFC 6479's bits: a byte is set and a whole run is filled
with one slice assignment, where a bit costs Python a shift of big integers. Advancing clears only what
was skipped, since each newly accepted counter overwrites the one that left the window.
"""

from typing import Final

WINDOW: Final = 8192  # counters: 8 KiB a lane

_SEEN: Final = 1


class ReplayWindow:
    """Counters seen on one lane; ask it only about authentic datagrams, after they were opened."""

    __slots__ = ("_mask", "_ones", "_ring", "_size", "highest", "received")

    def __init__(self, size: int = WINDOW) -> None:
        """`size` in counters, a power of two."""
        if size < 1 or size & (size - 1):
            raise ValueError(f"replay window: a power of two expected, got {size}")
        self._size = size
        self._mask = size - 1
        self._ring = bytearray(size)
        self._ones = bytes((_SEEN,)) * size
        self.highest = -1
        """Largest counter accepted, -1 before the first."""
        self.received = 0
        """Counters accepted; highest + 1 - received were lost or are still on their way."""

    def accept(self, counter: int) -> bool:
        """Whether this counter is new, and from now on it is not. False: seen, or too old to tell."""
        highest = self.highest
        if counter > highest:
            skipped = counter - highest - 1
            if skipped:
                self._fill(highest + 1, skipped, bytes(min(skipped, self._size)))
            self.highest = counter
        elif counter <= highest - self._size or self._ring[counter & self._mask]:
            return False
        self._ring[counter & self._mask] = _SEEN
        self.received += 1
        return True

    def accept_run(self, first: int, n: int) -> bool:
        """Whether first..first + n - 1 (n ≥ 1) all lie above `highest`: then marks them all.

        False marks nothing: ask `accept` for each.
        """
        skipped = first - self.highest - 1
        if skipped < 0:
            return False
        if skipped:
            self._fill(first - skipped, skipped, bytes(min(skipped, self._size)))
        place = first & self._mask
        end = place + n
        if end <= self._size:
            self._ring[place:end] = self._ones[:n]
        else:
            self._fill(first, n, self._ones)
        self.highest = first + n - 1
        self.received += n
        return True

    def gaps(self, below: int, most: int) -> list[tuple[int, int]]:
        """What is missing among the last `below` counters up to `highest`: (distance of a gap's last counter
        below `highest`, counters in it), newest first, at most `most` of them."""
        below = min(below, self.highest + 1, self._size)
        place = self.highest + 1 - below & self._mask
        seen = self._ring[place : place + below]
        seen += self._ring[: below - len(seen)]
        found: list[tuple[int, int]] = []
        end = len(seen)
        while len(found) < most and (last := seen.rfind(0, 0, end)) >= 0:
            end = seen.rfind(_SEEN, 0, last) + 1
            found.append((below - 1 - last, last + 1 - end))
        return found

    def _fill(self, first: int, n: int, values: bytes) -> None:
        """Write `values` to the places of first..first + n - 1, around the end of the ring."""
        size = self._size
        if n >= size:
            self._ring[:] = values[:size]
            return
        place = first & self._mask
        until_end = size - place
        if n <= until_end:
            self._ring[place : place + n] = values[:n]
        else:
            self._ring[place:] = values[:until_end]
            self._ring[: n - until_end] = values[: n - until_end]
