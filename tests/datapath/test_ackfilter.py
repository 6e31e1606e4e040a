"""Pure ACKs that wait: which may take the place of which."""

import struct

import pytest
from frames import ack

from bondvpn.datapath.ackfilter import WaitingAcks, parse

STAMPS = b"\1\1\x08\x0a" + bytes(8)


def record_of(frame: bytes) -> memoryview:
    return memoryview(bytearray(struct.pack(">H", len(frame)) + frame))


def built(number: int = 1000, options: bytes = b"", **both: int) -> memoryview:
    """The record of a pure ACK; the IPv4 identification, and so the checksum, differ by its number."""
    return record_of(ack(1, number, options, identification=number & 0xFFFF, **both))


@pytest.mark.parametrize("ipv6", [False, True])
@pytest.mark.parametrize("options", [b"", STAMPS])
def test_a_later_one_takes_the_place_of_an_earlier_one(options: bytes, *, ipv6: bool) -> None:
    waiting = WaitingAcks()
    place = built(1000, options, ipv6=ipv6)
    first, later = parse(place), built(2000, options, ipv6=ipv6, window=100)
    assert first is not None
    waiting.note(first, place)
    second = parse(later)
    assert second is not None
    assert second == (first.flow, 2000)
    assert waiting.replace(second, later)
    assert place == later
    assert not waiting.replace(first, built(1000, options, ipv6=ipv6)), "it came too late"
    waiting.clear()
    assert not waiting.replace(second, later), "none waits"


def test_a_duplicate_and_one_after_the_numbers_wrapped() -> None:
    waiting, place = WaitingAcks(), built(0xFFFF_FF00)
    first = parse(place)
    assert first is not None
    waiting.note(first, place)
    assert not waiting.replace(first, built(0xFFFF_FF00)), "it says that something is missing"
    later = built(100)
    second = parse(later)
    assert second is not None
    assert waiting.replace(second, later)
    waiting.note(second, built(100))
    third = parse(built(200))
    assert third is not None
    assert not waiting.replace(third, built(200)), "the duplicate would lose its place"


@pytest.mark.parametrize(
    "record",
    [
        built(options=b"\1\1\5\x0a" + bytes(8)),
        built(options=STAMPS + b"\1\1\5\x0a" + bytes(8)),
        built(flags=0x50),
        built(flags=0x18),
        record_of(ack(1, 1) + b"\0"),
    ],
    ids=["SACK", "timestamps and SACK", "ECN echo", "PSH", "a byte behind it"],
)
def test_one_that_says_more_than_its_number_is_left_alone(record: memoryview) -> None:
    assert parse(record) is None


def test_so_is_what_does_not_lie_where_it_mostly_does() -> None:
    plain = built()
    at = plain.obj.index(b"\x08\0\x45")
    for kind in (b"\x81\0\x45", b"\x08\0\x46"):  # a VLAN's, with IP options
        moved = memoryview(bytearray(plain))
        moved[at : at + 3] = kind
        assert parse(moved) is None
    assert parse(plain[: len(plain) - 1]) is None


def test_flows_are_told_apart_by_addresses_ports_and_sequence() -> None:
    plain = built()
    same = parse(plain)
    assert same is not None
    start = len(plain) - 40
    for at in (1, 12, 19, 20, 22, 27):  # traffic class, addresses; ports, sequence
        other = memoryview(bytearray(plain))
        other[start + at] ^= 1
        parsed = parse(other)
        assert parsed is not None
        assert parsed.flow != same.flow
