"""The datapath of one direction without a network: frames in, sealed datagrams out, frames again.

A test owns the datagrams in between, and so may drop, repeat, shuffle and forge them.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from bondvpn.bond.aqm import QueueLimits
from bondvpn.bond.equaliser import Equaliser
from bondvpn.bond.sparse import SparseFlows
from bondvpn.bond.weighted import Weighted
from bondvpn.datapath.inbound import Inbound
from bondvpn.datapath.outbound import QUEUE_MAX_BYTES, Outbound
from bondvpn.datapath.reassembly import Reassembly
from bondvpn.datapath.slab import SealSlab
from bondvpn.noise.handshake import Secrets
from bondvpn.session.keypair import Keypair, LaneTable
from bondvpn.session.link import Link, Path, Sent
from bondvpn.session.reports import Reporter
from bondvpn.stats import Drop, Drops
from bondvpn.wire.capabilities import AES_256_GCM

INDEX = 0xABCDEF
SECRETS = Secrets(b"\1" * 32, b"\2" * 32, b"\3" * 32)


class Datagram(NamedTuple):
    """What a socket was given; `address` is the link's number in `OneWay`."""

    data: bytes
    address: Any


def queue_limits(standing: float, burst: float = 0.0, rate: float = 10e6) -> QueueLimits:
    """At `rate` bytes a second, lines without delay."""
    return QueueLimits(standing, max(standing, burst), rate, 0.0)


class FakeTap:
    """A TAP that is read from `frames` and writes to `written`."""

    def __init__(self) -> None:
        self.frames: deque[bytes] = deque()
        self.written: list[bytes] = []
        self.refuse = False

    def read_into(self, buffers: Sequence[memoryview]) -> int:
        if not self.frames:
            return 0
        frame = self.frames.popleft()
        rest = memoryview(frame)
        for buffer in buffers:
            piece = rest[: len(buffer)]
            buffer[: len(piece)] = piece
            rest = rest[len(piece) :]
            if not rest:
                break
        return len(frame) - len(rest)

    def write(self, parts: Sequence[Any]) -> bool:
        if self.refuse:
            return False
        self.written.append(b"".join(parts))
        return True


class CaptureSocket:
    """Keeps the runs it is given. `room`: datagrams it still takes before it says BLOCKED, None: all."""

    def __init__(self, *, ipv6: bool = False) -> None:
        self.ipv6 = ipv6
        self.gso = True
        self.gso_fallbacks = 0
        self.last_error = ""
        self.runs: list[list[Datagram]] = []
        self.room: int | None = None
        self.fails: Sent | None = None

    def send_run(self, run: memoryview, segment: int, address: Any, local: bytes = b"") -> tuple[Sent, int]:
        if self.fails is not None:
            self.last_error = "Network is unreachable"
            return self.fails, 0
        pieces = [bytes(run[at : at + segment]) for at in range(0, len(run), segment)]
        taken = pieces if self.room is None else pieces[: self.room]
        if self.room is not None:
            self.room -= len(taken)
        if taken:
            self.runs.append([Datagram(piece, address) for piece in taken])
        sent = Sent.OK if len(taken) == len(pieces) else Sent.BLOCKED
        return sent, sum(len(piece) for piece in taken)


class Inbox:
    """A socket to receive from, fed with runs that arrive as GRO would hand them over."""

    ipv6 = False

    def __init__(self) -> None:
        self.calls: deque[tuple[bytes, int, Any]] = deque()
        self.waited_s = 0.0  # of each call

    def feed(self, datagrams: Sequence[bytes], address: Any = ("192.0.2.7", 4000)) -> None:
        """One receive call: equal datagrams, the last may be shorter."""
        self.calls.append((b"".join(datagrams), len(datagrams[0]), address))

    def receive_into(self, buffers: list[Any]) -> tuple[int, int, Any, bytes, float] | None:
        if not self.calls:
            return None
        data, segment, address = self.calls.popleft()
        buffers[0][: len(data)] = data
        return len(data), segment, address, b"", self.waited_s


