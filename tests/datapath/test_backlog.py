"""What waits to leave, and what was lost: every chunk once, every slot given back."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bondvpn.bond.flight import Piece
from bondvpn.datapath.backlog import RESEND_WITHIN_S, TRIES_MAX, Lost, OutStream
from bondvpn.datapath.slab import ChunkSlab, Extent

CAPACITY = 1000


def filled(stream: OutStream, counts: list[int], last: int = CAPACITY) -> None:
    """Extents of so many chunks, each behind a gap in the slab."""
    at = 0
    for i, count in enumerate(counts):
        extent = Extent(1, at, count, last if i == len(counts) - 1 else CAPACITY, CAPACITY)
        stream.queue.append(extent)
        stream.waiting += extent.nbytes
        at = extent.end + 1


def slots(extents: list[Extent]) -> list[int]:
    return [slot for extent in extents for slot in range(extent.start, extent.end)]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    counts=st.lists(st.integers(1, 30), min_size=1, max_size=8),
    last=st.integers(1, CAPACITY),
    seed=st.integers(0, 2**32),
)
def test_every_chunk_is_taken_once_from_wherever(counts: list[int], last: int, seed: int) -> None:
    rng = random.Random(seed)
    stream = OutStream(1)
    filled(stream, counts, last)
    before, total = slots(list(stream.queue)), stream.waiting
    taken: list[Extent] = []
    while stream.queue:
        skip = rng.choice([0, 0, rng.randrange(40_000)])
        wanted = min(skip // CAPACITY, sum(extent.count for extent in stream.queue) - 1)
        waiting = slots(list(stream.queue))
        one = stream.take(skip, rng.randint(1, 44))
        assert one.start == waiting[wanted]
        taken.append(one)
        assert slots(list(stream.queue)) == [slot for slot in waiting if slot not in slots([one])], "in order"
        assert stream.waiting == sum(extent.nbytes for extent in stream.queue)
    assert sorted(slots(taken)) == before
    assert sum(extent.nbytes for extent in taken) == total
    assert stream.waiting == 0


def test_a_stream_whose_last_chunk_left_takes_no_more_into_it() -> None:
    stream = OutStream(1)
    filled(stream, [2, 2])
    stream.open = True
    stream.take(0, 2)
    assert stream.open
    stream.take(1000, 1)
    assert not stream.open


def slab_with(count: int) -> tuple[ChunkSlab, Extent]:
    slab = ChunkSlab(32, 32, CAPACITY)
    assert slab.has_room(count)
    first = slab.next
    slab.take(count)
    return slab, Extent(1, first, count, CAPACITY, CAPACITY, born=1.0)


def test_what_came_gives_its_slots_back() -> None:
    slab, extent = slab_with(10)
    Lost(slab).came([Piece(extent, 2, 3), Piece(None, 0, 1)])
    assert slab.in_use == 7
    assert slab.has_room(3)


def test_what_was_lost_waits_again_until_it_was_tried_often_enough() -> None:
    slab, extent = slab_with(10)
    lost, link = Lost(slab), object()
    piece = Piece(extent, 4, 2)
    for tries in range(1, TRIES_MAX + 1):
        assert lost.lost(link, [piece], 1.0) == 2
        again = lost.queue.popleft()
        assert (again.start, again.count, again.tries, again.lost_by) == (extent.start + 4, 2, tries, link)
        piece = Piece(again, 0, 2)
    assert lost.lost(link, [piece], 1.0) == 0
    assert not lost.queue
    assert lost.given_up == 2
    assert slab.in_use == 8


@pytest.mark.parametrize(("age_s", "again"), [(RESEND_WITHIN_S, 2), (RESEND_WITHIN_S + 0.001, 0)])
def test_nor_what_is_too_old(age_s: float, again: int) -> None:
    slab, extent = slab_with(10)
    assert Lost(slab).lost(None, [Piece(extent, 0, 2)], 1.0 + age_s) == again


def test_slots_are_found_between_those_in_use() -> None:
    slab, _ = slab_with(32)
    assert not slab.has_room(1)
    slab.give(10, 4)
    assert slab.has_room(4)
    assert slab.next == 10
    assert not slab.has_room(5)
    slab.take(4)
    assert slab.in_use == 32
