"""The sealed part of a transport datagram: one kind byte, then what the kind says.

    DATA            kind 1  stream 1  sequence 4  time 2  enqueued 2  offset 2  chunk...
    PROBE           kind 1  id 4  size 2  time 2  carries 1  padding...
    PROBE_REPLY     kind 1  id 4  size 2  time 2  carries 1
    FEEDBACK        kind 2, see wire.feedback
    PATH_CHALLENGE  kind 1  token 8  rate 8  mtu 2  tier 1  name length 1  name...
    PATH_RESPONSE   kind 1  token 8
    CLOSE           kind 1  reason 1

`enqueued` is when the chunk's first frame was taken from the TAP, `time` when the datagram left, in units of
TIME_UNIT_S modulo 2^16. A reply repeats what its probe said.

A chunk is a piece of its stream's byte sequence, which is made of records:

    record          length 2  virtio header 10  Ethernet frame

`length` counts virtio header and frame; 0 means that the rest of the chunk is padding, and other values too
small for a frame that its head is told otherwise (wire.delta). `offset` is
where the first record that begins in this chunk begins, NO_RECORD if none does: whoever lost the
chunks before finds the next frame there (the idea of RFC 9347).
"""

import struct
from typing import Final, NamedTuple

# -- named offsets ----------------------------------------------------------------------------
DATA: Final = 1
FEEDBACK: Final = 2
PROBE: Final = 3
PROBE_REPLY: Final = 4
PATH_CHALLENGE: Final = 5
PATH_RESPONSE: Final = 6
CLOSE: Final = 7

DATA_HEADER = struct.Struct(">BBIHHH")
DATA_HEADER_LEN: Final = 12
KIND_OFFSET: Final = 0
STREAM_OFFSET: Final = 1
SEQUENCE_OFFSET: Final = 2
TIME_OFFSET: Final = 6
ENQUEUED_OFFSET: Final = 8
RECORD_OFFSET: Final = 10

NO_RECORD: Final = 0xFFFF
RECORD_LENGTH_LEN: Final = 2
PADDING_BOUND: Final = 64  # bytes; a record begins in a chunk only where so much room is left
TIME_UNIT_S: Final = 16e-6  # send time, modulo 2^16 units (1.05 s)

EXPRESS: Final = 0
BULK_STREAMS: Final = 16
STREAMS: Final = 1 + BULK_STREAMS
SEQUENCE_MASK: Final = 0xFFFFFFFF

NAME_MAX: Final = 32  # bytes of UTF-8
TOKEN_LEN: Final = 8

_PROBE = struct.Struct(">BIHHB")
_CHALLENGE = struct.Struct(">B8sQQHBB")
_RESPONSE = struct.Struct(">B8s")
_CLOSE = struct.Struct(">BB")


class CloseReason:
    """Why a peer says goodbye."""

    SHUTDOWN: Final = 0


# -- parsed forms -----------------------------------------------------------------------------
class Probe(NamedTuple):
    """A liveness or path MTU probe (`size` bytes as an IP packet) that left at `time`, or its reply."""

    id: int
    size: int
    time: int = 0
    carries: int = 0
    """1: its sender spreads bulk over this link, so the receiver equalises its delay."""


class PathChallenge(NamedTuple):
    """Joins a link, or asks whether an endpoint is really there.

    `rate` is what the sender of this message wants to receive at most by this link and `send_rate` what
    it will send (bit/s, 0: unknown), `mtu` its interface's MTU (bytes, 0: unknown), `tier` how late the
    link is to be used (0: first), `name` what its admin calls it.
    """

    token: bytes
    rate: int
    send_rate: int
    mtu: int
    tier: int
    name: str


# -- parse ------------------------------------------------------------------------------------
def parse_probe(sealed: bytes) -> Probe | None:
    """PROBE or PROBE_REPLY; None if malformed."""
    if len(sealed) < _PROBE.size:
        return None
    return Probe(*_PROBE.unpack_from(sealed)[1:])


def parse_challenge(sealed: bytes) -> PathChallenge | None:
    """PATH_CHALLENGE; None if malformed."""
    if len(sealed) < _CHALLENGE.size:
        return None
    _, token, rate, send_rate, mtu, tier, length = _CHALLENGE.unpack_from(sealed)
    name = sealed[_CHALLENGE.size : _CHALLENGE.size + length]
    if length > NAME_MAX or len(name) < length:
        return None
    try:
        return PathChallenge(token, rate, send_rate, mtu, tier, name.decode())
    except UnicodeDecodeError:
        return None


def parse_response(sealed: bytes) -> bytes | None:
    """The token of a PATH_RESPONSE; None if malformed."""
    return sealed[1 : 1 + TOKEN_LEN] if len(sealed) >= _RESPONSE.size else None


def nearest(difference: int, bits: int) -> int:
    """A difference of numbers modulo 2^bits as the one nearest to zero, -2^(bits-1) to 2^(bits-1) - 1."""
    half = 1 << bits - 1
    return (difference + half & (1 << bits) - 1) - half


def above(number: int, floor: int, bits: int) -> int:
    """A number known modulo 2^bits, as the one in `floor` to `floor` + 2^bits - 1."""
    return floor + (number - floor & (1 << bits) - 1)


def time_of(now: float) -> int:
    """A moment (seconds) as `time` has it."""
    return int(now / TIME_UNIT_S) & 0xFFFF


# -- emit -------------------------------------------------------------------------------------
def emit_probe(probe: Probe, *, length: int = 0) -> bytes:
    """PROBE, zero-padded to `length` bytes of sealed part."""
    return _PROBE.pack(PROBE, *probe).ljust(length, b"\0")


def emit_probe_reply(probe: Probe) -> bytes:
    """PROBE_REPLY: what the probe said comes back."""
    return _PROBE.pack(PROBE_REPLY, *probe)


def emit_challenge(challenge: PathChallenge) -> bytes:
    """PATH_CHALLENGE; the name must fit in NAME_MAX bytes."""
    name = challenge.name.encode()
    return _CHALLENGE.pack(PATH_CHALLENGE, *challenge[:5], len(name)) + name


def emit_response(token: bytes) -> bytes:
    """PATH_RESPONSE."""
    return _RESPONSE.pack(PATH_RESPONSE, token)


def emit_close(reason: int = CloseReason.SHUTDOWN) -> bytes:
    """CLOSE."""
    return _CLOSE.pack(CLOSE, reason)
