"""ICMP messages that say a datagram was too big for a hop: RFC 1191 (type 3, code 4), RFC 8201 (type 2).

Raw sockets with the kernel's own filter, so that nothing else wakes anybody. (IP_RECVERR would bring the same
on the data's sockets, but a socket with an error pending polls POLLERR, and uvloop's reader dies of that.)

A message quotes the datagram that it is about: IP header and the first eight bytes, which are UDP's. Nobody
signs it, so whoever uses one checks that it quotes what was really sent, and takes it for a hint
(RFC 8899, section 4.6).
"""

import contextlib
import socket
import struct
from typing import NamedTuple

# linux/icmp.h, linux/icmpv6.h
ICMP_FILTER, ICMPV6_FILTER = 1, 1
SOL_RAW = 255
DEST_UNREACH, FRAG_NEEDED = 3, 4
PACKET_TOO_BIG = 2

_IPV4_BYTES_MIN, _IPV6_BYTES, _UDP_BYTES, _ICMP_BYTES = 20, 40, 8, 8
_ICMP4 = struct.Struct("!BBHHH")  # type, code, checksum, unused, next hop's MTU
_ICMP6 = struct.Struct("!BBHI")  # type, code, checksum, MTU
_IPV4 = struct.Struct("!BBHHHBBH4s4s")  # RFC 791 section 3.1
_IPV6 = struct.Struct("!IHBB16s16s")  # RFC 8200 section 3
_UDP = struct.Struct("!HHHH")  # RFC 768
_FRAGMENT_OFFSET = 0x1FFF
_FILTER_WORDS = 8  # struct icmp6_filter: a bit a type, set: blocked
_ALL = 0xFFFF_FFFF
RECEIVE_BYTES = (
    2048  # a message has 576 bytes over IPv4 (RFC 1812 section 4.3.2.3), 1280 over IPv6 (RFC 4443)
)
RECEIVE_BATCH = 64  # a wake-up; routers send a few a second (linux icmp_ratelimit), forgers what they can


class TooBig(NamedTuple):
    """One message: the datagram from `source` to `target` was too big, `mtu` bytes of IP packet are not."""

    mtu: int
    source: tuple[str, int]
    """Address and port."""
    target: tuple[str, int]


class IcmpSocket:
    """Of one family, for all sockets of the process."""

    def __init__(self, *, ipv6: bool) -> None:
        """Raises OSError: without CAP_NET_RAW there is none."""
        self._parse = parse6 if ipv6 else parse4
        self.malformed = 0
        """Messages that were none, since the last `receive`."""
        if ipv6:
            self._socket = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
            words = [_ALL ^ 1 << PACKET_TOO_BIG, *[_ALL] * (_FILTER_WORDS - 1)]
            level, option, blocked = socket.IPPROTO_ICMPV6, ICMPV6_FILTER, struct.pack("=8I", *words)
        else:
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
            level, option, blocked = SOL_RAW, ICMP_FILTER, struct.pack("=I", _ALL ^ 1 << DEST_UNREACH)
        self._socket.setblocking(False)
        self._socket.setsockopt(level, option, blocked)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def receive(self) -> list[TooBig]:
        """What has come, a bounded number; of other errors than "too big" nothing."""
        found = []
        self.malformed = 0
        with contextlib.suppress(OSError):  # nothing more for now
            for _ in range(RECEIVE_BATCH):
                message = self._socket.recv(RECEIVE_BYTES)
                try:
                    one = self._parse(message)
                except ValueError:
                    self.malformed += 1
                else:
                    found += [one] if one is not None else []
        return found


def parse4(packet: bytes) -> TooBig | None:
    """An IPv4 packet with ICMP in it, as a raw socket has it; None: about something else. Raises ValueError
    where it is malformed."""
    at = _ipv4_header(packet)
    if len(packet) < at + _ICMP_BYTES:
        raise ValueError("no ICMP header")
    kind, code, _, _, mtu = _ICMP4.unpack_from(packet, at)
    if (kind, code) != (DEST_UNREACH, FRAG_NEEDED):
        return None
    if checksum(packet[at:]):
        raise ValueError("wrong checksum")
    quoted = packet[at + _ICMP_BYTES :]
    header = _ipv4_header(quoted)
    _, _, _, _, fragment, _, protocol, _, source, target = _IPV4.unpack_from(quoted)
    if protocol != socket.IPPROTO_UDP or fragment & _FRAGMENT_OFFSET:
        return None
    return _quoted(mtu, socket.AF_INET, source, target, quoted[header:])


def parse6(message: bytes) -> TooBig | None:
    """ICMPv6 as a raw socket has it, checksum seen to by the kernel; None: about something else. Raises
    ValueError where it is malformed."""
    if len(message) < _ICMP_BYTES + _IPV6_BYTES:
        raise ValueError("too short")
    kind, code, _, mtu = _ICMP6.unpack_from(message)
    if (kind, code) != (PACKET_TOO_BIG, 0):
        return None
    quoted = message[_ICMP_BYTES:]
    flow, _, following, _, source, target = _IPV6.unpack_from(quoted)
    if flow >> 28 != 6:
        raise ValueError("quotes no IPv6")
    if following != socket.IPPROTO_UDP:  # ours have no extension headers
        return None
    return _quoted(mtu, socket.AF_INET6, source, target, quoted[_IPV6_BYTES:])


def _ipv4_header(packet: bytes) -> int:
    """Its length in bytes."""
    if len(packet) < _IPV4_BYTES_MIN or packet[0] >> 4 != 4:
        raise ValueError("no IPv4 header")
    length = (packet[0] & 15) * 4
    if not _IPV4_BYTES_MIN <= length <= len(packet):
        raise ValueError("header of a strange length")
    return length


def _quoted(mtu: int, family: int, source: bytes, target: bytes, udp: bytes) -> TooBig:
    if len(udp) < _UDP_BYTES:
        raise ValueError("quotes too little")
    source_port, target_port, _, _ = _UDP.unpack_from(udp)
    return TooBig(
        mtu,
        (socket.inet_ntop(family, source), source_port),
        (socket.inet_ntop(family, target), target_port),
    )


def checksum(data: bytes) -> int:
    """RFC 1071: 0 over data whose own checksum is right."""
    padded = data + bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
