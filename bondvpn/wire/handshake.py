"""Handshake datagrams: WireGuard's envelope around Noise IKpsk2, with payloads of variable length.

    INITIATION     type 1  zero 3  sender 4  noise message 1 (108 + p)  mac1 16  mac2 16      148 + p bytes
    RESPONSE       type 1  zero 3  sender 4  receiver 4  noise message 2 (48 + p)  mac1 16  mac2 16    92 + p
    COOKIE_REPLY   type 1  zero 3  receiver 4  nonce 24  sealed cookie 32                    64, reserved

    noise message 1   ephemeral 32  sealed static 32 + 16  sealed (timestamp 12, payload p) + 16
    noise message 2   ephemeral 32  sealed payload p + 16

All integers are big-endian. `sender` and `receiver` are keypair indexes, each chosen by the side it
belongs to. mac1 covers everything before it, mac2 everything before it; where each comes from is
`bondvpn.noise.handshake`. mac2 is zero as long as no cookie was received.
The payload takes what room the datagram leaves: the macs are counted from the end.
"""

import struct
from typing import Final, NamedTuple

from bondvpn.stats import Drop

# -- named offsets ----------------------------------------------------------------------------
INITIATION: Final = 1
RESPONSE: Final = 2
COOKIE_REPLY: Final = 3  # reserved: nobody sends it yet, and who receives it drops it
TRANSPORT: Final = 4  # laid out in bondvpn.wire.transport

SENDER_OFFSET: Final = 4
RECEIVER_OFFSET: Final = 8  # in a response
INITIATION_NOISE_OFFSET: Final = 8
RESPONSE_NOISE_OFFSET: Final = 12

KEY_LEN: Final = 32  # X25519 public key, RFC 7748
TAG_LEN: Final = 16  # ChaCha20-Poly1305, RFC 8439
TIMESTAMP_LEN: Final = 12  # TAI64N
MAC_LEN: Final = 16
MACS_LEN: Final = 2 * MAC_LEN
NO_MAC: Final = bytes(MAC_LEN)

PAYLOAD_MAX: Final = 256  # bytes: an initiation of 404 then passes IPv4's least datagram, 576 (RFC 791)

INITIATION_LEN: Final = (
    INITIATION_NOISE_OFFSET + KEY_LEN + (KEY_LEN + TAG_LEN) + (TIMESTAMP_LEN + TAG_LEN) + MACS_LEN
)  # 148, without payload: the length of WireGuard's
RESPONSE_LEN: Final = RESPONSE_NOISE_OFFSET + KEY_LEN + TAG_LEN + MACS_LEN  # 92, without payload
INITIATION_MAX: Final = INITIATION_LEN + PAYLOAD_MAX
RESPONSE_MAX: Final = RESPONSE_LEN + PAYLOAD_MAX

# The cookie reply, as WireGuard lays it out: XChaCha20-Poly1305 of a 16-byte cookie.
COOKIE_REPLY_RECEIVER_OFFSET: Final = 4
COOKIE_REPLY_NONCE_OFFSET: Final = 8
COOKIE_REPLY_COOKIE_OFFSET: Final = 32
COOKIE_REPLY_LEN: Final = 64

_INITIATION_HEADER = struct.Struct(">II")
_RESPONSE_HEADER = struct.Struct(">III")
_TYPE_SHIFT: Final = 24  # the type leads a 32-bit word whose other bytes are zero


# -- checked view -----------------------------------------------------------------------------
def check_initiation(datagram: bytes) -> Drop | None:
    """Why these bytes do not have the shape of an initiation (SHORT: any wrong length; TYPE), or None."""
    return _check(datagram, INITIATION, INITIATION_LEN, INITIATION_MAX)


def check_response(datagram: bytes) -> Drop | None:
    """Why these bytes do not have the shape of a response (SHORT: any wrong length; TYPE), or None."""
    return _check(datagram, RESPONSE, RESPONSE_LEN, RESPONSE_MAX)


def _check(datagram: bytes, kind: int, shortest: int, longest: int) -> Drop | None:
    if not shortest <= len(datagram) <= longest:
        return Drop.SHORT
    if int.from_bytes(datagram[:SENDER_OFFSET], "big") != kind << _TYPE_SHIFT:
        return Drop.TYPE
    return None


def covered_by_mac1(datagram: bytes) -> bytes:
    """The bytes that mac1 of a well-shaped initiation or response authenticates."""
    return datagram[:-MACS_LEN]


def mac1(datagram: bytes) -> bytes:
    """mac1 of a well-shaped initiation or response."""
    return datagram[-MACS_LEN:-MAC_LEN]


def mac2(datagram: bytes) -> bytes:
    """mac2 of a well-shaped initiation or response; NO_MAC when the sender holds no cookie."""
    return datagram[-MAC_LEN:]


# -- parsed form ------------------------------------------------------------------------------
class InitiationMessage(NamedTuple):
    """An initiation; `noise` is Noise message 1, opaque here."""

    sender: int
    noise: bytes
    mac1: bytes = NO_MAC
    mac2: bytes = NO_MAC

    def emit(self) -> bytes:
        """148 + p bytes."""
        header = _INITIATION_HEADER.pack(INITIATION << _TYPE_SHIFT, self.sender)
        return header + self.noise + self.mac1 + self.mac2

    @classmethod
    def parse(cls, datagram: bytes) -> "InitiationMessage":
        """The fields of a datagram for which `check_initiation` found nothing."""
        _, sender = _INITIATION_HEADER.unpack_from(datagram)
        noise = datagram[INITIATION_NOISE_OFFSET:-MACS_LEN]
        return cls(sender, noise, mac1(datagram), mac2(datagram))


class ResponseMessage(NamedTuple):
    """A response; `receiver` is the initiator's index, `noise` is Noise message 2, opaque here."""

    sender: int
    receiver: int
    noise: bytes
    mac1: bytes = NO_MAC
    mac2: bytes = NO_MAC

    def emit(self) -> bytes:
        """92 + p bytes."""
        header = _RESPONSE_HEADER.pack(RESPONSE << _TYPE_SHIFT, self.sender, self.receiver)
        return header + self.noise + self.mac1 + self.mac2

    @classmethod
    def parse(cls, datagram: bytes) -> "ResponseMessage":
        """The fields of a datagram for which `check_response` found nothing."""
        _, sender, receiver = _RESPONSE_HEADER.unpack_from(datagram)
        noise = datagram[RESPONSE_NOISE_OFFSET:-MACS_LEN]
        return cls(sender, receiver, noise, mac1(datagram), mac2(datagram))
