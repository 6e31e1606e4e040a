"""A UDP datagram as a frame, virtio header first: where things are, and what all of one flow share."""

import struct
from typing import NamedTuple

from bondvpn.wire.virtio import ETHERNET_BYTES, HEADER_BYTES

IP_OFFSET = HEADER_BYTES + ETHERNET_BYTES
ETHERTYPE_OFFSET = IP_OFFSET - 2
UDP = 17  # IANA protocol number
UDP_BYTES = 8


class Family(NamedTuple):
    """IPv4 without options, or IPv6 without extension headers."""

    key: struct.Struct
    """All that is the same in neighbouring datagrams of one flow and one size: from the virtio header to the
    UDP length, but for the IPv4 id and checksum."""
    protocol: int  # offset of the protocol or next header
    length: int  # offset of the IP length
    udp: int  # offset of the UDP header
    addresses: int  # offset of the addresses, which reach up to the UDP header
    counted: int  # where the IP length starts counting


IPV4 = Family(
    struct.Struct("28s2x4s2x14s"), IP_OFFSET + 9, IP_OFFSET + 2, IP_OFFSET + 20, IP_OFFSET + 12, IP_OFFSET
)
IPV6 = Family(
    struct.Struct("70s"), IP_OFFSET + 6, IP_OFFSET + 4, IP_OFFSET + 40, IP_OFFSET + 8, IP_OFFSET + 40
)


def family_of(head: bytes | bytearray | memoryview) -> Family | None:
    """The family of a frame that begins with `head`; None if it is no UDP datagram of either, or a fragment,
    or `head` does not reach past its UDP header."""
    if len(head) < IPV4.udp + UDP_BYTES:
        return None
    high, low = head[ETHERTYPE_OFFSET], head[ETHERTYPE_OFFSET + 1]
    if high == 0x08 and low == 0x00:
        # no options, not a fragment: neither more to come nor an offset (RFC 791)
        plain = head[IP_OFFSET] == 0x45 and not head[IP_OFFSET + 6] & 0x3F and not head[IP_OFFSET + 7]
        return IPV4 if plain and head[IPV4.protocol] == UDP else None
    if high == 0x86 and low == 0xDD and len(head) >= IPV6.udp + UDP_BYTES and head[IPV6.protocol] == UDP:
        return IPV6
    return None
