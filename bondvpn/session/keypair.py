"""Keypairs, the lanes they key, and the table that finds a lane by the index on the wire."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bondvpn.bond.arrivals import Arrivals
from bondvpn.bond.flight import Flight
from bondvpn.noise.handshake import Secrets
from bondvpn.noise.lanes import aead, lane_key
from bondvpn.noise.replay import ReplayWindow
from bondvpn.wire import transport

if TYPE_CHECKING:
    from bondvpn.session.session import Session

MAX_LANES = 32  # links of one session; also bounds what datagrams under a known keypair make us allocate

# Noise leaves these to the application; WireGuard's values (whitepaper, 6.1) unless said.
REKEY_AFTER_S = 120.0
# Per lane. AES-GCM's bound on one key is 2^32 (NIST SP 800-38D, 8.3), out of reach in REJECT_AFTER_S.
REKEY_AFTER_DATAGRAMS = 1 << 28
REJECT_AFTER_S = 180.0
WIPE_AFTER_S = 3 * REJECT_AFTER_S


class SendLane:
    """Seals one link's datagrams under one keypair."""

    __slots__ = ("_aead", "counter", "encrypt_into", "flight", "index", "prefix", "reported_bytes")

    def __init__(self, index: int, cipher: int, key: bytes) -> None:
        self.index = index
        self.prefix = transport.TYPE_WORD << 32 | index  # the first 8 clear bytes as one integer
        self.counter = 0  # of the next datagram
        self.flight: Flight[Any] = Flight()
        self.reported_bytes = 0  # that came by it, as the last report said (modulo 2^32)
        self._aead = aead(cipher, key)
        self.encrypt_into = self._aead.encrypt_into

    def seal(self, sealed: bytes) -> bytes:
        """One datagram around `sealed`; for control messages, the hot path seals runs itself."""
        header = transport.emit(self.index, self.counter)
        body = self._aead.encrypt(transport.nonce(self.counter), sealed, header)
        self.counter += 1
        return header + body


class ReceiveLane:
    """Opens one link's datagrams under one keypair, each once."""

    __slots__ = ("arrivals", "decrypt_into", "index", "keypair", "number", "session", "window")

    def __init__(self, keypair: "Keypair", number: int, key: bytes) -> None:
        self.keypair = keypair
        self.index = transport.lane_index(keypair.index, number)
        self.arrivals = Arrivals()
        self.number = number
        self.session = keypair.session
        self.window = ReplayWindow()
        self.decrypt_into = aead(keypair.cipher, key).decrypt_into


class Keypair:
    """What one handshake agreed on: a key for every lane of both directions."""

    def __init__(
        self,
        *,
        session: "Session",
        index: int,
        peer_index: int,
        secrets: Secrets,
        cipher: int,
        initiator: bool,
        now: float,
    ) -> None:
        self.session = session
        self.index = index
        self.cipher = cipher
        self.initiator = initiator
        self.created = now
        self.confirmed = initiator  # the responder sends only after a sealed datagram came
        self._peer_index = peer_index
        directions = (secrets.initiator_to_responder, secrets.responder_to_initiator)
        self._send_secret, self._receive_secret = directions if initiator else reversed(directions)
        self._send: dict[int, SendLane] = {}
        self._receive: dict[int, ReceiveLane] = {}

    def send_lane(self, number: int) -> SendLane:
        """The lane that carries link `number`'s datagrams to the peer."""
        lane = self._send.get(number)
        if lane is None:
            index = transport.lane_index(self._peer_index, number)
            lane = self._send[number] = SendLane(index, self.cipher, lane_key(self._send_secret, number))
        return lane

    @property
    def receive_lanes(self) -> "list[ReceiveLane]":
        """Those that something came by."""
        return list(self._receive.values())

    def sending(self, index: int) -> SendLane | None:
        """The lane that was given this index, if it was used."""
        keypair_index, number = transport.split_index(index)
        return self._send.get(number) if keypair_index == self._peer_index else None

    def receive_lane(self, number: int) -> ReceiveLane | None:
        """The lane of link `number`'s datagrams from the peer; None beyond MAX_LANES."""
        lane = self._receive.get(number)
        if lane is None and number < MAX_LANES:
            lane = self._receive[number] = ReceiveLane(self, number, lane_key(self._receive_secret, number))
        return lane

    def datagrams_sent(self) -> int:
        """By the busiest lane: each has its own key."""
        return max((lane.counter for lane in self._send.values()), default=0)

    def expired(self, now: float) -> bool:
        """Whether nothing may be sealed or opened with it any more."""
        return now - self.created >= REJECT_AFTER_S


class LaneTable:
    """All receive lanes of the process, by the index that stands in the datagram.

    Of several processes behind one port, number `worker` of `workers` takes the keypair indexes that leave
    that remainder, so that an index tells whose it is.
    """

    def __init__(self, random: Callable[[int], bytes], *, worker: int = 0, workers: int = 1) -> None:
        self.lanes: dict[int, ReceiveLane] = {}
        self._keypairs: dict[int, Keypair] = {}
        self._reserved: set[int] = set()
        self._random = random
        self._worker, self._workers = worker, workers

    def reserve(self) -> int:
        """A keypair index that nobody uses, for a handshake under way."""
        while True:
            index = int.from_bytes(self._random(3), "big")
            index += self._worker - index % self._workers
            if index >= transport.KEYPAIR_INDEXES:  # the last ones of 24 bits have no room for the remainder
                continue
            if index not in self._keypairs and index not in self._reserved:
                self._reserved.add(index)
                return index

    def release(self, index: int) -> None:
        """The handshake came to nothing."""
        self._reserved.discard(index)

    def add(self, keypair: Keypair) -> None:
        """From now on its datagrams are found."""
        self._reserved.discard(keypair.index)
        self._keypairs[keypair.index] = keypair

    def remove(self, keypair: Keypair) -> None:
        """Its datagrams are strangers again; the keys go with the object."""
        self._keypairs.pop(keypair.index, None)
        for number in range(MAX_LANES):
            self.lanes.pop(transport.lane_index(keypair.index, number), None)

    def find(self, index: int) -> ReceiveLane | None:
        """The lane of a datagram's index; made at the first datagram of a known keypair."""
        lane = self.lanes.get(index)
        if lane is None:
            number_of_keypair, number = transport.split_index(index)
            keypair = self._keypairs.get(number_of_keypair)
            lane = keypair.receive_lane(number) if keypair is not None else None
            if lane is not None:
                self.lanes[index] = lane
        return lane
