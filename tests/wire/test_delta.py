"""Heads by their differences: byte literals, round trips, and None for what is malformed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bondvpn.wire import delta
from bondvpn.wire.delta import FIXED_LEN, HEAD_BYTES, KEPT, TOLD, TOLD_MAX_LEN, ZERO

heads = st.lists(st.integers(0, 0xFFFF), min_size=48, max_size=48).map(tuple)
lengths = st.integers(HEAD_BYTES, 0xFFFF)


def test_literals() -> None:
    """As docs/protocol.md tables them."""
    kept = (0x1234, *[0] * 46, 0x5678)
    assert delta.emit(KEPT, kept, 3000, ZERO) == bytes.fromhex("0001 0bb8 800000000001 1234 5678")
    told = (0x1234, 0x9ABC, *kept[2:])
    assert delta.emit(TOLD, told, 0x100, kept) == bytes.fromhex("0002 0100 400000000000 9abc")


@given(heads, heads, lengths)
def test_a_head_is_told_again(kept: delta.Head, head: delta.Head, length: int) -> None:
    frame = delta.head_bytes(head) + b"rest"
    assert delta.head_of(frame) == head
    for mark, base in ((KEPT, ZERO), (TOLD, kept)):
        record = delta.emit(mark, head, length, base)
        assert len(record) <= TOLD_MAX_LEN
        told = delta.parse(b"before" + record + b"rest", 6, kept)
        assert told == delta.Told(head, mark == KEPT, length, 6 + len(record))


@given(heads, heads)
def test_without_the_kept_head_there_is_none_but_its_end_is_known(kept: delta.Head, head: delta.Head) -> None:
    record = delta.emit(TOLD, head, 3000, kept)
    assert delta.parse(record, 0, None) == delta.Told(None, False, 3000, len(record))
    record = delta.emit(KEPT, head, 3000, ZERO)
    assert delta.parse(record, 0, None) == delta.Told(head, True, 3000, len(record))


def test_what_is_cut_is_none() -> None:
    record = delta.emit(KEPT, tuple(range(1, 49)), 3000, ZERO)
    assert len(record) == TOLD_MAX_LEN
    for end in range(len(record)):
        assert delta.parse(record[:end], 0, ZERO) is None
    assert delta.parse(record, 0, ZERO) is not None


@pytest.mark.parametrize(("mark", "length"), [(0, 3000), (3, 3000), (23, 3000), (TOLD, HEAD_BYTES - 1)])
def test_what_no_sender_emits_is_none(mark: int, length: int) -> None:
    record = mark.to_bytes(2, "big") + length.to_bytes(2, "big") + bytes(FIXED_LEN - 4)
    assert delta.parse(record, 0, ZERO) is None