class QuietLinks:
    """A link observer that remembers."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def link_busy(self) -> None:
        self.heard.append("busy")

    def link_failed(self, link: Link, reason: str, now: float) -> None:
        self.heard.append(f"failed: {reason}")

    def link_blocked(self, link: Link) -> None:
        self.heard.append("blocked")

    def link_too_big(self, link: Link, now: float) -> None:
        self.heard.append("too big")


class StubSession:
    """As much of a session as the receiving datapath touches."""

    def __init__(self) -> None:
        self.links: dict[int, Link] = {}
        self.control: list[tuple[int, bytes]] = []
        self.moves: list[Any] = []
        self.reporter = Reporter()
        self.equaliser = Equaliser()
        self.patience_s = 0.0

    def on_control(self, lane: Any, sealed: bytes, path: Path, now: float) -> None:
        self.control.append((lane.number, sealed))

    def moved(self, link: Link, path: Path, size: int, now: float) -> None:
        self.moves.append(path.address)
        link.set_path(path)


def keypair(session: Any, *, initiator: bool, cipher: int = AES_256_GCM) -> Keypair:
    """One of the two ends of a keypair whose index is INDEX at both."""
    return Keypair(
        session=session,
        index=INDEX,
        peer_index=INDEX,
        secrets=SECRETS,
        cipher=cipher,
        initiator=initiator,
        now=0.0,
    )


class Receiver:
    """Inbound, Reassembly and a TAP."""

    def __init__(self, *, uso: bool = True, cipher: int = AES_256_GCM) -> None:
        self.drops = Drops()
        self.tap = FakeTap()
        self.session = StubSession()
        self.table = LaneTable(bytes)
        self.keypair = keypair(self.session, initiator=False, cipher=cipher)
        self.table.add(self.keypair)
        self.inbound = Inbound(self.table, self, self.drops)
        self.reassembly = Reassembly(self.tap, self.drops, uso=uso)
        self.handshakes: list[bytes] = []
        self.confirmed: list[Any] = []
        self.answerable: list[Any] = []
        self.socket = Inbox()
        self.now = 0.0

    def handshake(self, datagram: bytes, path: Path, now: float) -> None:
        self.handshakes.append(datagram)

    def confirm(self, keypair: Any, now: float) -> None:
        keypair.confirmed = True
        self.confirmed.append(keypair)

    def reassembly_of(self, session: Any) -> Reassembly:
        return self.reassembly

    def delivered(self, session: Any, now: float) -> None:
        self.answerable.append(session)

    def receive(self, datagrams: Sequence[bytes], address: Any = ("192.0.2.7", 4000)) -> None:
        """One receive call."""
        self.socket.feed(datagrams, address)
        self.inbound.on_readable(self.socket, lambda: self.now)

    def receive_each(self, datagrams: Iterable[bytes]) -> None:
        for datagram in datagrams:
            self.receive([datagram])

    def count(self, reason: Drop) -> int:
        return self.drops.counts[reason]


class NoSparseFlows(SparseFlows):
    """Every flow counts as dense."""

    def admits(self, frame: memoryview, now: float) -> bool:
        return False


class Sender:
    """A TAP, Outbound, and links whose datagrams are kept."""

    def __init__(
        self,
        links: int = 1,
        *,
        rate_bps: int | None = None,
        ipv6: bool = False,
        cipher: int = AES_256_GCM,
        sparse: bool = False,
    ) -> None:
        """`sparse`: whether flows of UDP that send little go express, as they do outside of tests; without
        it `frames.flow_of` tells each frame's class."""
        self.now = 100.0
        self.drops = Drops()
        self.tap = FakeTap()
        self.socket = CaptureSocket(ipv6=ipv6)
        self.observer = QuietLinks()
        self.keypair = keypair(StubSession(), initiator=True, cipher=cipher)
        self.links = [Link(i, f"line{i}", self.observer, self.drops) for i in range(links)]
        for link in self.links:
            link.set_path(Path(self.socket, link.number))
            link.set_send_rate(rate_bps or 0)
            link.capacity.window = float("inf")  # nobody reports
            link.send_lane = self.keypair.send_lane(link.number)
        self.scheduler: Weighted[Link] = Weighted()
        self.scheduler.set_lines(self.links)
        self.out = Outbound(self.tap, self.scheduler, SealSlab(), self.drops)
        if rate_bps is not None:  # slow lines spare bytes
            self.out.set_queue_limits(queue_limits(QUEUE_MAX_BYTES - 1), self.now)
        if not sparse:
            self.out._sparse = NoSparseFlows()
        self.out._read_at = self.now

    def send(self, frames: Iterable[bytes], *, within_s: float = 600.0) -> list[list[Datagram]]:
        """Carry `frames` until nothing waits; the runs it took."""
        self.tap.frames.extend(frames)
        give_up_at = self.now + within_s
        while self.tap.frames or self.out.queued:
            waiting = len(self.tap.frames), self.out.queued
            self.out.on_readable(self.now)
            if waiting == (len(self.tap.frames), self.out.queued):
                deadline = self.scheduler.deadline(self.now)
                assert deadline is not None, "nothing will ever wake the queue"
                self.now = max(self.now + 1e-6, deadline)
                assert self.now < give_up_at, "the queue does not drain"
        return self.taken()

    def taken(self) -> list[list[Datagram]]:
        """The runs since the last call."""
        runs, self.socket.runs = self.socket.runs, []
        return runs
