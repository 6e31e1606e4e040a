"""Joins neighbouring UDP datagrams of one flow and one size into a super-frame for the TAP.

Writing a frame to the TAP costs 2.6 µs, one datagram more in a super-frame 0.8 µs (measured, 200 bytes),
and the kernel hands a super-frame on as it hands on what a network card joined (UDP GRO). So a QUIC download
arrives in runs. Only datagrams whose checksum some kernel vouches for are joined: one it has yet to compute,
or one it has verified; joining computes it anew, which would mend a damaged one.
"""

import struct

from bondvpn.wire import virtio
from bondvpn.wire.datagram import IP_OFFSET, IPV4, UDP, UDP_BYTES, family_of
from bondvpn.wire.virtio import VirtioHeader

Buffer = bytes | bytearray | memoryview

JOINED_MAX = 64  # UDP_MAX_SEGMENTS before Linux 6.2
JOINED_BYTES_MAX = 65_000
DATAGRAM_BYTES_MAX = 1_600  # larger ones are not many

_VOUCHED = virtio.F_NEEDS_CSUM | virtio.F_DATA_VALID
_UDP_CHECKSUM = 6  # offset in the UDP header
_UINT16 = struct.Struct(">H")


class Joiner:
    """Holds the datagrams that may still grow; `take` one, then write what `flush` gives."""

    __slots__ = ("_family", "_first", "_key", "_length", "_payload", "_size", "count")

    def __init__(self) -> None:
        self.count = 0  # datagrams held
        self._key: tuple[bytes, ...] = ()
        self._length = 0  # of each, as a frame
        self._size = 0  # of all payloads
        self._first: list[Buffer] = []
        self._payload: list[Buffer] = []
        self._family = IPV4

    def follow(self, chunk: Buffer, start: int, length: int) -> bool:
        """Hold the frame of `length` bytes that begins at `start` of `chunk`, if it continues what is held.

        Its virtio header is then the same as that of the first, which was checked.
        """
        if (
            length != self._length
            or self._size > JOINED_BYTES_MAX - length
            or self.count == JOINED_MAX
            or self._family.key.unpack_from(chunk, start) != self._key
        ):
            return False
        payload = chunk[start + self._family.udp + UDP_BYTES : start + length]
        self._payload.append(payload)
        self._size += len(payload)
        self.count += 1
        return True

    def take(self, parts: list[Buffer], length: int) -> bool:
        """Hold a frame (its virtio header checked), if it continues what is held or nothing is held.

        False: it is no datagram to join, or another flow's: flush, then offer it again or write it.
        """
        head = parts[0]
        if self.count:
            if len(head) <= self._family.udp + UDP_BYTES or not self.follow(head, 0, length):
                return False
        elif self._starts(head, length):
            body = self._family.udp + UDP_BYTES
            self._first, self._length, self.count = parts, length, 1
            self._payload.append(head[body:])
            self._size = len(head) - body
        else:
            return False
        self._payload += parts[1:]
        self._size += length - len(head)
        return True

    def _starts(self, head: Buffer, length: int) -> bool:
        if not IP_OFFSET < length <= DATAGRAM_BYTES_MAX:
            return False
        if not head[0] & _VOUCHED or head[1] != virtio.GSO_NONE:
            return False
        family = family_of(head)
        if family is None or length <= family.udp + UDP_BYTES:
            return False
        if _UINT16.unpack_from(head, family.udp + 4)[0] != length - family.udp:  # Ethernet padding, or a lie
            return False
        if _UINT16.unpack_from(head, family.length)[0] != length - family.counted:
            return False
        self._family = family
        self._key = family.key.unpack_from(head)
        return True

    def flush(self) -> tuple[list[Buffer], int]:
        """What is held as one frame, virtio header first, and its bytes; nothing is held afterwards."""
        first, payload, size, count, length = self._first, self._payload, self._size, self.count, self._length
        self.count = self._size = self._length = 0
        self._payload = []
        if count == 1:
            return first, length
        family = self._family
        body = family.udp + UDP_BYTES
        header = bytearray(first[0][:body])
        total = body + size
        _UINT16.pack_into(header, family.length, total - family.counted)
        _UINT16.pack_into(header, family.udp + 4, total - family.udp)
        # NEEDS_CSUM: the field holds the folded sum of the pseudo-header.
        words = struct.unpack_from(f">{(family.udp - family.addresses) // 2}H", header, family.addresses)
        _UINT16.pack_into(header, family.udp + _UDP_CHECKSUM, _fold(sum(words) + UDP + total - family.udp))
        if family is IPV4:
            _UINT16.pack_into(header, IP_OFFSET + 10, 0)
            words = struct.unpack_from(">10H", header, IP_OFFSET)
            _UINT16.pack_into(header, IP_OFFSET + 10, ~_fold(sum(words)) & 0xFFFF)
        VirtioHeader(
            flags=virtio.F_NEEDS_CSUM,
            gso_type=virtio.GSO_UDP_L4,
            hdr_len=body - virtio.HEADER_BYTES,
            gso_size=size // count,
            csum_start=family.udp - virtio.HEADER_BYTES,
            csum_offset=_UDP_CHECKSUM,
        ).emit_into(header)
        return [header, *payload], total


def _fold(total: int) -> int:
    """One's complement sum in 16 bits (RFC 1071)."""
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total
