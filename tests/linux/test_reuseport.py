"""Who gets a datagram on a shared port, decided by the real kernel on loopback."""

import random
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from bondvpn.errors import SystemFault
from bondvpn.linux.reuseport import Steering, bind_group
from bondvpn.linux.udp import UdpSocket
from bondvpn.runtime.supervisor import STEERING
from bondvpn.wire import handshake, transport

INITIATION = handshake.INITIATION << 24


class Group:
    """The workers' sockets and a sender."""

    def __init__(self, host: str, workers: int, steering: Steering = STEERING) -> None:
        self.sockets = bind_group((host, 0), ipv6=":" in host, steering=steering, workers=workers)
        self.address = self.sockets[0].address
        self.sender = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)

    def gets(self, datagram: bytes) -> int:
        """The worker whose socket receives it; loopback delivers before the send returns."""
        self.sender.sendto(datagram, self.address)
        buffer = bytearray(65_535)
        got = [worker for worker, one in enumerate(self.sockets) if one.receive_into([buffer])]
        assert len(got) == 1, got
        return got[0]

    def close(self) -> None:
        self.sender.close()
        for one in self.sockets:
            one.close()


@pytest.fixture(params=["127.0.0.1", "::1"])
def group(request: pytest.FixtureRequest) -> Iterator[Callable[..., Group]]:
    made = []

    def make(workers: int, **options: Any) -> Group:
        made.append(Group(request.param, workers, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.mark.parametrize("workers", [2, 3, 7])
def test_a_transport_datagram_reaches_the_worker_that_chose_its_index(
    group: Callable[..., Group], workers: int
) -> None:
    of = group(workers)
    dice = random.Random(workers)
    highest = transport.KEYPAIR_INDEXES - 1
    for keypair in [0, 1, workers, highest, highest - 1, *(dice.randrange(highest) for _ in range(50))]:
        for lane in (0, 1, 255):
            datagram = transport.emit(transport.lane_index(keypair, lane), dice.randrange(1 << 40))
            assert of.gets(datagram + bytes(20)) == keypair % workers


def test_all_copies_of_an_initiation_meet_and_different_ones_spread(group: Callable[..., Group]) -> None:
    of = group(2)
    dice = random.Random(5)
    seen = set()
    for _ in range(20):
        initiation = transport.PREFIX.pack(INITIATION, dice.randrange(1 << 24)) + dice.randbytes(158)
        workers = {of.gets(initiation) for _ in range(3)}
        assert len(workers) == 1
        seen |= workers
    assert seen == {0, 1}


@pytest.mark.parametrize("size", [0, 1, 4, 7])
def test_what_is_too_short_to_tell_goes_to_worker_0(group: Callable[..., Group], size: int) -> None:
    of = group(3)
    assert of.gets(b"\xff" * size) == 0
    assert of.gets(b"\xff" * 8) == 0xFFFFFF % 3


def test_a_port_that_another_shares_is_refused_all_the_same(group: Callable[..., Group]) -> None:
    """A second server on the port would otherwise take over our steering."""
    of = group(2)
    with pytest.raises(SystemFault, match=r"port \d+: Address already in use"):
        bind_group(of.address, ipv6=of.sockets[0].ipv6, steering=STEERING, workers=2)
    with pytest.raises(SystemFault, match="Address already in use"):
        UdpSocket(of.address, ipv6=of.sockets[0].ipv6)
    assert of.gets(transport.emit(transport.lane_index(1, 0), 0)) == 1


def test_a_program_that_the_kernel_refuses_is_a_fault() -> None:
    with pytest.raises(SystemFault, match="cannot split a UDP port among workers: Invalid argument"):
        bind_group(("127.0.0.1", 0), ipv6=False, steering=Steering(0, 32), workers=2)
