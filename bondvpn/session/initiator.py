"""The client's side of opening and renewing a session.

An initiation goes out when there is no session, when the keys are due, or when every link is silent
(the server may have restarted: only a handshake tells). It leaves by every link that has a path, the
same bytes on each, so that one living line is enough; the server answers the first and counts the
others as replays. A renewal leaves by the best link first. A retry is a new initiation, soon at first
and later each RETRY_MAX_S, with some jitter: an office tunnel never gives up, it only waits.
"""

from collections.abc import Callable

from bondvpn.noise.handshake import Established, Identity, Initiation, Remote
from bondvpn.session.keypair import REKEY_AFTER_DATAGRAMS, Keypair, LaneTable
from bondvpn.session.keyring import ATTEMPTS_MAX
from bondvpn.session.link import Link
from bondvpn.session.session import NEVER, Session, SessionObserver
from bondvpn.stats import Drop, Drops
from bondvpn.wire.capabilities import AES_256_GCM, CHACHA20_POLY1305, VERSION, Capabilities

# WireGuard waits 5 s. A server that was killed is back within seconds, while TCP inside doubles its timeout:
# a quarter of a second more may cost it two. One second lets the tunnel be back within two of the server's
# return, and costs 200 bytes a second on a line that is dead anyway.
RETRY_MIN_S = 0.25
RETRY_MAX_S = 1.0
RETRY_SHARE = 1 / 8  # of the time since the first attempt
RETRY_JITTER = 1 / 3  # of the pause; of WireGuard's 5 s it is 334 ms (whitepaper, 6.1)


class Initiator:
    """Keeps one session with one server."""

    def __init__(
        self,
        *,
        identity: Identity,
        remote: Remote,
        capabilities: Capabilities,
        links: dict[int, Link],
        table: LaneTable,
        random: Callable[[int], bytes],
        timestamp: Callable[[], bytes],
        observer: SessionObserver,
        drops: Drops,
        rekey_after_s: float,
    ) -> None:
        """`timestamp` gives TAI64N, later at every call, and remembers the last across restarts."""
        self.session: Session | None = None
        self.links = links
        self.attempts = 0  # since the last success
        self._identity = identity
        self._remote = remote
        self._capabilities = capabilities
        self._table = table
        self._random = random
        self._timestamp = timestamp
        self._observer = observer
        self._drops = drops
        self._rekey_after_s = rekey_after_s
        self._pending: list[Initiation] = []  # the last few attempts, newest last
        self._next_attempt = 0.0
        self._first_attempt = 0.0  # since the last success

    # -- timers ---------------------------------------------------------------------------------
    def poll(self, now: float) -> None:
        """Do what is due."""
        if self.session is not None:
            self.session.poll(now)
            if self.session.ended:
                self.session = None
        if now >= self._next_attempt and now >= self._wanted_at():
            self._initiate(now)

    def deadline(self, now: float) -> float:
        """When `poll` is due next."""
        handshake = max(self._next_attempt, self._wanted_at())
        session = self.session.deadline(now) if self.session is not None else NEVER
        return min(handshake, session)

    def _wanted_at(self) -> float:
        """When a handshake is needed, retries aside."""
        if not any(link.path is not None for link in self.links.values()):
            return NEVER
        session = self.session
        if session is None or session.current is None or session.ended:
            return 0.0
        keypair = session.current
        if session.silent:
            return 0.0
        if keypair.datagrams_sent() >= REKEY_AFTER_DATAGRAMS:
            return 0.0
        return keypair.created + self._rekey_after_s

    def _initiate(self, now: float) -> None:
        if len(self._pending) >= ATTEMPTS_MAX:
            self._table.release(self._pending.pop(0).index)
        attempt = Initiation(
            self._identity,
            self._remote,
            index=self._table.reserve(),
            timestamp=self._timestamp(),
            payload=self._capabilities.emit(),
            ephemeral=self._random(32),
        )
        self._pending.append(attempt)
        if not self.attempts:
            self._first_attempt = now
        self.attempts += 1
        self._next_attempt = now + self._pause_s(now)
        links = [link for link in self.links.values() if link.path is not None]
        active = [link for link in links if link.active]
        if active and self.attempts == 1:
            links = [min(active, key=lambda link: link.srtt_s)]
        for link in links:
            link.send_control(attempt.datagram, now)

    def _pause_s(self, now: float) -> float:
        """Until the attempt after this one."""
        pause_s = RETRY_MAX_S
        if self.session is None or self.session.silent:
            pause_s = min(max((now - self._first_attempt) * RETRY_SHARE, RETRY_MIN_S), RETRY_MAX_S)
        return pause_s * (1 + int.from_bytes(self._random(2), "big") / 65536 * RETRY_JITTER)

    # -- the answer -----------------------------------------------------------------------------
    def receive_response(self, datagram: bytes, now: float) -> None:
        """A response came, from anyone."""
        established: Established | Drop = Drop.LANE
        for attempt in self._pending:
            established = attempt.finish(datagram)
            if established is not Drop.LANE:
                break
        if isinstance(established, Drop):
            self._drops.count(established)
            return
        peer = Capabilities.parse(established.payload)
        offered = self._capabilities.ciphers
        if peer is None or peer.version != VERSION or peer.ciphers not in _one_of(offered):
            self._drops.count(Drop.HANDSHAKE)
            return
        index = attempt.index
        for other in self._pending:
            if other is not attempt:
                self._table.release(other.index)
        self._pending.clear()
        self.attempts = 0
        self._next_attempt = now + RETRY_MAX_S  # the links need a moment to join
        self._establish(established, peer, index, now)

    def _establish(self, established: Established, peer: Capabilities, index: int, now: float) -> None:
        session = self.session
        if session is not None and (session.ended or session.peer.instance != peer.instance):
            session.end("the server restarted", now)
            session = None
        if session is None:
            session = self.session = Session(
                initiator=True,
                peer=peer,
                links=self.links,
                table=self._table,
                random=self._random,
                observer=self._observer,
                drops=self._drops,
                now=now,
            )
        keypair = Keypair(
            session=session,
            index=index,
            peer_index=established.peer_index,
            secrets=established.secrets,
            cipher=peer.ciphers,
            initiator=True,
            now=now,
        )
        session.install(keypair, now)


def _one_of(ciphers: int) -> set[int]:
    return {cipher for cipher in (AES_256_GCM, CHACHA20_POLY1305) if ciphers & cipher}
