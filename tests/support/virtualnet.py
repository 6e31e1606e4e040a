"""Both ends of a tunnel over simulated lines, on a virtual clock: seconds of network in milliseconds of test.

    client --- line 0 --- server        each line: delay, jitter, loss, duplication, MTU, and a NAT that may
           --- line 1 ---               give the client another port

A `World` moves time from event to event: a datagram arrives, or a deadline is due that an end named. So
a deadline that is missing shows as something that never happens.
"""

import heapq
import random
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from tunnelends import FakeTap

from bondvpn.bond.weighted import Weighted
from bondvpn.datapath.inbound import Inbound
from bondvpn.datapath.outbound import Outbound
from bondvpn.datapath.reassembly import Reassembly
from bondvpn.datapath.slab import SealSlab, chunk_capacity
from bondvpn.noise.handshake import Identity, Remote
from bondvpn.noise.timestamp import tai64n
from bondvpn.session.initiator import Initiator
from bondvpn.session.keypair import REKEY_AFTER_S, Keypair, LaneTable
from bondvpn.session.link import Link, Path, Sent
from bondvpn.session.responder import ClientPeer, Responder
from bondvpn.session.session import Session
from bondvpn.stats import Drop, Drops
from bondvpn.wire.capabilities import AES_256_GCM, CHACHA20_POLY1305, VERSION, Capabilities
from bondvpn.wire.handshake import INITIATION, RESPONSE
from bondvpn.wire.transport import ETHERNET_LEN, udp_overhead

CLIENT_KEY, SERVER_KEY = b"\x11" * 32, b"\x22" * 32
PSK = b"\x33" * 32
SERVER_ADDRESS = ("198.51.100.1", 1189)
CLOCK_START_S = 1_700_000_000.0
TICK_S = 1e-6


class Line:
    """One line. Change its attributes while the world runs."""

    def __init__(
        self,
        number: int,
        *,
        delay_s: float = 0.010,
        jitter_s: float = 0.0,
        loss: float = 0.0,
        duplicate: float = 0.0,
        mtu: int = 1500,
        rate_bps: int = 50_000_000,
    ) -> None:
        self.number = number
        self.delay_s = delay_s
        self.jitter_s = jitter_s  # up to so much more, so that datagrams overtake each other
        self.loss = loss
        self.duplicate = duplicate
        self.mtu = mtu
        self.interface_mtu = 1500
        self.rate_bps = rate_bps
        self.up = True
        self.port = 40_000

    @property
    def address(self) -> tuple[str, int]:
        """Where the server sees the client."""
        return f"203.0.113.{self.number}", self.port


class Seen(NamedTuple):
    """One datagram given to a line."""

    at: float
    line: int
    to_server: bool
    data: bytes


class VirtualSocket:
    """A socket of either end; a client's belongs to one line."""

    gso = True
    gso_fallbacks = 0

    def __init__(self, world: "World", line: Line | None, *, ipv6: bool = False) -> None:
        self.ipv6 = ipv6
        self.last_error = ""
        self.fails: Sent | None = None
        self._world = world
        self._line = line
        self._inbox: deque[tuple[bytes, Any]] = deque()

    def send_run(self, run: memoryview, segment: int, address: Any, local: bytes = b"") -> tuple[Sent, int]:
        if self.fails is not None:
            self.last_error = "Network is unreachable"
            return self.fails, 0
        done = 0
        for at in range(0, len(run), segment):
            data = bytes(run[at : at + segment])
            if self._line is not None and len(data) + udp_overhead(ipv6=self.ipv6) > self._line.interface_mtu:
                return Sent.TOO_BIG, done
            self._world.carry(self._line, data, address)
            done += len(data)
        return Sent.OK, done

    def arrive(self, data: bytes, address: Any) -> None:
        self._inbox.append((data, address))

    def receive_into(self, buffers: list[Any]) -> tuple[int, int, Any, bytes] | None:
        if not self._inbox:
            return None
        data, address = self._inbox.popleft()
        buffers[0][: len(data)] = data
        return len(data), len(data), address, b""


