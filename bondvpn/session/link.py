"""One link of a session: a line between this end and the peer, with its path, pace and counters."""

from collections.abc import Iterable
from enum import IntEnum
from typing import Any, NamedTuple, Protocol

from bondvpn.bond.arrivals import REPORT_SPARSE_S
from bondvpn.bond.capacity import Capacity, Phase
from bondvpn.bond.demotion import Demotion
from bondvpn.bond.flight import Piece
from bondvpn.bond.liveness import BUSY_FOR_S, PROBE_BUSY_S, TIMEOUT_FLOOR_S, LinkState, Liveness
from bondvpn.bond.pacer import Pacer
from bondvpn.bond.pathmtu import PathMtu
from bondvpn.session.keypair import SendLane
from bondvpn.stats import Drop, Drops
from bondvpn.wire.transport import ETHERNET_LEN, udp_overhead

PATH_MTU_DEFAULT_BYTES = 1500  # until the interface's MTU is known
AMPLIFICATION_MAX = 3  # bytes to an unproven address per byte from it (RFC 9000, 8.1)
# A run leaves at once, and a line paced at its very rate would keep in its modem what that and jitter queue:
# a pacer's bucket and a run at the most. With 1 % less two lines of 1 Mbit/s carry 0.99 to 1.00 of what two
# OpenVPN tunnels do that fill the modem, now 1.01 (bench eql, up).
PACE = 0.995
LATE_RTTS = 9 / 8  # RFC 9002, 6.1.2
PROBE_FRAME_BYTES = 83
PROBE_SHARE = 0.005  # of a line, each way
PROBE_LINKS = 4  # at the busy pace; at 8 links probes were 4 % of all work at 400 Mbit/s
PROBE_THIN_S = 0.25  # at the most apart while busy
TRAIN_IDLE_S = 2.0  # 6 KB in front of a flow that begins cost 0.1 of its first second (simulated)


class Sent(IntEnum):
    """What became of a run; the values of linux.udp.Sent."""

    OK = 0
    BLOCKED = 1
    TOO_BIG = 2
    DOWN = 3


class DatagramSocket(Protocol):
    """A line's socket as seen from here."""

    ipv6: bool
    gso: bool
    gso_fallbacks: int
    last_error: str

    def send_run(
        self, run: memoryview, segment: int, address: Any, local: bytes = b""
    ) -> tuple[IntEnum, int]: ...


class Path(NamedTuple):
    """Where a link's datagrams go: out of a socket, to an address, from a local one (packet info)."""

    socket: DatagramSocket
    address: Any
    local: bytes = b""


class LinkObserver(Protocol):
    """Who hears what the hot path notices."""

    def link_busy(self) -> None:
        """Data flows again after a pause: probes are due sooner than thought."""

    def link_failed(self, link: "Link", reason: str, now: float) -> None:
        """The kernel cannot send on this link."""

    def link_blocked(self, link: "Link") -> None:
        """The socket's buffer is full: tell when it can take `link.unsent`."""

    def link_too_big(self, link: "Link", now: float) -> None:
        """Datagrams of the present size exceed the interface's MTU."""


