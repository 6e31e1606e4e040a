"""virtio header: what the kernel may be handed, by hand-written headers and by mutation."""

import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bondvpn.wire import virtio
from bondvpn.wire.virtio import VirtioHeader, check

MAX_FRAME = 65_536 + 14 + 10


def ethernet(ethertype: int, vlan: bool) -> bytes:
    tag = b"\x81\x00\x00\x07" if vlan else b""
    return bytes(range(12)) + tag + struct.pack(">H", ethertype)


def ipv4(protocol: int, payload: int, options: int = 0, fragment: int = 0x4000) -> bytes:
    total = 20 + options + payload
    first = 0x45 + options // 4
    fields = (first, 0, total & 0xFFFF, 1, fragment, 64, protocol, 0, b"\x0a\0\0\1", b"\x0a\0\0\2")
    return struct.pack(">BBHHHBBH4s4s", *fields) + b"\1" * options


def ipv6(protocol: int, payload: int, extensions: tuple[int, ...] = ()) -> bytes:
    """`extensions`: next-header values; each extension header is 16 bytes."""
    chain = [*extensions, protocol]
    body = b"".join(bytes((following, 1)) + bytes(14) for following in chain[1:])
    fixed = struct.pack(
        ">IHBB16s16s", 0x60000000, (payload + len(body)) & 0xFFFF, chain[0], 64, b"a" * 16, b"b" * 16
    )
    return fixed + body


def tcp(options: int = 12) -> bytes:
    return struct.pack(">HHIIBBHHH", 1, 2, 3, 4, (20 + options) << 2, 0x18, 500, 0, 0) + b"\1" * options


UDP = struct.pack(">HHHH", 5, 6, 8, 0)


def super_frame(
    gso_type: int, headers: bytes, l4: int, payload: int, gso_size: int, csum_offset: int
) -> bytearray:
    header = struct.pack("<BBHHHH", 1, gso_type, len(headers), gso_size, l4, csum_offset)
    return bytearray(header + headers + bytes(payload))


def tso4(payload: int = 10_000, vlan: bool = False, options: int = 0, ecn: int = 0) -> bytearray:
    lower = ethernet(0x0800, vlan) + ipv4(6, 32 + payload, options)
    return super_frame(1 | ecn, lower + tcp(), len(lower), payload, 1448, 16)


def tso6(payload: int = 10_000, vlan: bool = False, extensions: tuple[int, ...] = ()) -> bytearray:
    lower = ethernet(0x86DD, vlan) + ipv6(6, 32 + payload, extensions)
    return super_frame(4, lower + tcp(), len(lower), payload, 1428, 16)


def uso(payload: int = 10_000, six: bool = False, gso_size: int = 1200) -> bytearray:
    lower = (
        ethernet(0x86DD, False) + ipv6(17, payload)
        if six
        else ethernet(0x0800, False) + ipv4(17, 8 + payload)
    )
    return super_frame(5, lower + UDP, len(lower), payload, gso_size, 6)


def accepted(frame: bytearray, uso: bool = True, max_frame: int = MAX_FRAME) -> bool:
    return check(frame, len(frame), max_frame=max_frame, uso=uso)


GOOD = {
    "tso4": tso4(),
    "tso4 largest": tso4(65_535 - 52),
    "tso4 ecn": tso4(ecn=0x80),
    "tso4 vlan": tso4(vlan=True),
    "tso4 options": tso4(options=40),
    "tso4 vlan and options": tso4(vlan=True, options=12),
    "tso6": tso6(),
    "tso6 vlan": tso6(vlan=True),
    "tso6 extensions": tso6(extensions=(0, 60)),
    "uso4": uso(),
    "uso6": uso(six=True),
    "uso small": uso(payload=1000, gso_size=10),
}


def test_bytes_of_the_header() -> None:
    literal = bytes.fromhex("0181 4200 a805 2200 1000".replace(" ", ""))
    header = VirtioHeader.parse(literal)
    assert header == (virtio.F_NEEDS_CSUM, virtio.GSO_TCPV4 | virtio.GSO_ECN, 66, 1448, 34, 16)
    frame = bytearray(12)
    header.emit_into(frame)
    assert frame == literal + b"\0\0"


@pytest.mark.parametrize("name", GOOD)
def test_accepts_what_kernels_emit(name: str) -> None:
    frame = GOOD[name]
    assert accepted(frame)
    assert check(memoryview(frame)[:116], len(frame), max_frame=MAX_FRAME, uso=True)
    assert check(bytes(frame), len(frame), max_frame=len(frame), uso=True)
    assert not check(frame, len(frame), max_frame=len(frame) - 1, uso=True)


def test_accepts_frames_without_offload() -> None:
    for flags in (0, virtio.F_DATA_VALID):
        assert accepted(bytearray(bytes((flags,)) + bytes(9 + 14)))
    assert not accepted(bytearray(10 + 13))
    assert not accepted(bytearray(b"\0\0\x0f\0" + bytes(6 + 14)))  # hdr_len past the frame


@pytest.mark.parametrize("flags", [1, 3])
def test_plain_checksum_bounds(flags: int) -> None:
    def frame(csum_start: int, csum_offset: int) -> bytearray:
        return bytearray(struct.pack("<BBHHHH", flags, 0, 0, 0, csum_start, csum_offset) + bytes(60))

    assert accepted(frame(34, 16))
    assert accepted(frame(14, 44))
    assert accepted(frame(58, 0))
    assert not accepted(frame(13, 16))
    assert not accepted(frame(14, 45))
    assert not accepted(frame(65_535, 65_535))


