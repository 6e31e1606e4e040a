"""Rescue: every segment that no hole touches arrives as if the kernel had sent it alone, and none other does.

Two independent roads to the same bytes. `true_segments` writes each segment of a flow from nothing, checksums
and all. `kernel_segments` does to a (rescued) super-frame what the receiving kernel does, from its virtio
header and partial checksum. The real kernel is asked in netns-tests/test_rescue.py.
"""

import struct
from dataclasses import dataclass

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bondvpn.datapath.rescue import rescue

FIN, PSH, ACK, ECE, CWR = 0x01, 0x08, 0x10, 0x40, 0x80
SOURCE, TARGET = {4: b"\x0a\0\0\1", 6: bytes(range(1, 17))}, {4: b"\xc6\x33\x64\x02", 6: bytes(range(33, 49))}


def ones_sum(data: bytes, start: int = 0) -> int:
    total = start + sum(struct.unpack(f">{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


@dataclass(frozen=True)
class Flow:
    """A super-frame to be, or any stretch of its segments."""

    payload: bytes
    gso_size: int
    version: int = 4
    udp: bool = False
    vlan: bool = False
    ip_options: int = 0
    tcp_options: int = 12
    flags: int = ACK | PSH
    sequence: int = 0xFFFFF000
    identification: int = 0xFFFE

    def _ip(self, body: int, identification: int) -> bytes:
        protocol = 17 if self.udp else 6
        source, target = SOURCE[self.version], TARGET[self.version]
        if self.version == 6:
            return struct.pack(">IHBB16s16s", 0x6ABCDEF0, body, protocol, 61, source, target)
        options = b"\1" * self.ip_options
        first = 0x45 + self.ip_options // 4
        fields = (first, 2, 20 + len(options) + body, identification, 0x4000, 61, protocol)
        partial = struct.pack(">BBHHHBBH4s4s", *fields, 0, source, target) + options
        return struct.pack(">BBHHHBBH4s4s", *fields, ~ones_sum(partial) & 0xFFFF, source, target) + options

    def ethernet(self) -> bytes:
        tag = b"\x81\x00\x00\x09" if self.vlan else b""
        return bytes(range(12)) + tag + (b"\x08\x00" if self.version == 4 else b"\x86\xdd")

    def packet(self, first: int, past: int, *, finished: bool) -> bytes:
        """Ethernet frame of segments [first, past); `finished`: checksum computed, else its partial sum."""
        payload = self.payload[first * self.gso_size : past * self.gso_size]
        flags = self.flags if past * self.gso_size >= len(self.payload) else self.flags & ~(FIN | PSH)
        flags = flags if first == 0 else flags & ~CWR
        sequence = (self.sequence + first * self.gso_size) & 0xFFFFFFFF

        def l4(checksum: int) -> bytes:
            if self.udp:
                return struct.pack(">HHHH", 5004, 443, 8 + len(payload), checksum)
            fixed = (5001, 443, sequence, 99, (20 + self.tcp_options) << 2, flags, 501, checksum, 0)
            return struct.pack(">HHIIBBHHH", *fixed) + b"\1" * self.tcp_options

        length = len(l4(0)) + len(payload)
        addresses = SOURCE[self.version] + TARGET[self.version]
        partial = ones_sum(addresses, (17 if self.udp else 6) + length)
        checksum = partial
        if finished:
            checksum = ~ones_sum(l4(0) + payload, partial) & 0xFFFF
            checksum = checksum or (0xFFFF if self.udp else 0)
        identification = (self.identification + first) & 0xFFFF
        return self.ethernet() + self._ip(length, identification) + l4(checksum) + payload

    @property
    def segments(self) -> int:
        return -(-len(self.payload) // self.gso_size)

    @property
    def body(self) -> int:
        """Offset of the first payload byte, virtio header included."""
        return 10 + len(self.packet(0, self.segments, finished=False)) - len(self.payload)

    def super_frame(self) -> bytearray:
        kind = 5 if self.udp else {4: 1, 6: 4}[self.version] | (0x80 if self.flags & CWR else 0)
        packet = self.packet(0, self.segments, finished=False)
        start = len(self.ethernet()) + (20 + self.ip_options if self.version == 4 else 40)
        hdr_len = len(packet) & 0xFFFF  # as from a kernel whose skb is linear: more than the headers
        offset = 6 if self.udp else 16
        return bytearray(struct.pack("<BBHHHH", 1, kind, hdr_len, self.gso_size, start, offset) + packet)


def kernel_segments(frame: bytes) -> list[bytes]:
    """Finished Ethernet frames that the kernel makes of `frame`."""
    flags, kind, hdr_len, gso_size, start, offset = struct.unpack_from("<BBHHHH", frame)
    packet = frame[10:]
    assert flags == 1
    assert hdr_len <= len(packet)
    udp = offset == 6
    body = start + (8 if udp else packet[start + 12] >> 4 << 2)
    assert bool(kind) == bool(gso_size) == (bool(gso_size) and len(packet) - body > gso_size)
    assert bool(kind & 0x80) == (kind != 0 and not udp and bool(packet[start + 13] & CWR))
    ip = 18 if packet[12:14] == b"\x81\x00" else 14
    step = gso_size or len(packet)
    made = []
    for number, at in enumerate(range(body, len(packet), step)):
        one = bytearray(packet[:body] + packet[at : at + step])
        if udp:
            assert struct.unpack_from(">H", packet, start + 4)[0] == len(packet) - start
            struct.pack_into(">H", one, start + 4, len(one) - start)
        else:
            (sequence,) = struct.unpack_from(">I", one, start + 4)
            struct.pack_into(">I", one, start + 4, (sequence + at - body) & 0xFFFFFFFF)
            if at + step < len(packet):
                one[start + 13] &= ~(FIN | PSH) & 0xFF
            if number:
                one[start + 13] &= ~CWR & 0xFF
        if packet[ip] >> 4 == 4:
            (identification,) = struct.unpack_from(">H", one, ip + 4)
            fields = (len(one) - ip, (identification + number) & 0xFFFF)
            assert ones_sum(packet[ip:start]) == 0xFFFF
            struct.pack_into(">HH", one, ip + 2, *fields)
            struct.pack_into(">H", one, ip + 10, 0)
            struct.pack_into(">H", one, ip + 10, ~ones_sum(one[ip:start]) & 0xFFFF)
            assert struct.unpack_from(">H", packet, ip + 2)[0] == len(packet) - ip
        else:
            assert struct.unpack_from(">H", packet, ip + 4)[0] == len(packet) - start
            struct.pack_into(">H", one, ip + 4, len(one) - start)
        (partial,) = struct.unpack_from(">H", packet, start + offset)
        partial = ones_sum(b"", partial + (0xFFFF - (len(packet) - start)) + len(one) - start)
        struct.pack_into(">H", one, start + offset, partial)
        checksum = ~ones_sum(one[start:]) & 0xFFFF
        struct.pack_into(">H", one, start + offset, checksum or (0xFFFF if udp else 0))
        made.append(bytes(one))
    return made


def true_segments(flow: Flow) -> list[bytes]:
    return [flow.packet(number, number + 1, finished=True) for number in range(flow.segments)]


def pattern(length: int) -> bytes:
    return bytes(at * 31 + (at >> 8) * 7 & 0xFF for at in range(length))


flows = st.builds(
    Flow,
    payload=st.integers(1, 9000).map(pattern),
    gso_size=st.integers(90, 3000),
    version=st.sampled_from([4, 6]),
    udp=st.booleans(),
    vlan=st.booleans(),
    ip_options=st.sampled_from([0, 4, 40]),
    tcp_options=st.sampled_from([0, 12, 40]),
    flags=st.sampled_from([ACK, ACK | PSH, ACK | FIN | PSH, ACK | CWR | PSH, ACK | CWR | ECE | FIN]),
    sequence=st.integers(0, 0xFFFFFFFF),
    identification=st.integers(0, 0xFFFF),
)
cuts = st.lists(st.tuples(st.integers(0, 9200), st.integers(0, 3000)), max_size=5)


@example(Flow(pattern(5 * 1448), 1448, flags=ACK | PSH | FIN | CWR), [(1448 * 2 + 5, 1)])
@example(Flow(pattern(5 * 1448), 1448), [(1448, 1448), (3 * 1448, 1448)])
@example(Flow(pattern(4 * 1200 + 1), 1200, version=6, udp=True), [(0, 1)])
@settings(deadline=None)
@given(flows, cuts)
def test_what_is_whole_arrives_and_nothing_else(flow: Flow, places: list[tuple[int, int]]) -> None:
    """`places`: holes as (offset in the payload, length)."""
    frame = flow.super_frame()
    holes = [(flow.body + at, flow.body + at + length) for at, length in places]
    touched = set()
    for start, end in holes:
        for at in range(start, min(end, len(frame))):
            frame[at] = 0xEE
            touched.add((at - flow.body) // flow.gso_size)
    expected = [one for number, one in enumerate(true_segments(flow)) if number not in touched]
    pieces = rescue(frame, holes)
    assert [one for piece in pieces for one in kernel_segments(piece)] == expected
    runs = sum(number not in touched and (number + 1 in touched or number + 1 == flow.segments)
               for number in range(flow.segments))  # fmt: skip
    assert len(pieces) == runs


@settings(deadline=None)
@given(flows)
def test_without_holes_the_whole_frame_survives(flow: Flow) -> None:
    frame = flow.super_frame()
    (piece,) = rescue(frame, [])
    assert piece[10:] == frame[10:]
    assert rescue(frame, [(50, 50), (len(frame), len(frame) + 9)]) == [piece]


@settings(deadline=None)
@given(flows)
def test_a_hole_in_the_headers_loses_all(flow: Flow) -> None:
    frame = flow.super_frame()
    for start, end in ((0, 1), (9, 11), (flow.body - 1, flow.body), (flow.body - 1, len(frame)), (-5, 2)):
        assert rescue(frame, [(start, end)]) == []
    assert rescue(frame, [(flow.body, len(frame))]) == []


def test_frames_that_cannot_be_cut() -> None:
    good = Flow(pattern(9000), 1448)
    frame, hole = good.super_frame(), [(5000, 5001)]
    assert len(rescue(frame, hole)) == 2
    plain = bytearray(frame)
    plain[1:2], plain[4:6] = b"\0", b"\0\0"
    assert rescue(plain, hole) == []
    assert rescue(bytearray(len(frame)), hole) == []
    assert rescue(bytearray(), []) == []
    assert rescue(frame[:-1], hole) == []  # shorter than its IP header says
    assert rescue(frame + b"\0", hole) == []
    for unsafe in (0, 1, 6, 8, 24, 33):
        broken = bytearray(frame)
        broken[unsafe] ^= 0xFF
        assert rescue(broken, hole) == [], unsafe
    for version in (4, 6):
        datagrams = Flow(pattern(9000), 1448, version=version, udp=True)
        assert len(rescue(datagrams.super_frame(), hole)) == 2
        broken = datagrams.super_frame()
        broken[datagrams.body - 3] ^= 1
        assert rescue(broken, hole) == []
    broken = Flow(pattern(9000), 1448, version=6).super_frame()
    broken[29] ^= 1
    assert rescue(broken, hole) == []


@pytest.mark.parametrize("version", [4, 6])
def test_extension_headers_and_options_keep_their_place(version: int) -> None:
    """hop-by-hop options before TCP: the IPv6 length counts them, the pseudo-header does not."""
    flow = Flow(pattern(3000), 1000, version=version, ip_options=8)
    frame = flow.super_frame()
    if version == 6:
        frame[24 + 4 : 24 + 7] = struct.pack(">HB", 3032 + 8, 0)
        frame[64:64] = b"\x06\0\1\4\0\0\0\0"
        struct.pack_into("<H", frame, 6, 14 + 48)
    body = flow.body + (8 if version == 6 else 0)
    (first, last) = rescue(frame, [(body + 1500, body + 1501)])
    assert first[body:] == flow.payload[:1000]
    assert last[body:] == flow.payload[2000:]
    for piece in (first, last):
        l4 = body - 32
        addresses = SOURCE[version] + TARGET[version]
        assert struct.unpack_from(">H", piece, l4 + 16)[0] == ones_sum(addresses, 6 + len(piece) - l4)


@settings(deadline=None)
@given(
    st.sampled_from([4, 6]),
    st.booleans(),
    st.lists(st.tuples(st.integers(0, 90), st.integers(0, 255)), max_size=4),
)
def test_damage_never_raises(version: int, udp: bool, changes: list[tuple[int, int]]) -> None:
    frame = Flow(pattern(4000), 1000, version=version, udp=udp).super_frame()
    for at, value in changes:
        frame[at] = value
    for piece in rescue(frame, [(2000, 2100)]):
        assert len(piece) < len(frame)