class End:
    """What `runtime` makes of session and datapath, on the virtual clock. Implements all their observers."""

    def __init__(self, world: "World", *, strict: bool = False) -> None:
        self.world = world
        self.drops = Drops()
        self.table = LaneTable(world.random)
        self.inbound = Inbound(self.table, self, self.drops)
        self.tap = FakeTap()
        self.scheduler: Weighted[Link] = Weighted(strict=strict)
        self.out = Outbound(self.tap, self.scheduler, SealSlab(), self.drops)
        self.reassembly = Reassembly(self.tap, self.drops, uso=True)
        self.session: Session | None = None
        self.log: list[tuple[float, str]] = []
        self.control: Any
        self.instance = world.random(8)
        self._of: Session | None = None

    # -- what happened --------------------------------------------------------------------------
    def count(self, reason: Drop) -> int:
        return self.drops.counts[reason]

    def logged(self, text: str, since: float = 0.0) -> list[float]:
        """When something with `text` in it happened."""
        return [at for at, line in self.log if text in line and at >= since]

    def link(self, number: int) -> Link:
        assert self.session is not None
        return self.session.links[number]

    @property
    def active(self) -> list[int]:
        return [] if self.session is None else sorted(link.number for link in self.session.active)

    # -- SessionObserver, LinkObserver ------------------------------------------------------------
    def session_started(self, session: Session, now: float) -> None:
        self.session = self._of = session
        self.log.append((now, "session started"))
        self.out.reset()
        self.reassembly.reset()
        self._refresh()

    def session_ended(self, session: Session, reason: str, now: float) -> None:
        self.log.append((now, f"session ended: {reason}"))
        if self.session is session:
            self.session = self._of = None
            self.scheduler.set_lines([])

    def link_changed(self, session: Session, link: Link, now: float) -> None:
        self.log.append((now, f"{link.name} {link.liveness.state.value} {link.reason}"))
        self._refresh()

    def make_link(self, number: int, name: str) -> Link:
        return Link(number, name, self, self.drops)

    def link_busy(self) -> None:
        pass

    def link_failed(self, link: Link, reason: str, now: float) -> None:
        if self.session is not None and link.path is not None:
            self.session.path_down(link, reason, now)

    def link_blocked(self, link: Link) -> None:
        raise AssertionError("virtual sockets never block")

    def link_too_big(self, link: Link, now: float) -> None:
        link.path_mtu.packet_too_big(link.path_mtu.current - 1, now)

    def _refresh(self) -> None:
        if self.session is None:
            return
        links = self.session.active
        self.scheduler.set_lines(links)
        if links:
            self.out.set_capacity(
                min(
                    chunk_capacity(link.path_mtu.current, link.frame_overhead - ETHERNET_LEN)
                    for link in links
                )
            )

    # -- ControlPlane -------------------------------------------------------------------------------
    def confirm(self, keypair: Keypair, now: float) -> None:
        pass

    def handshake(self, datagram: bytes, path: Path, now: float) -> None:
        raise NotImplementedError

    def reassembly_of(self, session: Session) -> Reassembly | None:
        return self.reassembly if session is self._of else None

    # -- time -----------------------------------------------------------------------------------
    def receive(self, socket: VirtualSocket) -> None:
        self.inbound.on_readable(socket, lambda: self.world.now)

    def poll(self) -> None:
        now = self.world.now
        self.control.poll(now)
        self.reassembly.poll(now)
        if self.tap.frames and self.session is not None and self.session.active:
            self.out.on_readable(now)
        elif self.out.queued:
            self.out.dispatch(now)

    def deadline(self) -> float:
        now = self.world.now
        deadline = min(self.control.deadline(now), self.reassembly.deadline)
        if self.out.queued and self.session is not None and self.session.active:
            deadline = min(deadline, self.scheduler.deadline(now) or deadline)
        return deadline


class Client(End):
    """The gateway: one socket a line."""

    def __init__(
        self,
        world: "World",
        *,
        key: bytes = CLIENT_KEY,
        psk: bytes = PSK,
        ciphers: int = AES_256_GCM | CHACHA20_POLY1305,
        rekey_after_s: float = REKEY_AFTER_S,
    ) -> None:
        super().__init__(world)
        self.links = {}
        for line in world.lines:
            link = Link(line.number, f"line{line.number}", self, self.drops)
            link.receive_rate_bps = line.rate_bps
            link.interface_mtu = line.interface_mtu
            link.set_send_rate(line.rate_bps)
            self.links[line.number] = link
        self.connect()
        self.control = self.initiator = Initiator(
            identity=Identity(key),
            remote=Remote(Identity(SERVER_KEY).public, psk),
            capabilities=Capabilities(VERSION, ciphers, 15, self.instance, 65_000, 1500),
            links=self.links,
            table=self.table,
            random=world.random,
            timestamp=world.timestamp,
            observer=self,
            drops=self.drops,
            rekey_after_s=rekey_after_s,
        )

    def connect(self) -> None:
        """Sockets for the links that have none."""
        for line in self.world.lines:
            if self.links[line.number].path is None:
                socket = VirtualSocket(self.world, line)
                self.world.client_sockets[line.number] = socket
                self.links[line.number].set_path(Path(socket, SERVER_ADDRESS))

    def handshake(self, datagram: bytes, path: Path, now: float) -> None:
        if datagram[0] == RESPONSE:
            self.initiator.receive_response(datagram, now)
        else:
            self.drops.count(Drop.TYPE)


