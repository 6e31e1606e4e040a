"""Frames as a TAP gives them: virtio header, then Ethernet. Their bytes tell their flow and place."""

import struct
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from bondvpn.bond.classify import classify

VIRTIO_BYTES = 10
ETHERNET_IP_TCP_BYTES = 54
TCP_OVERHEAD_BYTES = VIRTIO_BYTES + ETHERNET_IP_TCP_BYTES
_PATTERN = bytes((i * i * 7 + i * 13 + (i >> 8) * 31) & 0xFF for i in range(65_536 + 8192))


class Segment(NamedTuple):
    """One TCP segment as the receiving kernel would see it."""

    flow: int
    sequence: int
    payload: bytes


def _pattern(flow: int, start: int, size: int) -> bytes:
    at = (start * 3 + flow * 977) % 8192
    return _PATTERN[at : at + size]


def _ipv4(protocol: int, flow: int, l4: bytes, identification: int = 1) -> bytes:
    header = struct.pack(
        ">BBHHHBBH4s4s",
        *(0x45, 0, 20 + len(l4), identification, 0x4000, 64, protocol, 0),
        bytes((10, 0, flow >> 8 & 255, flow & 255)),
        bytes((192, 0, 2, 1)),
    )
    words = struct.unpack(">10H", header)
    total = sum(words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return b"\2" * 12 + b"\x08\x00" + header[:10] + struct.pack(">H", ~total & 0xFFFF) + header[12:] + l4


def datagram(flow: int, number: int, size: int, *, port: int = 5004, ipv6: bool = False) -> bytes:
    """A UDP frame of `size` bytes with its virtio header (at least 60, or 80); port 53 makes it express."""
    headers = VIRTIO_BYTES + (62 if ipv6 else 42)
    body = struct.pack(">I", number) + _pattern(flow, number, max(size - headers - 4, 4))
    udp = struct.pack(">HHHH", 40_000 + flow % 1000, port, 8 + len(body), 0) + body
    return bytes(VIRTIO_BYTES) + (_ipv6(17, flow, udp) if ipv6 else _ipv4(17, flow, udp))


def _ipv6(protocol: int, flow: int, l4: bytes) -> bytes:
    addresses = bytes((0xFD, *bytes(13), flow >> 8 & 255, flow & 255)) + bytes((0xFD, *bytes(14), 1))
    return b"\2" * 12 + b"\x86\xdd" + struct.pack(">IHBB", 6 << 28, len(l4), protocol, 64) + addresses + l4


def super_frame(flow: int, sequence: int, payload_bytes: int, gso_size: int) -> bytes:
    """A TCP frame of `payload_bytes`, for the kernel to cut into segments of `gso_size`."""
    payload = _pattern(flow, sequence, payload_bytes)
    tcp = struct.pack(">HHIIBBHHH", 40_000 + flow % 1000, 443, sequence, 1, 0x50, 0x18, 500, 0, 0) + payload
    gso = payload_bytes > gso_size
    virtio = struct.pack("<BBHHHH", 1, 1 if gso else 0, 54 if gso else 0, gso_size if gso else 0, 34, 16)
    return virtio + _ipv4(6, flow, tcp)


def ack(
    flow: int,
    number: int,
    options: bytes = b"",
    *,
    ipv6: bool = False,
    flags: int = 0x10,
    window: int = 500,
    identification: int = 1,
) -> bytes:
    """A pure ACK: express on the wire. `identification`: IPv4's, which its checksum depends on."""
    length = 20 + len(options)
    tcp = struct.pack(">HHIIBBHHH", 40_000 + flow % 1000, 443, 1, number, length << 2, flags, window, 0, 0)
    segment = tcp + options
    return bytes(VIRTIO_BYTES) + (
        _ipv6(6, flow, segment) if ipv6 else _ipv4(6, flow, segment, identification)
    )


def flow_of(frame: bytes) -> int:
    """The class of this frame: 0 express, 1..FLOWS bulk, ACKS."""
    return classify(memoryview(frame)[VIRTIO_BYTES:], len(frame) - VIRTIO_BYTES)


def segments(frame: bytes) -> Iterator[Segment]:
    """What the kernel makes of a TCP frame; its headers must agree with its length."""
    _, kind, _, gso_size, start, _ = struct.unpack_from("<BBHHHH", frame)
    packet = frame[VIRTIO_BYTES:]
    assert start == 34
    (total,) = struct.unpack_from(">H", packet, 16)
    assert total == len(packet) - 14
    flow = packet[28] << 8 | packet[29]
    (sequence,) = struct.unpack_from(">I", packet, 38)
    payload = packet[ETHERNET_IP_TCP_BYTES:]
    step = gso_size if kind else len(payload)
    for first, past in pairwise([*range(0, len(payload), step), len(payload)]):
        yield Segment(flow, sequence + first, payload[first:past])


def is_tcp_data(frame: bytes) -> bool:
    """Whether `super_frame` (or a rescue of one) made this frame."""
    return frame[0] == 1
