"""Whole TCP segments and datagrams out of a super-frame of which some chunks never came.

The sender's kernel handed us one frame for many segments. When a chunk is lost for good, the segments it does
not touch are as good as if they had been sent one by one, so they are delivered: consecutive survivors become
one smaller super-frame, under the headers the kernel itself would have given them (tcp_gso_segment,
__udp_gso_segment, inet_gso_segment, ipv6_gso_segment; netns-tests/test_rescue.py holds them to it).
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from bondvpn.wire import virtio
from bondvpn.wire.virtio import VirtioHeader

_VLAN = b"\x81\x00"
_ETHERTYPE_BYTES = 2
_IPV4_LENGTH, _IPV4_ID, _IPV4_CHECKSUM = 2, 4, 10  # RFC 791
_IPV6_LENGTH, _IPV6_BYTES = 4, 40  # RFC 8200
_TCP_SEQUENCE, _TCP_DATA_OFFSET, _TCP_FLAGS = 4, 12, 13  # RFC 9293
_UDP_LENGTH, _UDP_BYTES = 4, 8  # RFC 768
_FIN_PSH, _CWR = 0x09, 0x80

_UINT16 = struct.Struct(">H")
_UINT32 = struct.Struct(">I")


class _Layout(NamedTuple):
    """Offsets in the frame, virtio header included; `body` is the first byte of payload."""

    header: VirtioHeader
    ip: int
    l4: int
    body: int
    ipv4: bool
    udp: bool


def rescue(frame: bytearray, holes: list[tuple[int, int]]) -> list[bytes]:
    """Smaller frames that deliver what the holes left whole, in order.

    `frame`: virtio header and Ethernet frame in full length, its bytes inside the holes undefined.
    `holes`: byte ranges [start, end) of `frame` that never came, in any order.
    Each frame returned starts with a virtio header again. Nothing can be saved, and the list is empty, when a
    hole touches the headers, when the frame is not GSO, and when it is malformed.
    """
    wanted = [(start, end) for start, end in holes if start < min(end, len(frame))]
    if not virtio.check(frame, len(frame), max_frame=len(frame), uso=True):
        return []
    layout = _layout(frame)
    if layout is None or any(start < layout.body for start, _ in wanted) or not _lengths_agree(frame, layout):
        return []
    lost = bytearray(-(-(len(frame) - layout.body) // layout.header.gso_size))
    for start, end in wanted:
        first = (start - layout.body) // layout.header.gso_size
        past = min(-(-(end - layout.body) // layout.header.gso_size), len(lost))
        lost[first:past] = b"\1" * (past - first)
    return [_piece(frame, layout, first, past) for first, past in _survivors(lost)]


def _layout(frame: bytearray) -> _Layout | None:
    header = VirtioHeader.parse(frame)
    if header.gso_type == virtio.GSO_NONE:
        return None
    ip = virtio.HEADER_BYTES + virtio.ETHERNET_BYTES
    if frame[ip - _ETHERTYPE_BYTES : ip] == _VLAN:
        ip += virtio.VLAN_BYTES
    l4 = virtio.HEADER_BYTES + header.csum_start
    udp = header.gso_type == virtio.GSO_UDP_L4
    body = l4 + (_UDP_BYTES if udp else frame[l4 + _TCP_DATA_OFFSET] >> 4 << 2)
    return _Layout(header, ip, l4, body, frame[ip] >> 4 == 4, udp)


def _lengths_agree(frame: bytearray, layout: _Layout) -> bool:
    """Do the headers' lengths match the frame's? If not, its tail is no payload, or it is a jumbogram."""
    if layout.udp and _UINT16.unpack_from(frame, layout.l4 + _UDP_LENGTH)[0] != len(frame) - layout.l4:
        return False
    if layout.ipv4:
        return bool(_UINT16.unpack_from(frame, layout.ip + _IPV4_LENGTH)[0] == len(frame) - layout.ip)
    payload = len(frame) - layout.ip - _IPV6_BYTES
    return bool(_UINT16.unpack_from(frame, layout.ip + _IPV6_LENGTH)[0] == payload)


def _survivors(lost: bytearray) -> Iterator[tuple[int, int]]:
    """Runs [first, past) of segments not lost."""
    first = lost.find(0)
    while first >= 0:
        past = lost.find(1, first)
        if past < 0:
            past = len(lost)
        yield first, past
        first = lost.find(0, past)


def _piece(frame: bytearray, layout: _Layout, first: int, past: int) -> bytes:
    """The frame that carries segments [first, past)."""
    header, ip, l4, body, ipv4, udp = layout
    skipped = first * header.gso_size
    end = body + past * header.gso_size
    piece = frame[:body] + frame[body + skipped : end]
    if udp:
        _UINT16.pack_into(piece, l4 + _UDP_LENGTH, len(piece) - l4)
    else:
        (sequence,) = _UINT32.unpack_from(piece, l4 + _TCP_SEQUENCE)
        _UINT32.pack_into(piece, l4 + _TCP_SEQUENCE, (sequence + skipped) & 0xFFFFFFFF)
        if first > 0:
            piece[l4 + _TCP_FLAGS] &= ~_CWR & 0xFF
        if end < len(frame):
            piece[l4 + _TCP_FLAGS] &= ~_FIN_PSH & 0xFF
    # NEEDS_CSUM: the field holds the folded pseudo-header sum, in which only the length changes.
    checksum = l4 + header.csum_offset
    (partial,) = _UINT16.unpack_from(piece, checksum)
    _UINT16.pack_into(piece, checksum, _fold(partial + (0xFFFF - (len(frame) - l4)) + len(piece) - l4))
    if ipv4:
        _UINT16.pack_into(piece, ip + _IPV4_LENGTH, len(piece) - ip)
        (identification,) = _UINT16.unpack_from(piece, ip + _IPV4_ID)
        _UINT16.pack_into(piece, ip + _IPV4_ID, (identification + first) & 0xFFFF)
        _UINT16.pack_into(piece, ip + _IPV4_CHECKSUM, 0)
        words = struct.unpack_from(f">{(l4 - ip) // 2}H", piece, ip)
        _UINT16.pack_into(piece, ip + _IPV4_CHECKSUM, ~_fold(sum(words)) & 0xFFFF)
    else:
        _UINT16.pack_into(piece, ip + _IPV6_LENGTH, len(piece) - ip - _IPV6_BYTES)
    _virtio_header(layout, first, len(piece)).emit_into(piece)
    return bytes(piece)


def _virtio_header(layout: _Layout, first: int, length: int) -> VirtioHeader:
    header = layout.header
    if length - layout.body <= header.gso_size:
        return header._replace(gso_type=virtio.GSO_NONE, hdr_len=0, gso_size=0)
    # The ECN bit says that the first segment carries CWR, and only the frame's own first one does.
    gso_type = header.gso_type if first == 0 else header.gso_type & ~virtio.GSO_ECN
    # hdr_len may cover payload that is no longer there.
    return header._replace(gso_type=gso_type, hdr_len=layout.body - virtio.HEADER_BYTES)


def _fold(total: int) -> int:
    """One's complement sum in 16 bits (RFC 1071)."""
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total
