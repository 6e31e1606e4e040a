"""UDP sockets on the real kernel's loopback; those that need addresses, MTUs and routes of their own take a
network namespace each, which ends with the test's thread."""

import ctypes
import errno
import os
import select
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from bondvpn.errors import SystemFault
from bondvpn.linux import udp
from bondvpn.linux.udp import WAITED_MAX_S, Received, Sent, UdpSocket

CLONE_NEWNET = 0x40000000
SEGMENT = 1200


@pytest.fixture
def in_namespace() -> Callable[[Callable[[], None], str], None]:
    """Runs a function in a thread that has a network namespace of its own, after some `ip` commands."""
    if os.geteuid() != 0:
        pytest.skip("needs root and network namespaces")

    def run(test: Callable[[], None], commands: str) -> None:
        failures: list[BaseException] = []

        def inside() -> None:
            try:
                assert ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET) == 0
                for line in commands.splitlines():
                    if line.strip():
                        subprocess.run(["ip", *line.split()], check=True)
                test()
            except BaseException as failure:  # the main thread raises it again
                failures.append(failure)

        thread = threading.Thread(target=inside)
        thread.start()
        thread.join()
        if failures:
            raise failures[0]

    return run


@pytest.fixture(params=[False, True], ids=["ipv4", "ipv6"])
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[UdpSocket, UdpSocket]]:
    """Two sockets on loopback."""
    host = "::1" if request.param else "127.0.0.1"
    sockets = [UdpSocket((host, 0), ipv6=request.param) for _ in range(2)]
    yield sockets[0], sockets[1]
    for one in sockets:
        one.close()


def receive(sock: UdpSocket, timeout_s: float = 2.0) -> tuple[Received, bytes]:
    assert select.select([sock], [], [], timeout_s)[0], "nothing came"
    buffer = bytearray(65_536)
    received = sock.receive_into([buffer])
    assert received is not None
    return received, bytes(buffer[: received.length])


def receive_all(sock: UdpSocket, length: int) -> list[bytes]:
    """Datagrams until `length` bytes came."""
    datagrams: list[bytes] = []
    while sum(map(len, datagrams)) < length:
        received, data = receive(sock)
        datagrams += [data[at : at + received.segment] for at in range(0, len(data), received.segment)]
    return datagrams


def run_of(count: int, last: int = SEGMENT) -> bytes:
    return b"".join(bytes((i + 1,)) * (last if i == count - 1 else SEGMENT) for i in range(count))


def split(run: bytes) -> list[bytes]:
    return [run[at : at + SEGMENT] for at in range(0, len(run), SEGMENT)]


def test_one_datagram_goes_there_and_back(pair: tuple[UdpSocket, UdpSocket]) -> None:
    one, other = pair
    assert one.send(b"there", other.address) is Sent.OK
    received, data = receive(other)
    assert (data, received.segment, received.address, received.local) == (b"there", 5, one.address, b"")
    assert other.send(b"back", received.address) is Sent.OK
    assert receive(one)[1] == b"back"
    assert one.receive_into([bytearray(65_536)]) is None


def test_what_a_datagram_waited_for_us_is_told(pair: tuple[UdpSocket, UdpSocket]) -> None:
    """The kernel begins to stamp a moment after it is asked to: the first ones may tell of no wait."""
    one, other = pair
    waits = []
    while len(waits) < 20 and not any(waited_s > 0.05 for waited_s in waits):
        one.send(b"late", other.address)
        time.sleep(0.06)  # the reader is late
        waits.append(receive(other)[0].waited_s)
    assert 0.05 < waits[-1] < WAITED_MAX_S


@pytest.mark.parametrize(("count", "last"), [(2, SEGMENT), (10, 17), (54, SEGMENT), (120, 500)])
def test_a_run_arrives_as_its_datagrams(pair: tuple[UdpSocket, UdpSocket], count: int, last: int) -> None:
    one, other = pair
    run = run_of(count, last)
    assert one.send_run(memoryview(run), SEGMENT, other.address) == (Sent.OK, len(run))
    assert receive_all(other, len(run)) == split(run)
    assert one.gso
    assert one.gso_fallbacks == 0


def test_a_run_is_received_as_a_run(pair: tuple[UdpSocket, UdpSocket]) -> None:
    one, other = pair
    run = run_of(10, 99)
    one.send_run(memoryview(run), SEGMENT, other.address)
    received, data = receive(other)
    assert (received.length, received.segment, data) == (len(run), SEGMENT, run)


