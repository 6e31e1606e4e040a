"""TAP devices of the real kernel, in a network namespace of the test's own."""

import ctypes
import errno
import os
import select
import socket
import struct
import subprocess
import threading
from collections.abc import Callable
from typing import Any

import pytest

from bondvpn.errors import SystemFault
from bondvpn.linux import tap as tap_module
from bondvpn.linux.tap import Tap
from bondvpn.wire.virtio import F_NEEDS_CSUM, GSO_TCPV4, GSO_UDP_L4, VirtioHeader

CLONE_NEWNET = 0x40000000
VIRTIO = 10
PEER = "10.77.0.2"
PEER_MAC = "02:00:00:00:00:02"
UDP_SEGMENT = 103


@pytest.fixture
def with_tap() -> Callable[[Callable[[Tap], None]], None]:
    """Runs a function with an open, configured TAP in a thread that has a network namespace of its own."""
    if os.geteuid() != 0:
        pytest.skip("needs root and network namespaces")

    def run(test: Callable[[Tap], None]) -> None:
        failures: list[BaseException] = []

        def inside() -> None:
            try:
                assert ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET) == 0
                tap = Tap("bvtap0")
                try:
                    for command in (
                        "address add 10.77.0.1/24 dev bvtap0",
                        "link set bvtap0 addrgenmode none",
                        "link set bvtap0 up",
                        f"neighbor add {PEER} lladdr {PEER_MAC} dev bvtap0",
                    ):
                        subprocess.run(["ip", *command.split()], check=True)
                    test(tap)
                finally:
                    tap.close()
            except BaseException as failure:  # the main thread raises it again
                failures.append(failure)

        thread = threading.Thread(target=inside)
        thread.start()
        thread.join()
        if failures:
            raise failures[0]

    return run


def read(tap: Tap, wanted: Callable[[bytes], bool], pieces: tuple[int, ...] = (65_600,)) -> bytes:
    """The next frame that `wanted` says yes to, scattered over buffers of these sizes."""
    while True:
        assert select.select([tap], [], [], 2.0)[0], "no frame came"
        buffers = [bytearray(size) for size in pieces]
        length = tap.read_into(buffers)
        frame = b"".join(buffers)[:length]
        if wanted(frame):
            return frame


def is_udp(frame: bytes) -> bool:
    return frame[VIRTIO + 12 : VIRTIO + 14] == b"\x08\0" and frame[VIRTIO + 23] == 17


@pytest.mark.netns
def test_a_frame_is_read_with_its_virtio_header(with_tap: Any) -> None:
    def check(tap: Tap) -> None:
        assert not os.get_blocking(tap.fileno())
        assert not os.get_inheritable(tap.fileno())
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"payload", (PEER, 9))
            frame = read(tap, is_udp, (30, 20, 500))
        header = VirtioHeader.parse(frame)
        assert header.flags == F_NEEDS_CSUM
        assert (header.gso_type, header.csum_start, header.csum_offset) == (0, 34, 6)
        assert len(frame) == VIRTIO + 42 + 7
        assert frame.endswith(b"payload")
        assert tap.read_into([bytearray(100)]) == 0

    with_tap(check)


@pytest.mark.netns
def test_a_super_frame_of_udp_is_read_only_if_wanted(with_tap: Any) -> None:
    def check(tap: Tap) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.setsockopt(socket.SOL_UDP, UDP_SEGMENT, 1000)
            if tap.uso:
                sender.sendto(bytes(5000), (PEER, 9))
                frame = read(tap, is_udp)
                header = VirtioHeader.parse(frame)
                assert (header.gso_type, header.gso_size) == (GSO_UDP_L4, 1000)
                assert len(frame) == VIRTIO + 42 + 5000
            tap.emit_uso(False)
            sender.sendto(bytes(5000), (PEER, 9))
            assert [len(read(tap, is_udp)) for _ in range(5)] == [VIRTIO + 42 + 1000] * 5
            tap.emit_uso(True)

    with_tap(check)


