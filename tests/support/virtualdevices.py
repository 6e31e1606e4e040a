"""Lines, sockets and TAPs of a simulation."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tunnelends import FakeTap

from bondvpn.lab import shape
from bondvpn.lab.pipe import Pipe
from bondvpn.lab.shape import Shape
from bondvpn.runtime.tunnel import GSO_MAX_BYTES, TAP_QUEUE_PACKETS
from bondvpn.session.link import Sent
from bondvpn.wire.transport import ETHERNET_LEN, udp_overhead

if TYPE_CHECKING:
    from virtualnet import World

WIRE_OVERHEAD_BYTES = udp_overhead(ipv6=False) + ETHERNET_LEN
TAP_FD = 3
SOCKET_FD = 4  # of a server's, and a client's from there on


class Line:
    """One line. Change its attributes while the world runs.

    Without a shape it has a delay and no rate, and its jitter lets datagrams overtake each other. With one
    (`bondvpn.lab.shape`) it is what the lab emulates in namespaces: the same pipes carry the datagrams, each
    counted as the Ethernet frame it would be; `reshape` changes it while it carries.
    """

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
        down_bps: int | None = None,
        shape: shape.Line | None = None,
    ) -> None:
        """`rate_bps`, `down_bps`: as configured at the gateway, 0: to be learned."""
        self.number = number
        self.delay_s = delay_s
        self.jitter_s = jitter_s  # up to so much more
        self.loss = loss
        self.duplicate = duplicate
        self.mtu = mtu
        self.interface_mtu = 1500
        self.rate_bps = rate_bps
        self.down_bps = rate_bps if down_bps is None else down_bps
        self.port = 40_000
        self.pipes: dict[bool, Pipe] | None = None
        if shape is not None:
            self.pipes = {True: Pipe(shape.up or Shape()), False: Pipe(shape.down or Shape())}
        self._up = True

    @property
    def up(self) -> bool:
        return self._up

    @up.setter
    def up(self, up: bool) -> None:
        """False: silence in both directions, and what was on its way is gone."""
        self._up = up
        for pipe in (self.pipes or {}).values():
            (pipe.restore if up else pipe.cut)()

    @property
    def port(self) -> int:
        return self.address[1]

    @port.setter
    def port(self, port: int) -> None:
        """The NAT's; `address` is where the server sees the client."""
        self.address = f"203.0.113.{self.number}", port


class Wire:
    """A datagram as a pipe sees it: of the length of its Ethernet frame."""

    __slots__ = ("address", "data", "size")

    def __init__(self, data: bytes, address: Any) -> None:
        self.data = data
        self.address = address
        self.size = len(data) + WIRE_OVERHEAD_BYTES

    def __len__(self) -> int:
        return self.size


class Foreign:
    """A frame of somebody else's on the same line."""

    __slots__ = ("arrive", "size")

    def __init__(self, size: int, arrive: Callable[[], None]) -> None:
        self.size = size
        self.arrive = arrive

    def __len__(self) -> int:
        return self.size


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
        self._inbox: deque[tuple[float, bytes, Any]] = deque()

    def fileno(self) -> int:
        return SOCKET_FD if self._line is None else SOCKET_FD + self._line.number

    @property
    def readable(self) -> bool:
        return bool(self._inbox)

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
        self._inbox.append((self._world.now, data, address))

    def receive_into(self, buffers: list[Any]) -> tuple[int, int, Any, bytes, float] | None:
        if not self._inbox:
            return None
        came_at, data, address = self._inbox.popleft()
        buffers[0][: len(data)] = data
        return len(data), len(data), address, b"", self._world.now - came_at


class VirtualTap(FakeTap):
    """Frames for the other end are put into `frames`; what came is in `written`, or goes to `sink`.

    The kernel's queue in front of us takes `queue_packets` frames by `offer`, then drops.
    """

    uso = True

    def __init__(self) -> None:
        super().__init__()
        self.gso_bytes = GSO_MAX_BYTES
        self.queue_packets = TAP_QUEUE_PACKETS
        self.dropped = 0
        self.on_offer: Callable[[], None] = lambda: None
        self.sink: Callable[[Sequence[Any]], None] | None = None

    @property
    def readable(self) -> bool:
        return bool(self.frames)

    def fileno(self) -> int:
        return TAP_FD

    def emit_uso(self, wanted: bool) -> None:
        pass

    def close(self) -> None:
        self.frames.clear()

    def configure_tap(self, *_: Any, gso_max_size: int, txqueuelen: int, **__: Any) -> None:
        """What netlink would do."""
        self.gso_bytes, self.queue_packets = gso_max_size, txqueuelen

    def offer(self, frame: bytes) -> bool:
        """A frame from the host's own stack; False if the queue is full."""
        if len(self.frames) >= self.queue_packets:
            self.dropped += 1
            return False
        self.frames.append(frame)
        self.on_offer()
        return True

    def write(self, parts: Sequence[Any]) -> bool:
        if self.sink is None:
            return super().write(parts)
        self.sink(parts)
        return True
