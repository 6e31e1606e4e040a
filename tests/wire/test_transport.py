"""The 16 clear bytes of a transport datagram."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bondvpn.wire import transport

LITERAL = bytes.fromhex("04000000 abcdef07 0102030405060708")


def test_the_clear_bytes_are_laid_out_as_documented() -> None:
    assert transport.emit(0xABCDEF07, 0x0102030405060708) == LITERAL
    assert transport.parse(LITERAL + b"sealed part and tag") == (0xABCDEF07, 0x0102030405060708)
    assert transport.PREFIX.pack(transport.TYPE_WORD, 0xABCDEF07) == LITERAL[: transport.PREFIX_LEN]
    assert LITERAL[transport.COUNTER_OFFSET :] == bytes(range(1, 9))


def test_the_nonce_is_four_zero_bytes_and_the_counter() -> None:
    assert transport.nonce(0x0102030405060708) == bytes(4) + bytes(range(1, 9))


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1))
def test_what_is_emitted_is_parsed(index: int, counter: int) -> None:
    datagram = transport.emit(index, counter) + bytes(17)
    assert transport.is_transport(datagram)
    assert transport.is_transport(memoryview(datagram))
    assert transport.parse(datagram) == (index, counter)


@given(st.integers(0, transport.KEYPAIR_INDEXES - 1), st.integers(0, transport.LANES - 1))
def test_an_index_names_keypair_and_lane(keypair: int, lane: int) -> None:
    assert transport.split_index(transport.lane_index(keypair, lane)) == (keypair, lane)


def test_the_keypair_is_in_the_upper_24_bits() -> None:
    assert transport.lane_index(0xABCDEF, 7) == 0xABCDEF07


@pytest.mark.parametrize(
    "datagram",
    [
        b"",
        LITERAL,
        LITERAL + bytes(16),  # nothing sealed
        b"\x03" + LITERAL[1:] + bytes(30),
        b"\x04\x01" + LITERAL[2:] + bytes(30),
        b"\x04\0\0\x01" + LITERAL[4:] + bytes(30),
    ],
)
def test_other_datagrams_are_not_taken_for_one(datagram: bytes) -> None:
    assert not transport.is_transport(datagram)


def test_the_overhead_is_what_the_design_budgets() -> None:
    """28 + 16 + 10 + 16 = 70 bytes of a 1500-byte packet over IPv4."""
    assert transport.OVERHEAD == 32
    assert transport.udp_overhead(ipv6=False) == 28
    assert transport.udp_overhead(ipv6=True) == 48
