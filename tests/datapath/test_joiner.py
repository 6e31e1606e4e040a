"""Joined datagrams, cut again as the kernel does it, are the datagrams that went in."""

import struct
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bondvpn.datapath.joiner import JOINED_MAX, Joiner
from bondvpn.wire import virtio

VIRTIO = 10
ETHERNET = 14


def _sum16(data: bytes) -> int:
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def datagram(
    flow: int,
    payload: bytes,
    *,
    ipv6: bool = False,
    flags: int = virtio.F_NEEDS_CSUM,
    number: int = 0,
    fragment: int = 0x4000,
    protocol: int = 17,
    version: int = 0x45,
    padding: bytes = b"",
) -> bytes:
    length = 8 + len(payload)
    udp = struct.pack(">HHHH", 4000 + flow, 443, length, 0x1234) + payload
    if ipv6:
        address = bytes(15) + bytes([flow + 1])
        packet = struct.pack(">IHBB", 0x60000000, length, protocol, 64) + address * 2 + udp
    else:
        head = struct.pack(">BBHHHBBH", version, 0, 20 + length, number, fragment, 64, protocol, 0)
        head += bytes([10, 0, 0, flow]) * 2
        packet = head[:10] + struct.pack(">H", ~_sum16(head) & 0xFFFF) + head[12:] + udp
    kind = b"\x86\xdd" if ipv6 else b"\x08\x00"
    header = struct.pack(
        "<BBHHHH", flags, 0, 0, 0, (54 if ipv6 else 34) if flags & 1 else 0, 6 if flags & 1 else 0
    )
    return header + b"\2" * 12 + kind + packet + padding


def cut(frame: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(addresses and ports, payload) of each datagram, as `__udp_gso_segment` cuts a super-frame."""
    flags, gso_type, hdr_len, gso_size, csum_start, csum_offset = struct.unpack_from("<BBHHHH", frame)
    ip = VIRTIO + ETHERNET
    ipv6 = frame[ip] >> 4 == 6
    udp = ip + (40 if ipv6 else 20)
    addresses = frame[ip + 8 : udp] if ipv6 else frame[ip + 12 : udp]
    flow = addresses + frame[udp : udp + 4]
    payload = frame[udp + 8 :]
    if gso_type == virtio.GSO_NONE:
        yield flow, payload
        return
    assert virtio.check(frame, len(frame), max_frame=65_535, uso=True)
    assert (flags, gso_type, csum_start, csum_offset) == (1, virtio.GSO_UDP_L4, udp - VIRTIO, 6)
    assert hdr_len == udp + 8 - VIRTIO
    assert struct.unpack_from(">H", frame, udp + 4)[0] == 8 + len(payload)
    if ipv6:
        assert struct.unpack_from(">H", frame, ip + 4)[0] == len(frame) - udp
    else:
        assert struct.unpack_from(">H", frame, ip + 2)[0] == len(frame) - ip
        assert _sum16(frame[ip:udp]) == 0xFFFF
    pseudo = addresses + struct.pack(">HH", 17, len(frame) - udp)
    assert struct.unpack_from(">H", frame, udp + 6)[0] == _sum16(pseudo)
    for start in range(0, len(payload), gso_size):
        yield flow, payload[start : start + gso_size]


def through(frames: list[bytes], split_at: int = 0) -> list[bytes]:
    """What is written when `frames` are delivered in one wake-up, each in one part or two."""
    joiner = Joiner()
    written: list[bytes] = []

    def flush() -> None:
        if joiner.count:
            parts, length = joiner.flush()
            written.append(b"".join(parts))
            assert len(written[-1]) == length

    for frame in frames:
        view = memoryview(frame)
        parts = [view[:split_at], view[split_at:]] if 62 <= split_at < len(frame) else [view]
        if joiner.take(list(parts), len(frame)):
            continue
        flush()
        if not joiner.take(list(parts), len(frame)):
            written.append(frame)
    flush()
    return written


FRAMES = st.lists(
    st.builds(
        datagram,
        st.integers(0, 2),
        st.sampled_from([200, 200, 200, 1300, 1301, 1]).map(lambda n: bytes(i * 7 & 0xFF for i in range(n))),
        ipv6=st.booleans(),
        flags=st.sampled_from([1, 1, 1, 2, 0]),
        number=st.integers(0, 0xFFFF),
    ),
    max_size=150,
)


@settings(deadline=None, derandomize=True)
@given(FRAMES, st.sampled_from([0, 62, 100]))
def test_what_the_kernel_cuts_is_what_went_in(frames: list[bytes], split_at: int) -> None:
    delivered = [one for frame in through(frames, split_at) for one in cut(frame)]
    assert delivered == [one for frame in frames for one in cut(frame)]


@pytest.mark.parametrize("ipv6", [False, True])
def test_a_run_of_one_flow_becomes_one_frame(ipv6: bool) -> None:
    frames = [datagram(1, bytes([n]) * 200, ipv6=ipv6, number=n) for n in range(40)]
    (frame,) = through(frames)
    assert [payload[0] for _, payload in cut(frame)] == list(range(40))


def test_a_run_is_bounded_in_datagrams_and_bytes() -> None:
    assert len(through([datagram(1, bytes(20))] * (JOINED_MAX + 1))) == 2
    assert max(map(len, through([datagram(1, bytes(1500))] * 60))) <= 65_000


def test_one_alone_is_written_as_it_came() -> None:
    frame = datagram(1, b"alone" * 20)
    assert through([frame]) == [frame]


@pytest.mark.parametrize(
    "other",
    [
        datagram(2, bytes(200)),
        datagram(1, bytes(201)),
        datagram(1, bytes(200), flags=2),
        datagram(1, bytes(200), flags=0),
        datagram(1, bytes(200), fragment=0x2000),
        datagram(1, bytes(200), fragment=0x0010),
        datagram(1, bytes(200), protocol=6),
        datagram(1, bytes(200), version=0x46),
        datagram(1, bytes(200), ipv6=True),
        datagram(1, bytes(196), padding=bytes(4)),
    ],
)
def test_what_differs_is_not_joined(other: bytes) -> None:
    frame = datagram(1, bytes(200))
    assert through([frame, other, frame]) == [frame, other, frame]


@pytest.mark.parametrize(
    "frame",
    [
        datagram(1, bytes(200), flags=0),
        datagram(1, bytes(200), fragment=0x2000),
        datagram(1, bytes(200), protocol=6),
        datagram(1, bytes(200), version=0x46),
        datagram(1, bytes(196), padding=bytes(4)),
        datagram(1, bytes(1600)),
    ],
)
def test_what_may_not_be_joined_is_not_held(frame: bytes) -> None:
    assert through([frame, frame]) == [frame, frame]