def with_header(frame: bytearray, **fields: int) -> bytearray:
    changed = bytearray(frame)
    VirtioHeader.parse(frame)._replace(**fields).emit_into(changed)
    return changed


@pytest.mark.parametrize("name", GOOD)
def test_refuses_each_wrong_field(name: str) -> None:
    frame = GOOD[name]
    header = VirtioHeader.parse(frame)
    wrong: list[dict[str, int]] = [
        {"flags": 0},
        {"flags": 2},
        {"flags": 5},
        {"flags": 0x81},
        {"gso_type": 3},
        {"gso_type": 2},
        {"gso_type": 0x80},
        {"gso_type": 0x85},
        {"gso_type": 0x20 | header.gso_type},
        {"gso_size": 0},
        {"gso_size": 7},
        {"csum_start": header.csum_start + 4},
        {"csum_start": header.csum_start - 4},
        {"csum_start": 13},
        {"csum_start": 60_000},
        {"csum_offset": 10},
        {"csum_offset": 65_535},
    ]
    wrong += [{"gso_type": other} for other in (1, 4, 5) if other != header.gso_type & 0x7F]
    if len(frame) - 9 <= 0xFFFF:
        wrong.append({"hdr_len": len(frame) - 9})
    for fields in wrong:
        assert not accepted(with_header(frame, **fields)), fields


def test_refuses_what_lies_below_the_header() -> None:
    frame = tso4()
    for at, value in (
        (22, 0x86),
        (24, 0x46),
        (24, 0x65),
        (30, 0x20),
        (31, 0x01),
        (33, 17),
        (56, 0x40),
        (56, 0x00),
    ):
        bad = bytearray(frame)
        bad[at] = value
        assert not accepted(bad), (at, value)
    for at, value in ((23, 0xDE), (24, 0x40), (30, 17), (30, 44), (76, 0x4F)):
        bad = tso6()
        bad[at] = value
        assert not accepted(bad), (at, value)
    assert accepted(tso4(options=4))
    fragment = tso4(options=4)
    fragment[31] = 1
    assert not accepted(fragment)
    assert not accepted(tso6(extensions=(44,)))


def test_tcp_header_must_fit() -> None:
    frame = tso4(payload=0)
    assert accepted(frame)
    frame[56] = 0xF0
    assert not accepted(frame)
    assert not accepted(tso4(payload=0, options=4)[:-1])


def test_segment_bounds() -> None:
    assert accepted(with_header(tso4(), gso_size=48))
    assert not accepted(with_header(tso4(), gso_size=47))
    assert accepted(uso(payload=128 * 100, gso_size=100))
    assert not accepted(uso(payload=128 * 100 + 1, gso_size=100))
    assert not accepted(uso(payload=0))


def test_uso_only_where_allowed() -> None:
    assert not accepted(uso(), uso=False)
    assert not accepted(uso(six=True), uso=False)
    assert accepted(tso4(), uso=False)


def test_head_shorter_than_its_headers_is_refused() -> None:
    for name, frame in GOOD.items():
        l4 = 10 + VirtioHeader.parse(frame).csum_start
        assert not check(memoryview(frame)[: l4 - 1], len(frame), max_frame=MAX_FRAME, uso=True), name


@example(b"\1\4" + b"\0\0\x30\0\x4e\0\x10\0" + bytes(12) + b"\x86\xdd\x60" + bytes(100), 30_000, True)
@given(st.binary(min_size=10, max_size=140), st.integers(0, 70_000), st.booleans())
def test_never_raises_on_noise(head: bytes, extra: int, allow_uso: bool) -> None:
    check(head, len(head) + extra, max_frame=MAX_FRAME, uso=allow_uso)


@given(
    st.sampled_from(sorted(GOOD)),
    st.lists(st.tuples(st.integers(0, 99), st.integers(0, 255)), max_size=3),
    st.integers(0, 140),
)
def test_accepted_frames_keep_their_bounds(name: str, changes: list[tuple[int, int]], tail: int) -> None:
    """Whatever was changed, an accepted frame satisfies the kernel's bounds, stated anew and plainly."""
    frame = bytearray(GOOD[name][: 10 + 14 + tail] if tail < 100 else GOOD[name])
    for at, value in changes:
        if at < len(frame):
            frame[at] = value
    if not accepted(frame):
        return
    flags, gso_type, hdr_len, gso_size, start, offset = VirtioHeader.parse(frame)
    room = len(frame) - 10
    assert hdr_len <= room
    assert flags in (0, 1, 2, 3)
    if flags & 1:
        assert start >= 14
        assert start + offset + 2 <= room
    if gso_type:
        assert flags & 1
        assert gso_type in (1, 4, 5, 0x81, 0x84)
        assert gso_size > 0
        udp = gso_type == 5
        assert offset == (6 if udp else 16)
        ip = 24 if frame[22:24] != b"\x81\x00" else 28
        version = {1: 4, 4: 6}.get(gso_type & 0x7F, frame[ip] >> 4)
        assert frame[ip] >> 4 == version
        assert frame[ip - 2 : ip] == (b"\x08\x00" if version == 4 else b"\x86\xdd")
        if version == 4:
            assert ip + (frame[ip] & 15) * 4 == 10 + start
            assert frame[ip + 9] == (17 if udp else 6)