class Server(End):
    """The root server: one socket, one client in its configuration."""

    def __init__(self, world: "World", *, psk: bytes = PSK) -> None:
        super().__init__(world)
        self.peer = ClientPeer("office", Identity(CLIENT_KEY).public, psk, self, self.drops)
        self.control = self.responder = Responder(
            identity=Identity(SERVER_KEY),
            capabilities=Capabilities(VERSION, 0, 15, self.instance, 65_000, 1500),
            has_aes=True,
            peers=[self.peer],
            table=self.table,
            random=world.random,
            drops=self.drops,
        )
        self.socket = VirtualSocket(world, None)

    def handshake(self, datagram: bytes, path: Path, now: float) -> None:
        if datagram[0] == INITIATION:
            self.responder.receive_initiation(datagram, path, now)
        else:
            self.drops.count(Drop.TYPE)

    def confirm(self, keypair: Keypair, now: float) -> None:
        self.responder.confirm(keypair, now)


class World:
    """Lines, two ends and a clock."""

    def __init__(self, lines: Sequence[Line], *, seed: int = 1, **client: Any) -> None:
        print(f"seed {seed}")
        self.rng = random.Random(seed)
        self.random = self.rng.randbytes
        self.lines = list(lines)
        self.now = 1000.0
        self.seen: list[Seen] = []
        self.sent_to: dict[Any, int] = defaultdict(int)  # bytes the server sent to each address
        self.client_sockets: dict[int, VirtualSocket] = {}
        self.client: Client | None = None
        self.server: Server | None = None
        self.on_carry: Callable[[], None] = lambda: None  # sees each datagram before its line does
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = 0
        self._last_stamp: bytes | None = None
        self._client_options = client

    # -- the ends -------------------------------------------------------------------------------
    def start_server(self, **options: Any) -> Server:
        """A new process; the one before is gone without a word."""
        self.server = Server(self, **options)
        return self.server

    def start_client(self, **options: Any) -> Client:
        self.client_sockets.clear()
        self.client = Client(self, **{**self._client_options, **options})
        return self.client

    def start(self) -> tuple[Client, Server]:
        server = self.start_server()
        return self.start_client(), server

    def timestamp(self) -> bytes:
        """TAI64N of the virtual clock; survives restarts as the file does."""
        self._last_stamp = tai64n(CLOCK_START_S + self.now, self._last_stamp)
        return self._last_stamp

    # -- datagrams ------------------------------------------------------------------------------
    def carry(self, line: Line | None, data: bytes, address: Any) -> None:
        """From a client's socket (`line`), or from the server to `address`."""
        to_server = line is not None
        if line is None:
            self.sent_to[address] += len(data)
            line = next((one for one in self.lines if one.address == address), None)
            if line is None:
                return  # a mapping that no NAT has any more
        self.seen.append(Seen(self.now, line.number, to_server, data))
        self.on_carry()
        if not line.up or self.rng.random() < line.loss or len(data) + 28 > line.mtu:
            return
        for _ in range(2 if self.rng.random() < line.duplicate else 1):
            delay = line.delay_s + self.rng.random() * line.jitter_s
            self.inject(data, line, to_server=to_server, after_s=delay)

    def inject(
        self, data: bytes, line: Line, *, to_server: bool, after_s: float = 0.0, source: Any = None
    ) -> None:
        """A datagram arrives, honest or not; `source`: from another address than the line's."""
        address = source or line.address

        def arrive() -> None:
            if to_server and self.server is not None:
                self.server.socket.arrive(data, address)
                self.server.receive(self.server.socket)
            elif not to_server and self.client is not None and line.number in self.client_sockets:
                socket = self.client_sockets[line.number]
                socket.arrive(data, SERVER_ADDRESS)
                self.client.receive(socket)

        self.at(self.now + after_s, arrive)

    def at(self, when: float, what: Callable[[], None]) -> None:
        self._order += 1
        heapq.heappush(self._events, (when, self._order, what))

    # -- time -----------------------------------------------------------------------------------
    def run(self, seconds: float) -> None:
        """Let time pass."""
        self.run_until(lambda: False, seconds)

    def run_until(self, done: Callable[[], bool], within_s: float) -> float:
        """Run until `done`, at most `within_s`; the seconds it took."""
        start, end = self.now, self.now + within_s
        while True:
            for one in (self.client, self.server):
                if one is not None:
                    one.poll()
            if done():
                return self.now - start
            due = [one.deadline() for one in (self.client, self.server) if one is not None]
            when = max(min(due, default=end), self.now + TICK_S)
            if self._events and self._events[0][0] <= when:
                when = max(self._events[0][0], self.now)
            if when > end:
                self.now = end
                return end - start
            self.now = when
            while self._events and self._events[0][0] <= self.now:
                heapq.heappop(self._events)[2]()

    def wait(self, done: Callable[[], bool], within_s: float) -> float:
        """`run_until`, and `done` must come true."""
        took = self.run_until(done, within_s)
        assert done(), f"not within {within_s} s: {self._tail(self.client)}, {self._tail(self.server)}"
        return took

    def all_active(self) -> bool:
        """Whether every line carries data in both directions."""
        numbers = [line.number for line in self.lines]
        ends = (self.client, self.server)
        return all(one is not None and one.active == numbers for one in ends)

    @staticmethod
    def _tail(end: End | None) -> Any:
        return end and ([f"{at:.3f} {line}" for at, line in end.log[-8:]], end.drops.as_dict())
