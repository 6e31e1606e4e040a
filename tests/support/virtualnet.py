"""Both ends of a tunnel over simulated lines, on a virtual clock: seconds of network in milliseconds of test.

    client --- line 0 --- server        each line: delay, jitter, loss, duplication, MTU, and a NAT that may
           --- line 1 ---               give the client another port

The ends are the real `runtime.engine` and `runtime.tunnel`; sockets, TAPs and the loop are virtual. A `World`
moves time from event to event: a datagram arrives, or a timer fires that an end set. So a deadline that is
missing shows as something that never happens.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from virtualdevices import Foreign, Line, VirtualSocket, VirtualTap, Wire
from virtualloop import Clock, VirtualLoop

from bondvpn import config
from bondvpn.lab.pipe import Pipe
from bondvpn.noise.handshake import Identity, Remote
from bondvpn.noise.timestamp import tai64n
from bondvpn.runtime.engine import Engine
from bondvpn.runtime.tunnel import Tunnel
from bondvpn.session.initiator import Initiator
from bondvpn.session.keypair import REKEY_AFTER_S, Keypair
from bondvpn.session.link import Link, Path
from bondvpn.session.responder import ClientPeer, Responder
from bondvpn.session.session import Session
from bondvpn.stats import Drop
from bondvpn.wire.capabilities import AES_256_GCM, CHACHA20_POLY1305
from bondvpn.wire.handshake import INITIATION, RESPONSE

CLIENT_KEY, SERVER_KEY = b"\x11" * 32, b"\x22" * 32
PSK = b"\x33" * 32
SERVER_ADDRESS = ("198.51.100.1", 1189)
CLOCK_START_S = 1_700_000_000.0
NEVER = float("inf")


class Seen(NamedTuple):
    """One datagram given to a line."""

    at: float
    line: int
    to_server: bool
    data: bytes


class VirtualEngine(Engine):
    """The real one on the virtual clock."""

    def __init__(self, world: "World") -> None:
        loop = VirtualLoop(world.clock)
        super().__init__(loop, clock=lambda: world.clock.now, random=world.random, alarm=loop.timer)

    def fit_tap(self, interface: str, gso_bytes: int) -> None:
        tap = self.tunnels[0].tap
        tap.gso_bytes = gso_bytes


class End(Tunnel):
    """The real tunnel and engine; only the devices are virtual, and it remembers what happened."""

    def __init__(self, world: "World", name: str, *, scheduler: str, speed_bps: float | None) -> None:
        self.world = world
        self.log: list[tuple[float, str]] = []
        self.engine = VirtualEngine(world)
        settings = config.Tunnel(interface=name, address=(), scheduler=scheduler)
        super().__init__(name, settings, self.engine, VirtualTap())
        self.engine.tunnels.append(self)
        self.configure(self.tap, speed_bps, b"")
        self.loop = self.engine.loop
        self.tap.on_offer = self._read_soon
        self.table = self.engine.table

    def _read_soon(self) -> None:
        """What the kernel answers while frames are written is read once all of them are."""
        clock = self.world.clock
        clock.at(clock.now, lambda: self.loop.read(self.tap))

    def begin(self, control: Any) -> None:
        self.engine.control = control
        self.engine.control_changed()
        self.start()

    # -- what happened --------------------------------------------------------------------------
    def count(self, reason: Drop) -> int:
        return self.drops.counts[reason] + self.engine.drops.counts[reason]

    @property
    def dropped(self) -> dict[str, int]:
        """Every reason and its count, of the tunnel and of the process."""
        return dict(Counter(self.drops.as_dict()) + Counter(self.engine.drops.as_dict()))

    def logged(self, text: str, since: float = 0.0) -> list[float]:
        """When something with `text` in it happened."""
        return [at for at, line in self.log if text in line and at >= since]

    def link(self, number: int) -> Link:
        assert self.session is not None
        return self.session.links[number]

    @property
    def active(self) -> list[int]:
        return [] if self.session is None else sorted(link.number for link in self.session.active)

    def session_started(self, session: Session, now: float) -> None:
        self.log.append((now, "session started"))
        super().session_started(session, now)

    def session_ended(self, session: Session, reason: str, now: float) -> None:
        self.log.append((now, f"session ended: {reason}"))
        super().session_ended(session, reason, now)

    def link_changed(self, session: Session, link: Link, now: float) -> None:
        self.log.append((now, f"{link.name} {link.liveness.state.value} {link.reason}"))
        super().link_changed(session, link, now)

    # -- Control --------------------------------------------------------------------------------
    def confirm(self, keypair: Keypair, now: float) -> None:
        pass


class Control:
    """`engine.Control` around an initiator or a responder."""

    def __init__(self, plane: Initiator | Responder, end: End) -> None:
        self.poll = plane.poll
        self.deadline = plane.deadline
        self.handshake = end.handshake
        self.confirm = end.confirm


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
        scheduler: str = "adaptive",
    ) -> None:
        speeds = [line.rate_bps for line in world.lines]
        super().__init__(world, "bond0", scheduler=scheduler, speed_bps=sum(speeds) if all(speeds) else None)
        self.links = {}
        for line in world.lines:
            link = Link(line.number, f"line{line.number}", self, self.drops)
            link.receive_rate_bps = line.down_bps
            link.interface_mtu = line.interface_mtu
            link.set_send_rate(line.rate_bps)
            self.links[line.number] = link
        self.connect()
        self.initiator = Initiator(
            identity=Identity(key),
            remote=Remote(Identity(SERVER_KEY).public, psk),
            capabilities=self.capabilities(world.random(8), ciphers),
            links=self.links,
            table=self.table,
            random=world.random,
            timestamp=world.timestamp,
            observer=self,
            drops=self.drops,
            rekey_after_s=rekey_after_s,
        )
        self.begin(Control(self.initiator, self))

    def connect(self) -> None:
        """Sockets for the links that have none."""
        for line in self.world.lines:
            if self.links[line.number].path is None:
                socket = VirtualSocket(self.world, line)
                self.world.client_sockets[line.number] = socket
                self.engine.watch_socket(socket)
                self.links[line.number].set_path(Path(socket, SERVER_ADDRESS))

    def handshake(self, datagram: bytes, path: Path, now: float) -> None:
        if datagram[0] == RESPONSE:
            self.initiator.receive_response(datagram, now)
        else:
            self.drops.count(Drop.TYPE)


class Server(End):
    """The root server: one socket, one client in its configuration."""

    def __init__(self, world: "World", *, psk: bytes = PSK, scheduler: str = "adaptive") -> None:
        super().__init__(world, "office0", scheduler=scheduler, speed_bps=None)
        self.peer = ClientPeer("office", Identity(CLIENT_KEY).public, psk, self, self.drops)
        self.responder = Responder(
            identity=Identity(SERVER_KEY),
            capabilities=self.capabilities(world.random(8), 0),
            has_aes=True,
            peers=[self.peer],
            table=self.table,
            random=world.random,
            drops=self.engine.drops,
        )
        self.socket = VirtualSocket(world, None)
        self.engine.watch_socket(self.socket)
        self.begin(Control(self.responder, self))

    def handshake(self, datagram: bytes, path: Path, now: float) -> None:
        if datagram[0] == INITIATION:
            self.responder.receive_initiation(datagram, path, now)
        else:
            self.drops.count(Drop.TYPE)

    def confirm(self, keypair: Keypair, now: float) -> None:
        self.responder.confirm(keypair, now)


class World:
    """Lines, two ends and a clock."""

    def __init__(self, lines: Sequence[Line], *, seed: int = 1, quiet: bool = False, **client: Any) -> None:
        if not quiet:
            print(f"seed {seed}")
        self.rng = random.Random(seed)
        self.random = self.rng.randbytes
        self.lines = list(lines)
        self.clock = Clock()
        self.at = self.clock.at
        self.record = True  # every datagram, in `seen`, and `on_carry` hears of it
        self.seen: list[Seen] = []
        self.sent_to: dict[Any, int] = defaultdict(int)  # bytes the server sent to each address
        self.client_sockets: dict[int, VirtualSocket] = {}
        self._client: Client | None = None
        self._server: Server | None = None
        self.on_carry: Callable[[], None] = lambda: None  # sees each datagram before its line does
        self._pumps: dict[Pipe, float] = {}  # when each pipe is next looked at
        self._last_stamp: bytes | None = None
        self._client_options = client

    @property
    def now(self) -> float:
        return self.clock.now

    @now.setter
    def now(self, now: float) -> None:
        self.clock.now = now

    # -- the ends -------------------------------------------------------------------------------
    def start_server(self, **options: Any) -> Server:
        """A new process; the one before is gone without a word."""
        self.server = Server(self, **options)
        return self.server

    def start_client(self, **options: Any) -> Client:
        self.client_sockets.clear()
        self.client = Client(self, **{**self._client_options, **options})
        return self.client

    def start(self, scheduler: str = "adaptive") -> tuple[Client, Server]:
        server = self.start_server(scheduler=scheduler)
        return self.start_client(scheduler=scheduler), server

    @property
    def client(self) -> Client | None:
        return self._client

    @client.setter
    def client(self, client: Client | None) -> None:
        """None: the process is killed."""
        if self._client is not None:
            self._client.loop.closed = True
        self._client = client

    @property
    def server(self) -> Server | None:
        return self._server

    @server.setter
    def server(self, server: Server | None) -> None:
        if self._server is not None:
            self._server.loop.closed = True
        self._server = server

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
            line = self._line_to(address)
            if line is None:
                return  # a mapping that no NAT has any more
        if self.record:
            self.seen.append(Seen(self.clock.now, line.number, to_server, data))
            self.on_carry()
        if line.pipes is not None:
            pipe = line.pipes[to_server]
            pipe.offer(Wire(data, line.address), self.clock.now)
            if pipe not in self._pumps:
                self._pump(pipe, line, to_server)
            return
        if not line.up or self.rng.random() < line.loss or len(data) + 28 > line.mtu:
            return
        for _ in range(2 if self.rng.random() < line.duplicate else 1):
            delay = line.delay_s + self.rng.random() * line.jitter_s
            self.inject(data, line, to_server=to_server, after_s=delay)

    def _line_to(self, address: Any) -> Line | None:
        for line in self.lines:
            if line.address == address:
                return line
        return None

    def inject(
        self, data: bytes, line: Line, *, to_server: bool, after_s: float = 0.0, source: Any = None
    ) -> None:
        """A datagram arrives, honest or not; `source`: from another address than the line's."""
        address = source or line.address
        self.at(self.now + after_s, lambda: self._arrive(data, line, to_server, address))

    def _arrive(self, data: bytes, line: Line, to_server: bool, address: Any) -> None:
        if to_server and self._server is not None:
            self._server.socket.arrive(data, address)
            self._server.loop.read(self._server.socket)
        elif not to_server and self._client is not None and line.number in self.client_sockets:
            socket = self.client_sockets[line.number]
            socket.arrive(data, SERVER_ADDRESS)
            self._client.loop.read(socket)

    def _pump(self, pipe: Pipe, line: Line, to_server: bool) -> None:
        """See to it that somebody looks when the pipe's next datagram arrives."""
        due = pipe.next_deadline()
        if due is not None and due < self._pumps.get(pipe, NEVER):
            self._pumps[pipe] = due
            self.at(due, lambda: self._drain(due, pipe, line, to_server))

    def _drain(self, due: float, pipe: Pipe, line: Line, to_server: bool) -> None:
        if self._pumps.get(pipe) != due:
            return  # it was reshaped, and has been looked at earlier
        del self._pumps[pipe]
        for wire in pipe.due(self.clock.now):
            if type(wire) is Wire:
                self._arrive(wire.data, line, to_server, wire.address)
            else:
                wire.arrive()
        self._pump(pipe, line, to_server)

    def share(self, line: Line, size: int, arrive: Callable[[], None], *, to_server: bool) -> None:
        """A frame of `size` bytes of somebody else's takes its place in a shaped line's queue."""
        pipe = line.pipes[to_server]
        pipe.offer(Foreign(size, arrive), self.clock.now)
        self._pump(pipe, line, to_server)

    def reshape(self, line: Line, *, to_server: bool, **changes: Any) -> None:
        """Change figures of one direction of a shaped line in mid-traffic."""
        pipe = line.pipes[to_server]
        pipe.reshape(pipe.shape.changed(**changes), self.now)
        self._pump(pipe, line, to_server)

    # -- time -----------------------------------------------------------------------------------
    def run(self, seconds: float) -> None:
        """Let time pass."""
        self.run_until(lambda: False, seconds)

    def run_until(self, done: Callable[[], bool], within_s: float) -> float:
        """Run until `done`, at most `within_s`; the seconds it took."""
        start, end = self.now, self.now + within_s
        step = self.clock.step
        while True:
            for one in (self._client, self._server):
                if one is not None and one.tap.frames:
                    one.loop.read(one.tap)
            if done():
                return self.now - start
            if not step(end):
                self.now = end
                return end - start

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
        return end and ([f"{at:.3f} {line}" for at, line in end.log[-8:]], end.dropped)