class Link:
    """State of one link. `number` is its lane in every keypair of the session."""

    def __init__(self, number: int, name: str, observer: LinkObserver, drops: Drops) -> None:
        self.number = number
        self.name = name
        self.reason = ""  # why it is not active, in words
        self.path: Path | None = None
        self.liveness = Liveness()
        self.path_mtu = PathMtu(PATH_MTU_DEFAULT_BYTES, 0.0)
        self.interface_mtu = 0  # ours, 0: unknown; the peer learns it with the path challenge
        self.send_rate_bps = 0  # the line's speed in our sending direction, 0: unknown
        self.receive_rate_bps = 0  # the other way
        self.rate_bps: int | None = None  # what it is paced to, None: unlimited
        self.pacer = Pacer(None)
        self.served_s = 0.0
        self.capacity = Capacity()
        self.demotion = Demotion()
        self.carries = False  # whether bulk is spread over it
        self.tier = 0  # lines of a worse tier are used when those of the better ones are full or gone
        self.blocked = False
        self.unsent: tuple[bytes, int] | None = None  # (datagrams, segment) the socket would not take
        self.frame_overhead = udp_overhead(ipv6=False) + ETHERNET_LEN
        self.send_lane: SendLane
        self.old_lane: SendLane | None = None  # of the keys before, while reports on it may come
        self.reported_bytes = 0  # that the peer says came by this link, as Ethernet frames
        self.reported_at = 0  # when the last of them came, in TIME_UNIT_S that passed for the peer
        self.peer_clock: int | None = None  # as the last report had it, modulo 2^32
        self.progressed = -1e9  # when a report last said that something came
        self.lost_datagrams = 0  # as the reports say
        self.resent_chunks = 0
        self.last_data = -1e9
        self.last_received = -1e9
        self.tx_bytes = self.rx_bytes = 0  # as Ethernet frames
        self.tx_datagrams = self.rx_datagrams = 0
        self.challenge = b""  # the token we wait for
        self.challenge_due = float("inf")
        self.allowance: int | None = None  # bytes that may go to an unproven address, None: it is proven
        self._observer = observer
        self._drops = drops

    @property
    def active(self) -> bool:
        return self.liveness.state is LinkState.ACTIVE

    @property
    def srtt_s(self) -> float:
        return self.liveness.rtt.srtt_s

    @property
    def in_flight(self) -> int:
        """Bytes under way, as Ethernet frames."""
        old = self.old_lane.flight.in_flight if self.old_lane is not None else 0
        return self.send_lane.flight.in_flight + old

    @property
    def oldest(self) -> float:
        """When the oldest of what is under way left; infinite when nothing is."""
        oldest = self.send_lane.flight.oldest
        return oldest if self.old_lane is None else min(oldest, self.old_lane.flight.oldest)

    @property
    def late_at(self) -> float:
        """When the report on the oldest that this link alone is to bring is overdue (RFC 9002, 6.1.2)."""
        if not self.capacity.report_s:
            return float("inf")  # how far apart reports are is not known yet
        wait = LATE_RTTS * self.capacity.delays.srtt_s + max(self.capacity.report_s, REPORT_SPARSE_S)
        return self.send_lane.flight.oldest_load + wait

    def forget(self) -> Piece[Any] | None:
        """Give up knowing of the oldest run under way; None if there is none."""
        piece = self.old_lane.flight.forget() if self.old_lane is not None else None
        return piece or self.send_lane.flight.forget()

    @property
    def _silent_since(self) -> float:
        """When the oldest of what is under way left, or the last report of something that came."""
        return max(self.oldest, self.progressed)

    def silence_due(self, others: Iterable["Link"]) -> float:
        """When silence on this link will mean something; infinite with nothing under way, or while the others
        of its session are silent too.

        A report must have told of another one's progress when it should have spoken of this one: else it is
        the reports that do not come, because the line that carries them died, or because the peer or we stood
        still. Then probes judge.
        """
        due = self._silent_since + self.liveness.rtt.timeout_s + self.capacity.report_s
        spoken_by = due - TIMEOUT_FLOOR_S
        return due if any(other.progressed > spoken_by for other in others) else float("inf")

    def silence_s(self, now: float, others: Iterable["Link"]) -> float:
        """For how long nothing came of what is under way, once that means that the link is silent; else 0."""
        return now - self._silent_since if now >= self.silence_due(others) else 0.0

    def fit_probes(self, links: int) -> None:
        """On a line that is thin either way, as each is answered, and with many `links`, probes are rarer:
        the reports tell of a line's life too. (Answers to 20 a second were 2.7 % of 0.5 Mbit/s up.)"""
        spacing = PROBE_BUSY_S * max(1.0, links / PROBE_LINKS)
        for rate in (self.capacity.known_rate, self.receive_rate_bps / 8):
            if rate:
                spacing = max(spacing, PROBE_FRAME_BYTES / (PROBE_SHARE * rate))
        self.liveness.busy_s = min(spacing, PROBE_THIN_S)

    def long_probed(self, number: int, size: int, now: float) -> None:
        """The path MTU probe of that id, `size` bytes as an IP packet, was answered."""
        self.liveness.long_probes.answered(number, size + ETHERNET_LEN, now)
        self._begin()

    def short_probed(self, number: int, now: float) -> None:
        """The probe of that id was answered."""
        self.liveness.long_probes.short_answered(number, now)
        self._begin()

    def asks_again(self, now: float) -> bool:
        """Whether a train of long probes is to leave now, for the idle line looks thin by single ones."""
        thin = self.capacity.phase is Phase.STARTUP and self.capacity.told_thin
        idle = now - max(self.liveness.since, self.last_data) > TRAIN_IDLE_S
        return thin and idle and not self.path_mtu.searching and self.liveness.long_probes.ask_again()

    def _begin(self) -> None:
        """What probes of both lengths took is what is known of a line that has carried nothing yet."""
        rate = self.liveness.long_probes.rate(self.liveness.rtt.min_s)
        self.capacity.begin_thin(rate)

    def rekey(self, lane: SendLane) -> list[Piece[Any]]:
        """Send by `lane` from now on; what is still under way on the lane before the present one is lost to
        us: no report will speak of it."""
        if getattr(self, "send_lane", None) is lane:
            return []
        forgotten = self.old_lane.flight.drain() if self.old_lane is not None else []
        self.old_lane = getattr(self, "send_lane", None)
        self.send_lane = lane
        return forgotten

    def drain(self) -> list[Piece[Any]]:
        """All that is under way, which this link will not bring any more."""
        lanes = [self.old_lane, getattr(self, "send_lane", None)]
        self.old_lane = None
        return [piece for lane in lanes if lane is not None for piece in lane.flight.drain()]

    def busy(self, now: float) -> bool:
        """Whether it carried data lately."""
        return now - self.last_data < BUSY_FOR_S

    def set_send_rate(self, rate_bps: int) -> None:
        """The line's speed in our sending direction, 0 if not known."""
        self.send_rate_bps = rate_bps
        self.rate_bps = int(rate_bps * PACE) if rate_bps else None
        self.pacer = Pacer(self.rate_bps)
        self.capacity = Capacity(self.rate_bps)

    def set_path(self, path: Path) -> None:
        self.path = path
        self.blocked, self.unsent = False, None  # was the old socket's
        self.frame_overhead = udp_overhead(ipv6=path.socket.ipv6) + ETHERNET_LEN

    def received(self, size: int, count: int, path: Path, now: float) -> None:
        """`count` authentic datagrams, `size` bytes in sum, came by `path`."""
        self.last_received = now
        self.rx_datagrams += count
        self.rx_bytes += size + count * self.frame_overhead
        if self.allowance is not None and path == self.path:
            self.allowance += AMPLIFICATION_MAX * size

    def send_run(self, run: memoryview, segment: int, count: int, now: float) -> None:
        """Send `count` sealed datagrams of `segment` bytes (the last may be shorter)."""
        if now - self.last_data > BUSY_FOR_S:
            self._observer.link_busy()
        self.last_data = now
        self.tx_datagrams += count
        self.tx_bytes += len(run) + count * self.frame_overhead
        path = self.path
        if path is None:
            self._drops.count(Drop.SOCKET, count)
            return
        sent, done = path.socket.send_run(run, segment, path.address, path.local)
        if sent != Sent.OK:
            self._not_sent(Sent(sent), run[done:], segment, now)

    def send_control(self, datagram: bytes, now: float) -> None:
        """Send one sealed control datagram; a lost one is repeated by its timer."""
        path = self.path
        if path is None:
            return
        if self.allowance is not None:
            if len(datagram) > self.allowance:
                return
            self.allowance -= len(datagram)
        size = len(datagram) + self.frame_overhead
        self.tx_bytes += size
        self.pacer.spend(size)  # reports are 1 to 2 % of a line: unpaid they would queue in the modem
        if self.rate_bps:
            self.served_s += size * 8 / self.rate_bps
        sent, _ = path.socket.send_run(memoryview(datagram), len(datagram), path.address, path.local)
        if sent == Sent.DOWN:
            self._observer.link_failed(self, path.socket.last_error, now)

    def flush(self, now: float) -> None:
        """The socket takes more: send what it would not take before."""
        if self.unsent is None or self.path is None:
            self.blocked, self.unsent = False, None
            return
        data, segment = self.unsent
        self.blocked, self.unsent = False, None
        sent, done = self.path.socket.send_run(memoryview(data), segment, self.path.address, self.path.local)
        if sent != Sent.OK:
            self._not_sent(Sent(sent), memoryview(data)[done:], segment, now)

    def _not_sent(self, sent: Sent, rest: memoryview, segment: int, now: float) -> None:
        if sent is Sent.BLOCKED:
            self.unsent = (bytes(rest), segment)  # the slab is needed for the next run
            self.blocked = True
            self._observer.link_blocked(self)
            return
        self._drops.count(Drop.SOCKET, -(-len(rest) // segment))
        if sent is Sent.TOO_BIG:
            self._observer.link_too_big(self, now)
        elif self.path is not None:
            self._observer.link_failed(self, self.path.socket.last_error, now)