@pytest.mark.parametrize("refusal", [errno.EIO, errno.EINVAL])
def test_a_kernel_that_refuses_gso_gets_plain_datagrams(
    pair: tuple[UdpSocket, UdpSocket], refusal: int
) -> None:
    """From the batch on that it refused, which is sent whole; and the socket remembers."""
    one, other = pair
    real = one._socket
    calls: list[bool] = []

    class Refusing:
        def sendmsg(self, buffers: Any, ancillary: Any, *rest: Any) -> int:
            calls.append(bool(ancillary))
            if ancillary:
                raise OSError(refusal, os.strerror(refusal))
            return real.sendmsg(buffers, ancillary, *rest)

        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

    one._socket = Refusing()  # type: ignore[assignment]
    run = run_of(5, 100)
    assert one.send_run(memoryview(run), SEGMENT, other.address) == (Sent.OK, len(run))
    assert receive_all(other, len(run)) == split(run)
    assert (one.gso, one.gso_fallbacks) == (False, 1)
    assert calls == [True] + [False] * 5
    assert one.send_run(memoryview(run), SEGMENT, other.address) == (Sent.OK, len(run))
    assert calls[6:] == [False] * 5
    assert one.gso_fallbacks == 1


def test_an_error_that_is_not_of_gso_does_not_switch_it_off(pair: tuple[UdpSocket, UdpSocket]) -> None:
    """EINVAL may also mean that the source address is gone: then plain datagrams fail as well."""
    one, other = pair
    real = one._socket

    class Refusing:
        def sendmsg(self, *_: Any) -> int:
            raise OSError(errno.EINVAL, "Invalid argument")

        close = real.close

    one._socket = Refusing()  # type: ignore[assignment]
    assert one.send_run(memoryview(run_of(5)), SEGMENT, other.address) == (Sent.DOWN, 0)
    assert one.gso
    assert one.last_error == "Invalid argument"


@pytest.mark.parametrize("taken", [0, 1])
def test_a_full_buffer_says_how_much_was_taken(pair: tuple[UdpSocket, UdpSocket], taken: int) -> None:
    one, other = pair
    real = one._socket
    left = [taken]

    class Full:
        def sendmsg(self, *arguments: Any) -> int:
            if not left[0]:
                raise BlockingIOError
            left[0] -= 1
            return real.sendmsg(*arguments)

        close = real.close

    one._socket = Full()  # type: ignore[assignment]
    run = run_of(60)
    assert one.send_run(memoryview(run), SEGMENT, other.address) == (Sent.BLOCKED, 54 * SEGMENT * taken)
    one.gso, left[0] = False, taken
    assert one.send_run(memoryview(run), SEGMENT, other.address) == (Sent.BLOCKED, SEGMENT * taken)


@pytest.mark.parametrize(
    ("error", "sent"),
    [
        (errno.ENOBUFS, Sent.BLOCKED),
        (errno.EMSGSIZE, Sent.TOO_BIG),
        (errno.ENETUNREACH, Sent.DOWN),
        (errno.ENODEV, Sent.DOWN),
        (errno.EPERM, Sent.DOWN),
    ],
)
def test_what_the_kernels_errors_mean(pair: tuple[UdpSocket, UdpSocket], error: int, sent: Sent) -> None:
    one, other = pair

    class Failing:
        close = one._socket.close

        def sendmsg(self, *_: Any) -> int:
            raise OSError(error, os.strerror(error))

    one._socket = Failing()  # type: ignore[assignment]
    assert one.send(b"x", other.address) is sent
    assert one.send_run(memoryview(run_of(3)), SEGMENT, other.address) == (sent, 0)
    assert one.last_error == os.strerror(error)


def test_an_error_nobody_foresaw_is_a_fault() -> None:
    one = UdpSocket(("127.0.0.1", 0))

    class Failing:
        close = one._socket.close

        def sendmsg(self, *_: Any) -> int:
            raise OSError(errno.EBADF, "Bad file descriptor")

    one._socket = Failing()  # type: ignore[assignment]
    with pytest.raises(SystemFault, match="sending UDP"):
        one.send(b"x", ("127.0.0.1", 9))
    one.close()


def test_what_cannot_be_bound_is_named() -> None:
    with pytest.raises(SystemFault, match=r"192\.0\.2\.1 port 1189: Cannot assign requested address"):
        UdpSocket(("192.0.2.1", 1189))
    with pytest.raises(SystemFault, match=r"127\.0\.0\.1 port 0 on nothere0: No such device"):
        UdpSocket(("127.0.0.1", 0), device="nothere0")


def test_control_messages_are_kept_but_not_for_ever() -> None:
    one = UdpSocket(("127.0.0.1", 0))
    assert one._ancillary_for(1200, b"") is one._ancillary_for(1200, b"")
    for size in range(1, 1000):
        one._ancillary_for(size, b"")
    assert len(one._ancillary) <= 256
    one.close()


def test_a_receive_error_is_nothing_received() -> None:
    one = UdpSocket(("127.0.0.1", 0))

    class Gone:
        close = one._socket.close

        def recvmsg_into(self, *_: Any) -> Any:
            raise OSError(errno.ENETDOWN, "Network is down")

    one._socket = Gone()  # type: ignore[assignment]
    assert one.receive_into([bytearray(65_536)]) is None
    assert one.last_error == "Network is down"
    one.close()


