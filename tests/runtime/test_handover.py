"""Initiations that reach another worker than their client's: handed over once, counted once."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from bondvpn.noise.handshake import NO_PRESHARED_KEY, Identity, Initiation, Remote
from bondvpn.noise.timestamp import tai64n
from bondvpn.runtime.handover import READS_PER_WAKEUP, Handover, Inbox
from bondvpn.session.keypair import LaneTable
from bondvpn.session.link import Path
from bondvpn.session.responder import ClientPeer, Responder
from bondvpn.stats import Drop, Drops
from bondvpn.wire import handshake
from bondvpn.wire.capabilities import CHACHA20_POLY1305, VERSION, Capabilities

SERVER = Identity(bytes(range(32)))
CLIENTS = [Identity(bytes([n]) * 32) for n in (1, 2)]
STRANGER = Identity(bytes([3]) * 32)
OFFER = Capabilities(VERSION, CHACHA20_POLY1305, 0, bytes(8), 65_000, 1500)
NOW = 1000.0
FROM = {"ipv4": ("203.0.113.1", 40_000), "ipv6": ("2001:db8::1", 40_000, 0, 3)}
LOCAL = bytes(range(12))


@dataclass(eq=False)
class Socket:
    """Remembers what was answered, and to whom."""

    sent: list[tuple[bytes, Any, bytes]] = field(default_factory=list)

    def send_run(self, run: memoryview, segment: int, address: Any, local: bytes = b"") -> None:
        self.sent.append((bytes(run), address, local))


class Worker:
    """The responder of one of two workers, which serves one client, with its sockets on two ports."""

    def __init__(self, number: int, inboxes: list[Inbox]) -> None:
        self.sockets = [Socket(), Socket()]
        self.drops = Drops()
        self.table = LaneTable(os.urandom, worker=number, workers=2)
        other = {CLIENTS[1 - number].public: inboxes[1 - number]}
        self.handover = Handover(self.sockets, inboxes[number], other)  # type: ignore[arg-type]
        observer: Any = SimpleNamespace()
        self.peer = ClientPeer("", CLIENTS[number].public, NO_PRESHARED_KEY, observer, self.drops)
        self.responder = Responder(
            identity=SERVER,
            capabilities=OFFER,
            has_aes=False,
            peers=[self.peer],
            table=self.table,
            random=os.urandom,
            drops=self.drops,
            elsewhere=self.handover,
        )

    def receives(self, datagram: bytes, *, port: int = 0, source: Any = FROM["ipv4"]) -> None:
        self.responder.receive_initiation(datagram, Path(self.sockets[port], source, LOCAL), NOW)  # type: ignore[arg-type]

    def reads_inbox(self) -> int:
        count = 0
        for datagram, path in self.handover.receive():
            self.responder.receive_initiation(datagram, path, NOW)
            count += 1
        return count


@pytest.fixture
def workers() -> Iterator[list[Worker]]:
    inboxes = [Inbox(), Inbox()]
    yield [Worker(number, inboxes) for number in (0, 1)]
    for inbox in inboxes:
        inbox.close()


def initiation(client: Identity, at: float) -> Initiation:
    return Initiation(
        client,
        Remote(SERVER.public),
        index=7,
        timestamp=tai64n(at, None),
        payload=OFFER.emit(),
        ephemeral=os.urandom(32),
    )


@pytest.mark.parametrize("source", FROM.values(), ids=FROM)
@pytest.mark.parametrize("port", [0, 1])
def test_the_clients_worker_answers_by_its_own_socket_of_that_port(
    workers: list[Worker], source: Any, port: int
) -> None:
    attempt = initiation(CLIENTS[1], 1.0)
    workers[0].receives(attempt.datagram, port=port, source=source)
    assert workers[1].reads_inbox() == 1
    assert all(one.sent == [] for one in (*workers[0].sockets, workers[1].sockets[1 - port]))
    ((response, address, local),) = workers[1].sockets[port].sent
    assert (address, local) == (source, LOCAL)
    established = attempt.finish(response)
    assert not isinstance(established, Drop)
    assert established.peer_index % 2 == 1  # so that the kernel steers what follows to worker 1
    assert workers[0].drops.as_dict() == workers[1].drops.as_dict() == {}


def test_a_client_of_its_own_is_not_handed_over(workers: list[Worker]) -> None:
    workers[0].receives(initiation(CLIENTS[0], 1.0).datagram)
    assert len(workers[0].sockets[0].sent) == 1
    assert [worker.reads_inbox() for worker in workers] == [0, 0]


def test_a_stranger_is_refused_where_he_knocks(workers: list[Worker]) -> None:
    workers[0].receives(initiation(STRANGER, 1.0).datagram)
    workers[0].receives(bytes(166))
    workers[0].receives(handshake.INITIATION.to_bytes(1, "big") + bytes(165))
    assert workers[1].reads_inbox() == 0
    assert workers[0].drops.as_dict() == {"type": 1, "mac1": 1, "handshake": 1}
    assert workers[1].drops.as_dict() == {}


def test_copies_and_replays_stop_at_the_first_worker(workers: list[Worker]) -> None:
    first, second = (initiation(CLIENTS[1], at).datagram for at in (1.0, 2.0))
    for datagram in (first, first, second, first, second):
        workers[0].receives(datagram)
    assert workers[1].reads_inbox() == 2
    assert workers[0].drops.as_dict() == {"timestamp": 3}
    assert workers[1].drops.as_dict() == {}


def test_a_replay_by_two_ways_is_stopped_by_the_clients_worker(workers: list[Worker]) -> None:
    datagram = initiation(CLIENTS[1], 1.0).datagram
    workers[1].receives(datagram)
    workers[0].receives(datagram)
    assert workers[1].reads_inbox() == 1
    assert workers[1].drops.as_dict() == {"timestamp": 1}
    assert len(workers[1].sockets[0].sent) == 1


def test_a_worker_that_does_not_read_costs_nobody_else_anything(workers: list[Worker]) -> None:
    """Its inbox fills and initiations are lost; the one that is sent again is not taken for a replay."""
    at = 0.0
    while not workers[0].drops.counts[Drop.SOCKET]:
        at += 1.0
        datagram = initiation(CLIENTS[1], at).datagram
        workers[0].receives(datagram)
        assert at < 10_000
    assert workers[1].reads_inbox() == READS_PER_WAKEUP
    workers[0].receives(datagram)
    assert workers[0].drops.as_dict() == {"socket": 1}
    while last := workers[1].reads_inbox():
        assert last <= READS_PER_WAKEUP
    assert workers[1].peer.last_timestamp == tai64n(at, None)