def tcp_frame(destination_mac: bytes, payload: bytes, gso_size: int) -> bytes:
    """A super-frame whose checksum is left to the receiving kernel."""
    length = 20 + len(payload)
    ip = bytearray(struct.pack(">BBHHHBBH", 0x45, 0, 20 + length, 1, 0x4000, 64, 6, 0))
    ip += socket.inet_aton(PEER) + socket.inet_aton("10.77.0.1")
    ip[10:12] = struct.pack(">H", ~fold(ip) & 0xFFFF)
    partial = fold(ip[12:20] + struct.pack(">HH", 6, length))
    tcp = struct.pack(">HHIIBBHHH", 4000, 5000, 1, 0, 0x50, 0x10, 500, partial, 0)
    virtio = struct.pack("<BBHHHH", 1, GSO_TCPV4, 54, gso_size, 34, 16)
    return virtio + destination_mac + bytes.fromhex("020000000002") + b"\x08\0" + bytes(ip) + tcp + payload


def fold(data: bytes | bytearray) -> int:
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


@pytest.mark.netns
def test_a_super_frame_is_written_in_one_call_and_the_kernel_takes_it(with_tap: Any) -> None:
    def check(tap: Tap) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP) as listener:
            listener.settimeout(2.0)
            shown = subprocess.run(
                ["ip", "-o", "link", "show", "bvtap0"], check=True, capture_output=True, text=True
            ).stdout
            mac = bytes.fromhex(shown.split("link/ether ")[1][:17].replace(":", ""))
            payload = bytes(range(256)) * 40
            frame = tcp_frame(mac, payload, 1000)
            assert tap.write([frame[:30], memoryview(frame)[30:5000], bytearray(frame[5000:])])
            packet = listener.recv(65_536)
            got = packet[40:]
            while len(got) < len(payload):
                got += listener.recv(65_536)[40:]
            assert got == payload

    with_tap(check)


@pytest.mark.netns
def test_what_the_kernel_refuses_goes_no_further(with_tap: Any) -> None:
    """A header it does not like, a runt, a device that is down: False, and the device is fine."""

    def check(tap: Tap) -> None:
        frame = tcp_frame(bytes(6), bytes(3000), 1000)
        assert not tap.write([struct.pack("<BBHHHH", 1, 0x7F, 54, 1000, 34, 16) + frame[10:]])
        assert not tap.write([struct.pack("<BBHHHH", 1, GSO_TCPV4, 54, 1000, 60_000, 16) + frame[10:]])
        assert not tap.write([bytes(12)])
        assert tap.write([frame])
        subprocess.run(["ip", "link", "set", "bvtap0", "down"], check=True)
        assert not tap.write([frame])
        subprocess.run(["ip", "link", "set", "bvtap0", "up"], check=True)
        assert tap.write([frame])

    with_tap(check)


@pytest.mark.netns
def test_the_device_goes_with_its_descriptor(with_tap: Any) -> None:
    def check(tap: Tap) -> None:
        tap.close()
        tap.close()
        assert (
            subprocess.run(["ip", "link", "show", "bvtap0"], check=False, capture_output=True).returncode != 0
        )

    with_tap(check)


@pytest.mark.netns
def test_a_name_in_use_is_explained(with_tap: Any) -> None:
    def check(tap: Tap) -> None:
        with pytest.raises(SystemFault, match="bvtap0: in use by another process"):
            Tap("bvtap0")
        subprocess.run(["ip", "link", "add", "bveth0", "type", "veth", "peer", "name", "bveth1"], check=True)
        with pytest.raises(SystemFault, match="bveth0: exists and is no TAP device"):
            Tap("bveth0")

    with_tap(check)


@pytest.mark.netns
def test_without_python_pytun_an_ioctl_does(with_tap: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """ARM gateways have no wheel of it."""
    monkeypatch.setitem(__import__("sys").modules, "pytun", None)

    def check(tap: Tap) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"payload", (PEER, 9))
            assert read(tap, is_udp).endswith(b"payload")
        with pytest.raises(SystemFault, match="in use"):
            Tap("bvtap0")

    with_tap(check)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (errno.ENOENT, "/dev/net/tun: No such file or directory; load it with: modprobe tun"),
        (errno.EPERM, "bond0: Operation not permitted; making a TAP device needs root or CAP_NET_ADMIN"),
        (errno.EMFILE, "bond0: Too many open files"),
    ],
)
def test_faults_say_what_to_do(monkeypatch: pytest.MonkeyPatch, error: int, text: str) -> None:
    def refuse(*_: Any) -> int:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(tap_module, "_open", refuse)
    with pytest.raises(SystemFault) as fault:
        Tap("bond0")
    assert str(fault.value) == text
