"""What a frame is: 0 is express (sparse and real-time), 1..1024 are bulk, by flow.

Pure ACKs are express on the wire, but a class of their own on the way out: a download of 26 Mbit/s makes
1,100 a second, which one to a datagram are 1.3 Mbit/s and fill a DSL line's upstream. They wait for a line's
pace.

Order holds within a flow, which is known by the hash of addresses and ports alone (`bond.flows` finds it a
stream). What may be split, and then arrive in another order than it was sent, is only this:

- TCP: pure ACKs go as they can; SYN, FIN, RST and data of any size stay together in one bulk flow. An early
  or late ACK is what TCP is made for, while a SYN that bypassed an equalised stream would teach bbr a min_rtt
  that its data never sees (docs/design.md, section 5).
- DNS, ICMP and datagrams marked EF or CS5 and above go express, but bulk when longer than EXPRESS_MAX_BYTES,
  and so do unmarked datagrams beside marked ones: whoever marks only some of a flow asks for just that.
- Fragments go bulk by their addresses, first and later ones of a datagram together, but apart from the whole
  datagrams of their flow.
"""

import struct
from zlib import crc32

EXPRESS = 0
FLOWS = 1024  # of 4 flows two are taken for one in 0.6 % of all cases
ACKS = 1 + FLOWS
# An express frame must fit whole in one chunk: then no gap holds it up and a duplicate of it is one datagram.
# This is the chunk of a 1280-byte path over IPv4: 28 of IP and UDP, 42 of ours, 10 of virtio header.
EXPRESS_MAX_BYTES = 1200

_MALFORMED = 1  # a flow like any other for frames that no kernel of ours emits
_FLOW_MASK = FLOWS - 1
_EXPRESS_CLASS_MIN = (
    40 << 2
)  # CS5, VOICE-ADMIT, EF, CS6, CS7 (RFC 4594, RFC 5865) as the traffic class byte has them
_DNS_PORT = 53

_ETHERNET_BYTES, _VLAN_BYTES, _ADDRESSES_BYTES = 14, 4, 12
_IPV4_BYTES, _IPV6_BYTES, _TCP_BYTES, _PORTS_BYTES = 20, 40, 20, 4
_PLAIN_TCP_BYTES = _ETHERNET_BYTES + _IPV4_BYTES + _TCP_BYTES

_IPV4, _IPV6, _VLAN = 0x0800, 0x86DD, 0x8100
_ETHERTYPE_MIN = 0x0600  # below it is a length (IEEE 802.3): spanning tree and its like
# ARP, slow protocols (LACP), EAPOL, LLDP: few and small, and everything else waits for them.
_EXPRESS_ETHERTYPES = frozenset((0x0806, 0x8809, 0x888E, 0x88CC))

_ICMP, _TCP, _UDP, _ICMPV6 = 1, 6, 17, 58
# First 4 bytes constant in a flow: TCP, UDP, DCCP, ESP (its SPI), SCTP, UDP-Lite. The rest hash by addresses
# only: in IP over IP, for one, those bytes hold the length of what it carries.
_WITH_PORTS = frozenset((_TCP, _UDP, 33, 50, 132, 136))
_IPV6_EXTENSIONS = frozenset(
    (0, 43, 44, 51, 60, 135, 139, 140)
)  # IANA registry; what follows is not looked for

_FRAGMENT = 0x3FFF  # MF and offset (RFC 791)
_SYN_FIN_RST_ACK, _ACK = 0x17, 0x10

_UINT16 = struct.Struct(">H").unpack_from
_PORTS = struct.Struct(">HH").unpack_from
# Version and length, traffic class, total length, fragment, protocol.
_IPV4_FIELDS = struct.Struct(">BBH2xHxB").unpack_from
_PLAIN_FIELDS = struct.Struct(">12xHBBH2xHxB").unpack_from  # ethertype before them
_IPV6_FIELDS = struct.Struct(">IHB").unpack_from  # version and class, payload length, next header


