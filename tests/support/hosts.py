"""What stands behind the ends of a simulated bond, and two hosts without a bond between them."""

from collections.abc import Callable, Sequence
from typing import Any

from tcpframes import UDP, cut, datagram, head_of, numbers_of, parse, protocol_of
from tcpreceiver import TcpReceiver
from tcpsender import TcpSender
from virtualloop import Clock
from virtualnet import Line, World

from bondvpn.lab import shape
from bondvpn.lab.pipe import Pipe
from bondvpn.lab.shape import Shape

PORTS = (443, 40_000)
VIRTIO_BYTES = 10
PROBE_PORT = 9
PROBE_BYTES = 142


class Host:
    """What stands behind one end: TCP by ports, and the probe."""

    def __init__(self, clock: Clock, emit: Callable[[bytes], Any]) -> None:
        self.clock = clock
        self.emit = emit
        self.tcp: dict[int, TcpSender | TcpReceiver] = {}  # by the port it listens at
        self.on_datagram: Callable[[int], None] = lambda number: None

    def take(self, parts: Sequence[Any]) -> None:
        """A frame from the network."""
        head, length = head_of(parts)
        if protocol_of(head) == UDP:
            for _, number in numbers_of(head, length, PROBE_BYTES):
                self.on_datagram(number)
            return
        one = parse(head, length)
        self.tcp[one.target].receive(one)


class Probe:
    """A constant rate of small datagrams that the other host sends back."""

    def __init__(self, near: Host, far: Host, hz: float, *, near_is_server: bool, dscp: int = 0) -> None:
        self.clock = near.clock
        self.near = near
        self.interval = 1 / hz
        self.sent: list[float] = []
        self.arrived: dict[int, float] = {}  # at the far host
        self.back: dict[int, float] = {}
        self.until = float("inf")
        self._make = lambda number: datagram(near_is_server, PROBE_PORT, number, PROBE_BYTES, dscp)

        def echo(number: int) -> None:
            self.arrived.setdefault(number, self.clock.now)
            far.emit(datagram(not near_is_server, PROBE_PORT, number, PROBE_BYTES, dscp))

        def returned(number: int) -> None:
            self.back.setdefault(number, self.clock.now)

        far.on_datagram, near.on_datagram = echo, returned

    def start(self) -> None:
        if self.clock.now >= self.until:
            return
        self.sent.append(self.clock.now)
        self.near.emit(self._make(len(self.sent) - 1))
        self.clock.at(self.clock.now + self.interval, self.start)


class Demux:
    """Several connections from one port."""

    def __init__(self, host: Host, senders: Sequence[TcpSender]) -> None:
        by_peer = {sender.ports[1]: sender for sender in senders}

        def receive(one: Any) -> None:
            by_peer[one.source].receive(one)

        self.receive = receive
        host.tcp[PORTS[0]] = self  # type: ignore[assignment]


def cross_traffic(world: World, line: Line, cc: str) -> TcpReceiver:
    """Another host's download through the same modem, from now on."""

    def on_line(to_server: bool, other: list[Host]) -> Callable[[bytes], None]:
        def emit(frame: bytes) -> None:
            for packet in cut(frame):
                size = len(packet) - VIRTIO_BYTES
                world.share(line, size, lambda packet=packet: other[0].take([packet]), to_server=to_server)

        return emit

    clients: list[Host] = []
    servers: list[Host] = []
    clients.append(Host(world.clock, on_line(True, servers)))
    servers.append(Host(world.clock, on_line(False, clients)))
    sender = TcpSender(world.clock, servers[0].emit, from_server=True, ports=PORTS, cc=cc)
    receiver = TcpReceiver(world.clock, clients[0].emit, from_server=False, ports=PORTS[::-1])
    servers[0].tcp[PORTS[0]] = sender
    clients[0].tcp[PORTS[1]] = receiver
    sender.start()
    return receiver


class PlainWorld:
    """Two hosts and a line between them: frames are cut into packets, as a kernel does."""

    def __init__(self, line: shape.Line) -> None:
        self.clock = Clock()
        self.pipes = {True: Pipe(line.up or Shape()), False: Pipe(line.down or Shape())}
        self.client = Host(self.clock, lambda frame: self._carry(frame, True))
        self.server = Host(self.clock, lambda frame: self._carry(frame, False))
        self._due = {True: float("inf"), False: float("inf")}

    def run(self, seconds: float) -> None:
        end = self.clock.now + seconds
        while self.clock.step(end):
            pass
        self.clock.now = end

    def _carry(self, frame: bytes, to_server: bool) -> None:
        for packet in cut(frame):
            self.pipes[to_server].offer(packet[VIRTIO_BYTES:], self.clock.now)
        self._pump(to_server)

    def _pump(self, to_server: bool) -> None:
        due = self.pipes[to_server].next_deadline()
        if due is not None and due < self._due[to_server]:
            self._due[to_server] = due
            self.clock.at(due, lambda: self._drain(to_server))

    def _drain(self, to_server: bool) -> None:
        self._due[to_server] = float("inf")
        host = self.server if to_server else self.client
        for packet in self.pipes[to_server].due(self.clock.now):
            host.take([bytes(VIRTIO_BYTES) + packet])
        self._pump(to_server)
