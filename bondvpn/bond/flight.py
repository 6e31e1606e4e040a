"""What is under way on one lane: sent, and not yet reported as come or lost.

Datagrams are kept as runs, as they were sent: one entry for up to 64 of them. A report (wire.feedback) takes
out what came. What is missing counts as lost once REORDER later counters of the lane came, or one that left
REORDER_S later: a line does not reorder, and what a burst loses at its end need not wait for three more.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Generic, NamedTuple, TypeVar

REORDER = 3  # counters (RFC 9002, 6.1.1)
REORDER_S = 0.010

T = TypeVar("T")


class Piece(NamedTuple, Generic[T]):
    """Datagrams [start, start + n) of the run that carried `load`."""

    load: T
    start: int
    n: int


class Outcome(NamedTuple, Generic[T]):
    """What a report says of the runs under way."""

    came: list[Piece[T | None]]
    lost: list[Piece[T | None]]
    came_count: int
    lost_count: int
    sent_at: float | None
    """When the datagram with the report's highest counter left; None if it was not under way here."""
    came_largest: int
    lost_largest: int
    """Size of the largest datagram that came and that was lost; 0 if none."""


class _Run(Generic[T]):
    __slots__ = ("count", "first", "load", "sent_at", "size", "start")

    def __init__(self, first: int, count: int, size: int, sent_at: float, load: T | None, start: int) -> None:
        self.first = first  # counter
        self.count = count
        self.size = size  # of each datagram, as an Ethernet frame
        self.sent_at = sent_at
        self.load = load
        self.start = start  # the first one's place in what was sent at once


class Flight(Generic[T]):
    """Sizes in bytes as Ethernet frames, times in seconds."""

    __slots__ = ("_runs", "in_flight")

    def __init__(self) -> None:
        self._runs: deque[_Run[T]] = deque()
        self.in_flight = 0
        """Bytes under way."""

    def sent(self, first: int, count: int, size: int, load: T, now: float) -> None:
        """`count` datagrams of `size` bytes each left with the counters from `first` on."""
        self._runs.append(_Run(first, count, size, now, load, 0))
        self.in_flight += count * size

    @property
    def oldest(self) -> float:
        """When the oldest under way left; infinite when nothing is."""
        return self._runs[0].sent_at if self._runs else float("inf")

    @property
    def oldest_load(self) -> float:
        """When the oldest under way that has a load left; infinite when none has."""
        return next((run.sent_at for run in self._runs if run.load is not None), float("inf"))

    def unload(self) -> Piece[T] | None:
        """Take the load of the oldest run that has one, for another lane; the run stays under way."""
        for run in self._runs:
            if run.load is not None:
                piece, run.load = Piece(run.load, run.start, run.count), None
                return piece
        return None

    def forget(self) -> Piece[T | None] | None:
        """Give up knowing of the oldest run; None if nothing is under way."""
        if not self._runs:
            return None
        run = self._runs.popleft()
        self.in_flight -= run.count * run.size
        return Piece(run.load, run.start, run.count)

    def drain(self) -> list[Piece[T | None]]:
        """All that is under way, oldest first; nothing is any more."""
        pieces = [Piece(run.load, run.start, run.count) for run in self._runs]
        self._runs.clear()
        self.in_flight = 0
        return pieces

    # -- reports --------------------------------------------------------------------------------
    def report(self, highest: int, gaps: Sequence[tuple[int, int]], spoken_for: int) -> Outcome[T]:
        """All counters from `highest - spoken_for + 1` to `highest` came but the gaps: `gaps` holds
        (distance of its last counter below `highest`, counters), newest first."""
        outcome: Outcome[T] = Outcome([], [], 0, 0, None, 0, 0)
        runs = self._runs
        if not runs or runs[0].first > highest:
            return outcome
        came, lost = outcome.came, outcome.lost
        missing = [(highest - back - count + 1, highest - back) for back, count in reversed(gaps)]
        floor = highest - spoken_for
        newest = self._sent_at(highest)
        kept: list[_Run[T]] = []
        came_count = lost_count = came_largest = lost_largest = 0
        sent_at: float | None = None
        while runs and runs[0].first <= highest:
            run = runs.popleft()
            end = run.first + run.count
            whole = end - 1 <= highest and run.first > floor
            if whole and not any(first < end and last >= run.first for first, last in missing):
                came.append(Piece(run.load, run.start, run.count))
                came_count += run.count
                came_largest = max(came_largest, run.size)
                self.in_flight -= run.count * run.size
                if end - 1 == highest:
                    sent_at = run.sent_at
                continue
            for first, last, arrived in _parts(run.first, end - 1, highest, floor, missing):
                count = last - first + 1
                piece = Piece(run.load, run.start + first - run.first, count)
                if arrived:
                    came.append(piece)
                    came_count += count
                    came_largest = max(came_largest, run.size)
                    if last == highest:
                        sent_at = run.sent_at
                elif last <= highest - REORDER or (last < highest and newest - run.sent_at >= REORDER_S):
                    lost.append(piece)
                    lost_count += count
                    lost_largest = max(lost_largest, run.size)
                else:
                    kept.append(_Run(first, count, run.size, run.sent_at, run.load, piece.start))
                    continue
                self.in_flight -= count * run.size
        runs.extendleft(reversed(kept))
        return Outcome(came, lost, came_count, lost_count, sent_at, came_largest, lost_largest)

    def _sent_at(self, counter: int) -> float:
        """When the run that holds `counter` left, or the last before it."""
        sent_at = -float("inf")
        for run in self._runs:
            if run.first > counter:
                break
            sent_at = run.sent_at
        return sent_at


def _parts(
    first: int, last: int, highest: int, floor: int, missing: list[tuple[int, int]]
) -> Iterator[tuple[int, int, bool]]:
    """Cut counters [first, last] into (first, last, came). Below the floor the report says nothing any more,
    and several before it said nothing good; above `highest` it says nothing yet, as if missing."""
    if first <= floor:
        end = min(last, floor)
        yield first, end, False
        first = end + 1
    for gap_first, gap_last in [*missing, (highest + 1, last)]:
        if gap_last < first or gap_first > last:
            continue
        if gap_first > first:
            yield first, gap_first - 1, True
        yield max(gap_first, first), min(gap_last, last), False
        first = min(gap_last, last) + 1
    if first <= last:
        yield first, last, True
