"""Rescued super-frames, cut by the real kernel: its segments are those of the frame that never had a hole.

    test -- write --> tap "whole" (TSO, USO) --+-- bridge br0 --+-- tap "cut" (no offloads) -- read --> test

Both TAPs and the bridge live in a namespace of their own. Whatever leaves by "cut" the kernel had to segment
and checksum itself. The whole super-frame goes first; what comes out is the standard for its rescued pieces.
"""

import ctypes
import fcntl
import os
import random
import select
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator

import pytest

from bondvpn.datapath.rescue import rescue

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root and network namespaces"),
]

CLONE_NEWNET = 0x40000000  # linux/sched.h
TUNSETIFF, TUNSETOFFLOAD = 0x400454CA, 0x400454D0  # linux/if_tun.h
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
CHECKSUM_TSO4_TSO6 = 0x07
USO4_USO6 = 0x60  # since Linux 6.2
PSH_FIN_CWR_ACK = 0x99
TCP, UDP = 6, 17
MACS = bytes.fromhex("02000000000a02000000000b")
SEGMENT_BYTES = 1000


def tap(name: str, offloads: int) -> int:
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI | IFF_VNET_HDR))
    fcntl.ioctl(fd, TUNSETOFFLOAD, offloads)
    return fd


def in_namespace(build: Callable[[], None]) -> None:
    """Run `build` in a network namespace of its own, which lives as long as the TAPs opened in it.

    A thread, because the namespace is a property of the thread: the rest of the tests stay where they are.
    """
    failures: list[BaseException] = []

    def run() -> None:
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.unshare(CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "unshare")
            build()
        except BaseException as failure:
            failures.append(failure)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


@pytest.fixture(scope="module")
def wire() -> Iterator[Callable[[bytes], list[bytes]]]:
    fds: list[int] = []

    def build() -> None:
        fds.append(tap("whole", CHECKSUM_TSO4_TSO6 | USO4_USO6))
        fds.append(tap("cut", 0))
        commands = ["link add name br0 type bridge", "link set br0 up"]
        for name in ("whole", "cut"):
            commands += [f"link set {name} master br0", f"link set {name} up"]
        subprocess.run(["ip", "-batch", "-"], input="\n".join(commands), text=True, check=True)

    in_namespace(build)
    whole, cut = fds

    def carry(frame: bytes) -> list[bytes]:
        """What comes out of "cut", virtio header off, for `frame` written into "whole"."""
        assert os.write(whole, frame) == len(frame)
        segments = []
        while select.select([cut], [], [], 0.02)[0]:
            got = os.read(cut, 70_000)
            if got[10:22] == MACS:  # the namespace's own neighbour discovery is not ours
                assert got[:2] == b"\0\0", "the kernel was to finish it"
                segments.append(got[10:])
        return segments

    yield carry
    for fd in fds:
        os.close(fd)


def ones_sum(data: bytes, start: int = 0) -> int:
    total = start + sum(struct.unpack(f">{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def super_frame(version: int, protocol: int, payload: bytes) -> tuple[bytearray, int]:
    """A super-frame and the offset of its payload."""
    l4_bytes = (8 if protocol == UDP else 32) + len(payload)
    if version == 4:
        addresses = bytes((10, 9, 0, 1, 10, 9, 0, 2))
        fields = (0x45, 0, 20 + l4_bytes, 0xFFFD, 0x4000, 64, protocol)
        checksum = ~ones_sum(struct.pack(">BBHHHBBH8s", *fields, 0, addresses)) & 0xFFFF
        ip = b"\x08\0" + struct.pack(">BBHHHBBH8s", *fields, checksum, addresses)
    else:
        addresses = bytes(range(0x20, 0x40))
        ip = b"\x86\xdd" + struct.pack(">IHBB32s", 0x60012345, l4_bytes, protocol, 64, addresses)
    partial = ones_sum(addresses, protocol + l4_bytes)
    if protocol == UDP:
        l4 = struct.pack(">HHHH", 5004, 5005, l4_bytes, partial)
    else:
        fixed = (5004, 5005, 0xFFFFFE00, 7, 0x80, PSH_FIN_CWR_ACK, 500, partial, 0)
        l4 = struct.pack(">HHIIBBHHH", *fixed) + bytes((1, 1, 8, 10)) + b"timestmp"
    kind = 5 if protocol == UDP else {4: 0x81, 6: 0x84}[version]
    headers = MACS + ip + l4
    start, offset = 12 + len(ip), 6 if protocol == UDP else 16
    virtio = struct.pack("<BBHHHH", 1, kind, len(headers), SEGMENT_BYTES, start, offset)
    return bytearray(virtio + headers + payload), 10 + len(headers)


@pytest.mark.parametrize("protocol", [TCP, UDP])
@pytest.mark.parametrize("version", [4, 6])
def test_pieces_become_the_segments_of_the_whole(
    wire: Callable[[bytes], list[bytes]], version: int, protocol: int
) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    for segments in (2, 9, 40):
        payload = chance.randbytes(segments * SEGMENT_BYTES - chance.choice((0, 1, 999)))
        frame, body = super_frame(version, protocol, payload)
        standard = wire(bytes(frame))
        assert len(standard) == segments
        for _ in range(5):
            lost = set(chance.sample(range(segments), chance.randint(1, segments - 1)))
            damaged, holes = bytearray(frame), []
            for number in lost:
                first = body + number * SEGMENT_BYTES
                past = min(first + SEGMENT_BYTES, len(frame))
                start = chance.randrange(first, past)
                end = chance.randint(start + 1, past)
                damaged[start:end] = chance.randbytes(end - start)
                holes.append((start, end))
            arrived = [segment for piece in rescue(damaged, holes) for segment in wire(piece)]
            assert arrived == [one for number, one in enumerate(standard) if number not in lost]
