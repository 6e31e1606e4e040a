"""Sealed parts: byte literals, round trips, and None for what is malformed."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bondvpn.wire import sealed
from bondvpn.wire.sealed import PathChallenge, Probe

TOKEN = bytes(range(8))
names = st.text(max_size=32).filter(lambda name: len(name.encode()) <= sealed.NAME_MAX)


def test_literals() -> None:
    """As docs/protocol.md tables them."""
    data = sealed.DATA_HEADER.pack(sealed.DATA, 3, 0x01020304, 0x0506, 0x0708, 0x090A)
    assert data == bytes.fromhex("01 03 01020304 0506 0708 090a")
    assert len(data) == sealed.DATA_HEADER_LEN
    probe = Probe(0x01020304, 0x05DC, 0x0607, 1)
    assert sealed.emit_probe(probe) == bytes.fromhex("03 01020304 05dc 0607 01")
    assert sealed.emit_probe_reply(probe) == bytes.fromhex("04 01020304 05dc 0607 01")
    challenge = PathChallenge(TOKEN, 16_000_000, 1_000_000, 1492, 2, "dsl")
    assert sealed.emit_challenge(challenge) == bytes.fromhex(
        "05 0001020304050607 0000000000f42400 00000000000f4240 05d4 02 03 64736c"
    )
    assert sealed.emit_response(TOKEN) == bytes.fromhex("06 0001020304050607")
    assert sealed.emit_close() == bytes.fromhex("07 00")


def test_offsets_point_into_the_data_header() -> None:
    data = sealed.DATA_HEADER.pack(1, 2, 0x03030303, 0x0404, 0x0505, 0x0606)
    assert data[sealed.KIND_OFFSET] == 1
    assert data[sealed.STREAM_OFFSET] == 2
    assert data[sealed.SEQUENCE_OFFSET : sealed.TIME_OFFSET] == b"\3" * 4
    assert data[sealed.TIME_OFFSET : sealed.ENQUEUED_OFFSET] == b"\4" * 2
    assert data[sealed.ENQUEUED_OFFSET : sealed.RECORD_OFFSET] == b"\5" * 2
    assert data[sealed.RECORD_OFFSET :] == b"\6" * 2


@pytest.mark.parametrize(
    ("now", "time"),
    [(0.0, 0), (16e-6, 1), (0.5, 31_250), (65_536 * 16e-6, 0), (1e6, 62_500_000_000 & 0xFFFF)],
)
def test_a_moment_is_a_count_of_16_us_that_wraps(now: float, time: int) -> None:
    assert sealed.time_of(now + 1e-9) == time


@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**16 - 1),
    st.integers(0, 2**16 - 1),
    st.integers(0, 1500),
    st.integers(0, 1),
)
def test_a_probe_is_padded_to_its_length_and_read_again(
    number: int, size: int, at: int, length: int, carries: int
) -> None:
    probe = Probe(number, size, at, carries)
    emitted = sealed.emit_probe(probe, length=length)
    assert len(emitted) == max(length, 10)
    assert sealed.parse_probe(emitted) == probe
    assert sealed.parse_probe(sealed.emit_probe_reply(probe)) == probe


@given(
    st.binary(min_size=8, max_size=8),
    st.tuples(*[st.integers(0, 2**64 - 1)] * 2),
    st.integers(0, 2**16 - 1),
    st.integers(0, 255),
    names,
)
def test_a_challenge_is_read_again(
    token: bytes, rates: tuple[int, int], mtu: int, tier: int, name: str
) -> None:
    challenge = PathChallenge(token, *rates, mtu, tier, name)
    emitted = sealed.emit_challenge(challenge)
    assert sealed.parse_challenge(emitted) == challenge
    for end in range(len(emitted)):
        assert sealed.parse_challenge(emitted[:end]) is None


@given(st.binary(min_size=8, max_size=8))
def test_a_response_is_read_again(token: bytes) -> None:
    assert sealed.parse_response(sealed.emit_response(token)) == token


@pytest.mark.parametrize(("parse", "least"), [(sealed.parse_probe, 10), (sealed.parse_response, 9)])
def test_what_is_too_short_is_none(parse: Callable[[bytes], Any], least: int) -> None:
    for length in range(least):
        assert parse(bytes(length)) is None
    assert parse(bytes(least)) is not None


@pytest.mark.parametrize("name", [b"\xff\xfe", b"\xc3", b"n" * 33])
def test_a_name_that_is_no_utf8_or_too_long_is_none(name: bytes) -> None:
    emitted = sealed.emit_challenge(PathChallenge(TOKEN, 0, 0, 0, 0, ""))[:-1] + bytes((len(name),)) + name
    assert sealed.parse_challenge(emitted) is None


@given(st.binary(max_size=80))
def test_no_bytes_make_a_parser_raise(data: bytes) -> None:
    for parse in (sealed.parse_probe, sealed.parse_challenge, sealed.parse_response):
        parse(data)
