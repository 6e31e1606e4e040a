"""The server's side of opening and renewing sessions, for all its clients.

Nothing is kept for a stranger: an initiation must carry mac1 for our key, authenticate a public key
from the configuration, and be newer than the last one from it. A new keypair waits until the client
has used it; a session of another process instance replaces the old one only then, so that a replay
after our own restart replaces nothing.
"""

from collections.abc import Callable
from typing import Protocol

from bondvpn.noise.handshake import (
    Identity,
    ReceivedInitiation,
    choose_cipher,
    receive_initiation,
)
from bondvpn.session.keypair import WIPE_AFTER_S, Keypair, LaneTable
from bondvpn.session.link import Path
from bondvpn.session.session import NEVER, Session, SessionObserver
from bondvpn.stats import Drop, Drops
from bondvpn.wire.capabilities import VERSION, Capabilities


class ClientPeer:
    """One configured client."""

    def __init__(
        self, name: str, public_key: bytes, preshared_key: bytes, observer: SessionObserver, drops: Drops
    ) -> None:
        self.name = name
        self.public_key = public_key
        self.preshared_key = preshared_key
        self.observer = observer
        self.drops = drops
        self.session: Session | None = None
        self.waiting: Session | None = None  # answered, but not yet used by the client
        self.waiting_since = 0.0
        self.last_timestamp = b""


class Elsewhere(Protocol):
    """Who knows the clients that other processes on this port serve."""

    def hand_over(self, received: ReceivedInitiation, datagram: bytes, path: Path) -> Drop | None:
        """An initiation of someone who is no client here; why it goes no further, None if it does."""


class Nowhere:
    """There are no other processes: who is no client here is a stranger."""

    def hand_over(self, received: ReceivedInitiation, datagram: bytes, path: Path) -> Drop | None:
        return Drop.HANDSHAKE


class Responder:
    """Answers initiations; owns the clients' sessions."""

    def __init__(
        self,
        *,
        identity: Identity,
        capabilities: Capabilities,
        has_aes: bool,
        peers: list[ClientPeer],
        table: LaneTable,
        random: Callable[[int], bytes],
        drops: Drops,
        elsewhere: Elsewhere | None = None,
    ) -> None:
        self.peers = {peer.public_key: peer for peer in peers}
        self._identity = identity
        self._capabilities = capabilities
        self._has_aes = has_aes
        self._table = table
        self._random = random
        self._drops = drops
        self._elsewhere = elsewhere or Nowhere()

    def receive_initiation(self, datagram: bytes, path: Path, now: float) -> None:
        """An initiation came, from anyone."""
        received = receive_initiation(self._identity, datagram)
        if isinstance(received, Drop):
            self._drops.count(received)
            return
        peer = self.peers.get(received.peer_public)
        if peer is None:
            refused = self._elsewhere.hand_over(received, datagram, path)
            if refused is not None:
                self._drops.count(refused)
            return
        if received.timestamp <= peer.last_timestamp:
            self._drops.count(Drop.TIMESTAMP)
            return
        offered = Capabilities.parse(received.payload)
        cipher = choose_cipher(offered.ciphers, self._has_aes) if offered is not None else None
        if offered is None or offered.version != VERSION or cipher is None:
            self._drops.count(Drop.HANDSHAKE)
            return
        peer.last_timestamp = received.timestamp
        session = self._session_for(peer, offered, now)
        response = self._respond(session, received, peer.preshared_key, cipher, now)
        path.socket.send_run(memoryview(response), len(response), path.address, path.local)

    def _respond(
        self, session: Session, received: ReceivedInitiation, preshared_key: bytes, cipher: int, now: float
    ) -> bytes:
        """The response; the keypair it makes waits in `session`."""
        index = self._table.reserve()
        response, secrets = received.respond(
            preshared_key,
            index=index,
            payload=self._capabilities._replace(ciphers=cipher).emit(),
            ephemeral=self._random(32),
        )
        session.offer(
            Keypair(
                session=session,
                index=index,
                peer_index=received.peer_index,
                secrets=secrets,
                cipher=cipher,
                initiator=False,
                now=now,
            )
        )
        return response

    def _session_for(self, peer: ClientPeer, offered: Capabilities, now: float) -> Session:
        """The session of the client's process: the present one when it only renews its keys."""
        for session in (peer.session, peer.waiting):
            if session is not None and not session.ended and session.peer.instance == offered.instance:
                return session
        if peer.waiting is not None:
            peer.waiting.end("superseded", now)
        peer.waiting_since = now
        peer.waiting = Session(
            initiator=False,
            peer=offered,
            links={},
            table=self._table,
            random=self._random,
            observer=peer.observer,
            drops=peer.drops,
            now=now,
        )
        return peer.waiting

    def confirm(self, keypair: Keypair, now: float) -> None:
        """The first authentic datagram under `keypair` came."""
        for peer in self.peers.values():
            if peer.waiting is keypair.session:
                if peer.session is not None:
                    peer.session.end("the client restarted", now)
                peer.session, peer.waiting = peer.waiting, None
        keypair.session.confirm(keypair, now)

    def poll(self, now: float) -> None:
        """Do what is due."""
        for peer in self.peers.values():
            if peer.session is not None:
                peer.session.poll(now)
                if peer.session.ended:
                    peer.session = None
            if peer.waiting is not None and now - peer.waiting_since > WIPE_AFTER_S:
                peer.waiting.end("never used", now)
                peer.waiting = None

    def deadline(self, now: float) -> float:
        """When `poll` is due next."""
        deadline = NEVER
        for peer in self.peers.values():
            if peer.session is not None:
                deadline = min(deadline, peer.session.deadline(now))
            if peer.waiting is not None:
                deadline = min(deadline, peer.waiting_since + WIPE_AFTER_S)
        return deadline
