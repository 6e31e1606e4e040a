"""Frames of the simulated hosts: TCP and UDP over IPv4 as Linux gives them to a TAP, virtio header first.

Simplified: addresses are fixed, the payload is zeros, the IPv4 checksum is left 0 (nothing in a bond looks at
it), sequence numbers start at 0. TCP carries timestamps (1 ms units) and SACK, so a full segment has 1448
bytes of payload in 1514 of frame.
"""

import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

MSS_BYTES = 1448
SYN, ACK = 0x02, 0x10
HEAD_BYTES = 110  # virtio, Ethernet, IPv4, TCP with all its options
SERVER_IP, CLIENT_IP = bytes((192, 0, 2, 1)), bytes((192, 168, 10, 2))
TCP, UDP = 6, 17
WORD = 1 << 32
STAMP_S = 0.001

_ETHERNET = b"\2" * 12 + b"\x08\x00"
_FIXED = struct.Struct("<BBHHHH14s")  # virtio header, Ethernet header
_IP = struct.Struct(">BBHHHBBH4s4s")
_TCP = struct.Struct(">HHIIBBHHH")
_UDP = struct.Struct(">HHHH")
_TIMES = struct.Struct(">BBBBII")
_BLOCK = struct.Struct(">II")
_PARSE = struct.Struct(">33xB10xHHIIBBHHH").unpack_from  # protocol, then the TCP header
_PROBE = struct.Struct(">II")
_ZEROS = bytes(65_536)
_DATA_HEADER_BYTES = 34 + 32  # as an Ethernet frame
DATA_HEAD_BYTES = 10 + _DATA_HEADER_BYTES


class Segment(NamedTuple):
    """One TCP frame, parsed. `payload`: its length; `blocks`: SACK ranges, a DSACK first."""

    source: int
    target: int
    sequence: int
    ack: int
    flags: int
    window: int
    payload: int
    stamp: int
    echo: int
    blocks: tuple[tuple[int, int], ...]


def _packet(protocol: int, from_server: bool, l4: int, dscp: int = 0) -> bytes:
    source, target = (SERVER_IP, CLIENT_IP) if from_server else (CLIENT_IP, SERVER_IP)
    return _IP.pack(0x45, dscp << 2, 20 + l4, 1, 0x4000, 64, protocol, 0, source, target)


def segment(
    from_server: bool,
    ports: tuple[int, int],
    sequence: int,
    ack: int,
    stamps: tuple[int, int],
    *,
    payload: int = 0,
    flags: int = ACK,
    blocks: Sequence[tuple[int, int]] = (),
    window: int = 65_535,
) -> bytes:
    """One frame; more than MSS_BYTES of payload make it a super-frame. Numbers modulo 2^32 are taken here."""
    options = _TIMES.pack(1, 1, 8, 10, stamps[0] % WORD, stamps[1] % WORD)
    if blocks:
        options += bytes((1, 1, 5, 2 + 8 * len(blocks)))
        for left, right in blocks:
            options += _BLOCK.pack(left % WORD, right % WORD)
    header = 20 + len(options)
    gso = payload > MSS_BYTES
    hdr_len = 34 + header
    fixed = _FIXED.pack(1, int(gso), hdr_len if gso else 0, MSS_BYTES if gso else 0, 34, 16, _ETHERNET)
    tcp = _TCP.pack(*ports, sequence % WORD, ack % WORD, header << 2, flags, window, 0, 0)
    return b"".join((fixed, _packet(TCP, from_server, header + payload), tcp, options, _ZEROS[:payload]))


def head_of(parts: Sequence[Any]) -> tuple[bytes, int]:
    """(first bytes, length) of a frame that is given as views."""
    length = sum(map(len, parts))
    head = bytes(parts[0][:HEAD_BYTES])
    if len(head) < HEAD_BYTES and len(parts) > 1:
        head = b"".join(parts[:3])[:HEAD_BYTES] if len(parts) > 2 else b"".join(parts)[:HEAD_BYTES]
    return head, length


def protocol_of(head: bytes) -> int:
    return head[33]


def parse(head: bytes, length: int) -> Segment:
    """A TCP frame of `length` bytes, of which `head` is the beginning."""
    _, source, target, sequence, ack, offset, flags, window, _, _ = _PARSE(head)
    header = offset >> 4 << 2
    _, _, _, _, stamp, echo = _TIMES.unpack_from(head, 64)
    blocks: tuple[tuple[int, int], ...] = ()
    if header > 32:
        blocks = tuple(_BLOCK.iter_unpack(head[80 : 44 + header]))
    return Segment(source, target, sequence, ack, flags, window, length - 44 - header, stamp, echo, blocks)


def cut(frame: bytes) -> list[bytes]:
    """The Ethernet packets that a kernel makes of a frame: what plain TCP puts on a line."""
    payload = len(frame) - DATA_HEAD_BYTES
    if payload <= MSS_BYTES:
        return [frame]
    one = parse(frame[:HEAD_BYTES], len(frame))
    from_server = frame[36:40] == SERVER_IP
    return [
        segment(
            from_server,
            (one.source, one.target),
            one.sequence + at,
            one.ack,
            (one.stamp, one.echo),
            payload=min(MSS_BYTES, payload - at),
        )
        for at in range(0, payload, MSS_BYTES)
    ]


def datagram(from_server: bool, port: int, number: int, size: int, dscp: int = 0) -> bytes:
    """A UDP frame of `size` bytes on the wire, numbered."""
    body = size - 42
    udp = _UDP.pack(port, port, 8 + body, 0) + _PROBE.pack(number, 0) + bytes(body - 8)
    return _FIXED.pack(0, 0, 0, 0, 0, 0, _ETHERNET) + _packet(UDP, from_server, 8 + body, dscp) + udp


def numbers_of(head: bytes, length: int, size: int) -> list[tuple[int, int]]:
    """(port, number) of a UDP frame. Of a super-frame (joined on the way) the first number and how many
    follow it: its datagrams are of `size` bytes and in order."""
    port = int.from_bytes(head[46:48], "big")
    first = _PROBE.unpack_from(head, 52)[0]
    count = max(1, round((length - 52) / (size - 42)))
    return [(port, first + i) for i in range(count)]
