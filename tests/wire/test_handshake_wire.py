"""Byte-literal tests of the handshake layouts and the capabilities."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bondvpn.stats import Drop
from bondvpn.wire import handshake as wire
from bondvpn.wire.capabilities import AES_256_GCM, CHACHA20_POLY1305, CSUM, TSO4, TSO6, USO, Capabilities
from bondvpn.wire.handshake import InitiationMessage, ResponseMessage

NOISE_1 = b"E" * 32 + b"S" * 48 + b"T" * 28 + b"p" * 5
NOISE_2 = b"E" * 32 + b"P" * 16 + b"p" * 5
MAC1 = b"1" * 16
MAC2 = b"2" * 16

INITIATION_BYTES = b"\x01\x00\x00\x00" + b"\x01\x02\x03\x04" + NOISE_1 + MAC1 + MAC2
RESPONSE_BYTES = b"\x02\x00\x00\x00" + b"\x05\x06\x07\x08" + b"\x01\x02\x03\x04" + NOISE_2 + MAC1 + MAC2


def test_initiation_emits_these_bytes() -> None:
    assert InitiationMessage(0x01020304, NOISE_1, MAC1, MAC2).emit() == INITIATION_BYTES


def test_initiation_parses_these_bytes() -> None:
    assert wire.check_initiation(INITIATION_BYTES) is None
    assert InitiationMessage.parse(INITIATION_BYTES) == (0x01020304, NOISE_1, MAC1, MAC2)


def test_response_emits_these_bytes() -> None:
    assert ResponseMessage(0x05060708, 0x01020304, NOISE_2, MAC1, MAC2).emit() == RESPONSE_BYTES


def test_response_parses_these_bytes() -> None:
    assert wire.check_response(RESPONSE_BYTES) is None
    assert ResponseMessage.parse(RESPONSE_BYTES) == (0x05060708, 0x01020304, NOISE_2, MAC1, MAC2)


def test_macs_default_to_zero() -> None:
    assert InitiationMessage(1, NOISE_1).emit().endswith(bytes(32))
    assert ResponseMessage(1, 2, NOISE_2).emit().endswith(bytes(32))


@pytest.mark.parametrize("datagram", [INITIATION_BYTES, RESPONSE_BYTES])
def test_macs_stand_at_the_end(datagram: bytes) -> None:
    assert wire.covered_by_mac1(datagram) == datagram[: -len(MAC1 + MAC2)]
    assert wire.mac1(datagram) == MAC1
    assert wire.mac2(datagram) == MAC2


def test_lengths_without_payload_are_those_of_wireguard() -> None:
    assert (wire.INITIATION_LEN, wire.RESPONSE_LEN, wire.COOKIE_REPLY_LEN) == (148, 92, 64)


def test_cookie_reply_layout_is_reserved_without_gaps() -> None:
    fields = struct.Struct(">I I 24s 32s")
    assert fields.size == wire.COOKIE_REPLY_LEN
    offsets = (
        wire.COOKIE_REPLY_RECEIVER_OFFSET,
        wire.COOKIE_REPLY_NONCE_OFFSET,
        wire.COOKIE_REPLY_COOKIE_OFFSET,
    )
    assert offsets == (4, 8, 32)


def initiation_of(length: int) -> bytes:
    return (b"\x01" + bytes(1500))[:length]


def response_of(length: int) -> bytes:
    return (b"\x02" + bytes(1500))[:length]


@pytest.mark.parametrize("length", [0, 1, 4, 91, 147, 148 + 257, 1500])
def test_initiation_of_wrong_length(length: int) -> None:
    assert wire.check_initiation(initiation_of(length)) is Drop.SHORT


@pytest.mark.parametrize("length", [148, 149, 148 + 256])
def test_initiation_of_right_length(length: int) -> None:
    assert wire.check_initiation(initiation_of(length)) is None


@pytest.mark.parametrize("length", [0, 1, 4, 91, 92 + 257, 1500])
def test_response_of_wrong_length(length: int) -> None:
    assert wire.check_response(response_of(length)) is Drop.SHORT


@pytest.mark.parametrize("length", [92, 93, 92 + 256])
def test_response_of_right_length(length: int) -> None:
    assert wire.check_response(response_of(length)) is None


@pytest.mark.parametrize("kind", [0, 2, 3, 4, 5, 255])
def test_initiation_of_another_type(kind: int) -> None:
    assert wire.check_initiation(bytes((kind,)) + INITIATION_BYTES[1:]) is Drop.TYPE


@pytest.mark.parametrize("kind", [0, 1, 3, 4, 5, 255])
def test_response_of_another_type(kind: int) -> None:
    assert wire.check_response(bytes((kind,)) + RESPONSE_BYTES[1:]) is Drop.TYPE


@pytest.mark.parametrize("place", [1, 2, 3])
def test_reserved_bytes_must_be_zero(place: int) -> None:
    for datagram, check in (
        (INITIATION_BYTES, wire.check_initiation),
        (RESPONSE_BYTES, wire.check_response),
    ):
        changed = bytearray(datagram)
        changed[place] = 1
        assert check(bytes(changed)) is Drop.TYPE


# -- capabilities -----------------------------------------------------------------------------
CAPABILITIES = Capabilities(
    version=1,
    ciphers=AES_256_GCM | CHACHA20_POLY1305,
    offloads=CSUM | TSO4 | TSO6 | USO,
    instance=b"instance",
    max_frame=0x00010203,
    mtu=1500,
)
CAPABILITIES_BYTES = b"\x01\x03\x00\x0f\x00\x01\x02\x03\x05\xdcinstance"


def test_capabilities_emit_these_bytes() -> None:
    assert CAPABILITIES.emit() == CAPABILITIES_BYTES


def test_capabilities_parse_these_bytes() -> None:
    assert Capabilities.parse(CAPABILITIES_BYTES) == CAPABILITIES


def test_capabilities_of_a_later_version_are_read_as_far_as_known() -> None:
    assert Capabilities.parse(CAPABILITIES_BYTES + b"more") == CAPABILITIES


@pytest.mark.parametrize("length", range(len(CAPABILITIES_BYTES)))
def test_capabilities_too_short(length: int) -> None:
    assert Capabilities.parse(CAPABILITIES_BYTES[:length]) is None


@given(
    st.builds(
        Capabilities,
        version=st.integers(0, 0xFF),
        ciphers=st.integers(0, 0xFF),
        offloads=st.integers(0, 0xFFFF),
        instance=st.binary(min_size=8, max_size=8),
        max_frame=st.integers(0, 0xFFFFFFFF),
        mtu=st.integers(0, 0xFFFF),
    )
)
def test_capabilities_round_trip(capabilities: Capabilities) -> None:
    assert Capabilities.parse(capabilities.emit()) == capabilities


def test_capabilities_fit_the_payload() -> None:
    assert len(CAPABILITIES.emit()) <= wire.PAYLOAD_MAX
