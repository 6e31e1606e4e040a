"""Transport datagrams: 16 clear bytes, a sealed part, a 16-byte tag.

    0       1                4                8                16
    +-------+----------------+----------------+----------------+---------------+---------+
    | type  | zero           | lane index     | counter        | sealed part   | tag 16  |
    +-------+----------------+----------------+----------------+---------------+---------+

All integers are big-endian. The clear bytes are the associated data of the AEAD; the nonce is four
zero bytes and the counter. The lane index was chosen by the receiver and names keypair, link and
direction at once: the upper 24 bits are the receiver's keypair index, the lower 8 the lane.
"""

import struct

# -- named offsets ----------------------------------------------------------------------------
TYPE = 4
HEADER_LEN = 16
TAG_LEN = 16
NONCE_LEN = 12
OVERHEAD = HEADER_LEN + TAG_LEN
PREFIX_LEN = 8  # type, zero, lane index: the same in every datagram of a lane
COUNTER_OFFSET = 8

HEADER = struct.Struct(">IIQ")  # type << 24, lane index, counter
PREFIX = struct.Struct(">II")
TYPE_WORD = TYPE << 24

LANE_BITS = 8
LANES = 1 << LANE_BITS
KEYPAIR_INDEXES = 1 << (32 - LANE_BITS)

IPV4_UDP_LEN = 28  # RFC 791 without options + RFC 768
IPV6_UDP_LEN = 48  # RFC 8200 + RFC 768
ETHERNET_LEN = 14  # header without FCS: what a line's configured rate counts, with the packet


# -- checked view -----------------------------------------------------------------------------
def is_transport(datagram: bytes | memoryview) -> bool:
    """Whether these bytes have the shape of a transport datagram (length, type, zero bytes)."""
    return len(datagram) > OVERHEAD and int.from_bytes(datagram[:4], "big") == TYPE_WORD


# -- parse and emit ---------------------------------------------------------------------------
def parse(datagram: bytes | memoryview) -> tuple[int, int]:
    """(lane index, counter) of a datagram for which `is_transport` held."""
    _, index, counter = HEADER.unpack_from(datagram)
    return index, counter


def emit(index: int, counter: int) -> bytes:
    """The 16 clear bytes."""
    return HEADER.pack(TYPE_WORD, index, counter)


def nonce(counter: int) -> bytes:
    """The 12-byte AEAD nonce of a counter."""
    return counter.to_bytes(NONCE_LEN, "big")


def lane_index(keypair_index: int, lane: int) -> int:
    """The index that names `lane` of the receiver's keypair."""
    return keypair_index << LANE_BITS | lane


def split_index(index: int) -> tuple[int, int]:
    """(keypair index, lane) of a lane index."""
    return index >> LANE_BITS, index & (LANES - 1)


def udp_overhead(*, ipv6: bool) -> int:
    """Bytes of IP and UDP header around a datagram."""
    return IPV6_UDP_LEN if ipv6 else IPV4_UDP_LEN