def classify(frame: memoryview, length: int, express_max: int = EXPRESS_MAX_BYTES) -> int:
    """Class of an Ethernet frame (no virtio header before it): EXPRESS, ACKS, or its flow, 1..FLOWS.

    `frame`: at least its first min(length, 128) bytes, one byte per item. `length`: bytes in all.
    `express_max`: the longest frame, in bytes, that may go express. Frames too short for their headers are
    flow 1.

    Measured, CPython 3.11: 0.33 µs for TCP data over IPv4, super-frames included, 0.27 for its ACKs, 0.43 for
    UDP over IPv4; 0.8 to 1.0 for IPv6 or with a VLAN tag (`python -m timeit`).
    """
    if length >= _PLAIN_TCP_BYTES:
        ethertype, first, traffic_class, total, fragment, protocol = _PLAIN_FIELDS(frame)
        # TCP, UDP and ICMP over IPv4 without tag or options are decided here: it would cost 0.9 µs below.
        if ethertype == _IPV4 and first == 0x45 and not fragment & _FRAGMENT:
            if protocol == _TCP:
                if (
                    length <= express_max
                    and frame[47] & _SYN_FIN_RST_ACK == _ACK
                    and frame[46] >> 4 << 2 == total - _IPV4_BYTES >= _TCP_BYTES
                ):
                    return ACKS
                return 1 + (crc32(frame[26:38]) & _FLOW_MASK)
            if protocol == _UDP:
                urgent = traffic_class >= _EXPRESS_CLASS_MIN or _DNS_PORT in _PORTS(frame, 34)
                if urgent and length <= express_max:
                    return EXPRESS
                return 1 + (crc32(frame[26:38]) & _FLOW_MASK)
            if protocol == _ICMP and length <= express_max:
                return EXPRESS
    return _classify_any(frame, length, length <= express_max)


def _classify_any(frame: memoryview, length: int, small: bool) -> int:
    at = _ETHERNET_BYTES
    if length < at:
        return _MALFORMED
    (ethertype,) = _UINT16(frame, at - 2)
    if ethertype == _VLAN:
        at += _VLAN_BYTES
        if length < at:
            return _MALFORMED
        (ethertype,) = _UINT16(frame, at - 2)
    if ethertype == _IPV4:
        return _classify_ipv4(frame, length, at, small)
    if ethertype == _IPV6:
        return _classify_ipv6(frame, length, at, small)
    if small and (ethertype < _ETHERTYPE_MIN or ethertype in _EXPRESS_ETHERTYPES):
        return EXPRESS
    return 1 + (crc32(frame[:_ADDRESSES_BYTES]) & _FLOW_MASK)


def _classify_ipv4(frame: memoryview, length: int, at: int, small: bool) -> int:
    if length < at + _IPV4_BYTES:
        return _MALFORMED
    first, traffic_class, total, fragment, protocol = _IPV4_FIELDS(frame, at)
    header_bytes = (first & 15) << 2
    l4 = at + header_bytes
    if first >> 4 != 4 or header_bytes < _IPV4_BYTES or length < l4:
        return _MALFORMED
    addresses = frame[at + 12 : at + 20]
    if fragment & _FRAGMENT:
        return 1 + (crc32(addresses) & _FLOW_MASK)
    if small and protocol != _TCP and (protocol == _ICMP or traffic_class >= _EXPRESS_CLASS_MIN):
        return EXPRESS
    kind = _small_kind(frame[l4:], length - l4, total - header_bytes, protocol) if small else None
    if kind is not None:
        return kind
    return _bulk(frame[l4:], length - l4, protocol, addresses)


def _classify_ipv6(frame: memoryview, length: int, at: int, small: bool) -> int:
    l4 = at + _IPV6_BYTES
    if length < l4:
        return _MALFORMED
    first, payload, protocol = _IPV6_FIELDS(frame, at)
    if first >> 28 != 6:
        return _MALFORMED
    addresses = frame[at + 8 : l4]
    if protocol in _IPV6_EXTENSIONS:
        return 1 + (crc32(addresses) & _FLOW_MASK)
    urgent = protocol == _ICMPV6 or first >> 20 & 0xFF >= _EXPRESS_CLASS_MIN
    if small and urgent and protocol != _TCP:
        return EXPRESS
    kind = _small_kind(frame[l4:], length - l4, payload, protocol) if small else None
    if kind is not None:
        return kind
    return _bulk(frame[l4:], length - l4, protocol, addresses)


def _small_kind(segment: memoryview, length: int, ip_payload: int, protocol: int) -> int | None:
    """A pure ACK, or DNS? `segment`: head of the L4 part; its length by the frame, by the IP header."""
    if protocol == _UDP and length >= _PORTS_BYTES and _DNS_PORT in _PORTS(segment):
        return EXPRESS
    if (
        protocol == _TCP
        and length >= _TCP_BYTES
        and segment[13] & _SYN_FIN_RST_ACK == _ACK
        and segment[12] >> 4 << 2 == ip_payload >= _TCP_BYTES
    ):
        return ACKS
    return None


def _bulk(segment: memoryview, length: int, protocol: int, addresses: memoryview) -> int:
    if protocol not in _WITH_PORTS:
        return 1 + (crc32(addresses) & _FLOW_MASK)
    if length < _PORTS_BYTES:
        return _MALFORMED
    # The same number as over contiguous addresses and ports, so IP options do not move a flow.
    return 1 + (crc32(segment[:_PORTS_BYTES], crc32(addresses)) & _FLOW_MASK)