# -- in a namespace ---------------------------------------------------------------------------------
@pytest.mark.netns
def test_a_wildcard_socket_answers_from_the_address_it_was_asked_at(in_namespace: Any) -> None:
    def check() -> None:
        for ipv6, hosts in ((False, ["10.9.0.1", "10.9.0.2"]), (True, ["fd09::1", "fd09::2"])):
            server = UdpSocket(("::" if ipv6 else "0.0.0.0", 1189), ipv6=ipv6)
            asker = UdpSocket((hosts[0], 0), ipv6=ipv6)
            for host in hosts:
                for size in (10, 3 * SEGMENT):
                    asker.send(b"?", (host, 1189))
                    received, _ = receive(server)
                    assert received.local
                    run = memoryview(bytes(size))
                    sent = server.send_run(run, min(size, SEGMENT), received.address, received.local)
                    assert sent == (Sent.OK, size)
                    answer, _ = receive(asker)
                    assert answer.address[:2] == (host, 1189)
            server.close()
            asker.close()

    in_namespace(
        check,
        """link set lo up
        link add d0 type veth peer name d1
        address add 10.9.0.1/24 dev d0
        address add 10.9.0.2/24 dev d0
        address add fd09::1/64 dev d0 nodad
        address add fd09::2/64 dev d0 nodad
        link set d1 up
        link set d0 up""",
    )


@pytest.mark.netns
def test_a_datagram_beyond_the_interfaces_mtu_is_too_big(in_namespace: Any) -> None:
    """Singly and as a run; it is never fragmented, and GSO is not blamed."""

    def check() -> None:
        for ipv6, source, target in ((False, "10.9.0.1", "10.9.0.9"), (True, "fd09::1", "fd09::9")):
            one = UdpSocket((source, 0), ipv6=ipv6, device="d0", mark=77)
            fits = 1400 - (48 if ipv6 else 28)
            assert one.send(bytes(fits), (target, 9)) is Sent.OK
            assert one.send(bytes(fits + 1), (target, 9)) is Sent.TOO_BIG
            assert one.send_run(memoryview(bytes(5 * fits)), fits, (target, 9)) == (Sent.OK, 5 * fits)
            run = memoryview(bytes(5 * (fits + 1)))
            assert one.send_run(run, fits + 1, (target, 9)) == (Sent.TOO_BIG, 0)
            assert (one.gso, one.gso_fallbacks) == (True, 0)
            assert one._socket.getsockopt(socket.SOL_SOCKET, udp.SO_MARK) == 77
            one.close()

    in_namespace(
        check,
        """link add d0 mtu 1400 type veth peer name d1
        address add 10.9.0.1/24 dev d0
        address add fd09::1/64 dev d0 nodad
        link set d1 up
        link set d0 up
        neighbor add 10.9.0.9 lladdr 02:00:00:00:00:09 dev d0
        neighbor add fd09::9 lladdr 02:00:00:00:00:09 dev d0""",
    )


@pytest.mark.netns
def test_a_line_that_goes_away_is_down(in_namespace: Any) -> None:
    def check() -> None:
        one = UdpSocket(("10.9.0.1", 0), device="d0")
        anywhere = UdpSocket(("0.0.0.0", 0))
        assert one.send(b"x", ("10.9.0.9", 9)) is Sent.OK
        assert anywhere.send(b"x", ("203.0.113.1", 9)) is Sent.DOWN
        assert anywhere.last_error == "Network is unreachable"
        subprocess.run(["ip", "link", "set", "d0", "down"], check=True)
        assert one.send(b"x", ("10.9.0.9", 9)) is Sent.DOWN
        assert one.send_run(memoryview(run_of(4)), SEGMENT, ("10.9.0.9", 9)) == (Sent.DOWN, 0)
        subprocess.run(["ip", "link", "delete", "d0"], check=True)
        assert one.send(b"x", ("10.9.0.9", 9)) is Sent.DOWN
        assert one.gso
        one.close()
        anywhere.close()

    in_namespace(
        check,
        """link add d0 type veth peer name d1
        address add 10.9.0.1/24 dev d0
        link set d1 up
        link set d0 up
        neighbor add 10.9.0.9 lladdr 02:00:00:00:00:09 dev d0""",
    )


def test_packet_info_leaves_the_interface_to_routing() -> None:
    one = UdpSocket(("0.0.0.0", 0))
    one._socket.sendto(b"x", ("127.0.0.1", one.address[1]))
    received, _ = receive(one)
    assert struct.unpack("=I4s4s", received.local) == (0, socket.inet_aton("127.0.0.1"), bytes(4))
    one.close()
