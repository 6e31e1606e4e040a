"""One TAP and what stands behind it: a session, its links, both directions of the datapath."""

import asyncio
import hashlib
import logging
from collections.abc import Callable
from math import inf
from typing import Any, Protocol

from bondvpn import config
from bondvpn.bond.adaptive import Adaptive, Backup, Redundant
from bondvpn.bond.flight import Piece
from bondvpn.bond.line import Scheduler
from bondvpn.bond.liveness import PROBE_BUSY_S, PROBE_IDLE_SERVER_S, LinkState
from bondvpn.bond.weighted import Weighted
from bondvpn.datapath.outbound import Outbound
from bondvpn.datapath.reassembly import FrameSink, Reassembly
from bondvpn.datapath.slab import CHUNK_MAX_BYTES, SealSlab, chunk_capacity, run_frame_bytes
from bondvpn.datapath.train import FrameSource
from bondvpn.linux.journal import Journal, TapDevice
from bondvpn.linux.netlink import Netlink, tunnel_routes
from bondvpn.runtime.hooks import Announcer
from bondvpn.runtime.linkstatus import Rates, link_status
from bondvpn.session.link import Link
from bondvpn.session.session import Session
from bondvpn.stats import Drops
from bondvpn.wire.capabilities import AES_256_GCM, CSUM, TSO4, TSO6, USO, VERSION, Capabilities
from bondvpn.wire.transport import ETHERNET_LEN

log = logging.getLogger(__name__)

GSO_S = 0.005  # of the lines' sum in one super-frame: a slow bond is not fed 64 KiB lumps
GSO_MIN_BYTES = 9_000  # six full packets: with two, their headers cost 2 % of a slow bond
GSO_MAX_BYTES = 65_000  # what a peer may send us in one super-frame: a record's length is 16 bits
# The TAP's own queue only has to hold what comes between two reads: what may wait is decided behind it. With
# 48 frames it lost 10 % of 80,000 UDP packets a second, with 1000 up to 1 % of 200,000, with 2000 none.
TAP_QUEUE_PACKETS = 2000
REREAD_S = 0.003  # the wait of an express frame while the queue is full

SCHEDULERS: dict[str, type[Scheduler[Link]]] = {
    "adaptive": Adaptive,
    "weighted": Weighted,
    "redundant": Redundant,
    "backup": Backup,
}


def record_tap(settings: config.Tunnel, netlink: Netlink, journal: Journal) -> None:
    """Note what undoing the tunnel takes: its TAP, or only its routes if the TAP is an administrator's
    persistent one."""
    if netlink.link_index(settings.interface) is None:
        journal.record([TapDevice(interface=settings.interface)])
    else:
        journal.record(tunnel_routes(settings.interface, settings.routes))


class Device(FrameSource, FrameSink, Protocol):
    """An open TAP (`linux.tap.Tap`)."""

    uso: bool

    def emit_uso(self, wanted: bool) -> None: ...
    def fileno(self) -> int: ...
    def close(self) -> None: ...


class Host(Protocol):
    """The engine as a tunnel sees it."""

    loop: asyncio.AbstractEventLoop
    clock: Callable[[], float]
    seal: SealSlab

    def wake_at(self, deadline: float, now: float) -> None: ...
    def control_changed(self) -> None: ...
    def session_started(self, session: Session, reassembly: Reassembly) -> None: ...
    def session_ended(self, session: Session) -> None: ...
    def when_writable(self, link: Link, done: Callable[[], None]) -> None: ...
    def fit_tap(self, interface: str, gso_bytes: int) -> None: ...


class Tunnel:
    """Implements the observers of session and links."""

    def __init__(
        self,
        name: str,
        settings: config.Tunnel,
        host: Host,
        tap: Device,
        announcer: Announcer | None = None,
    ) -> None:
        """`announcer` is told which links are active whenever that may have changed."""
        self._announcer = announcer
        self.name = name
        self.settings = settings
        self.session: Session | None = None
        self.since = host.clock()
        self.drops = Drops()
        self.tap = tap
        self._host = host
        self._scheduler: Scheduler[Link] = SCHEDULERS[settings.scheduler]()
        self._out = Outbound(self.tap, self._scheduler, host.seal, self.drops)
        self._in = Reassembly(self.tap, self.drops, uso=self.tap.uso)
        self._rates: dict[int, Rates] = {}
        self._states: dict[int, tuple[LinkState, bool]] = {}  # and whether demoted, as last logged
        self._capacity = CHUNK_MAX_BYTES
        self._gso_bytes = _gso_bytes(None, self._capacity)
        self._reading = False
        self._reread_at = 0.0
        self._hasten_at = inf  # when to see whether a line is late
        self._stopping = False

    def configure(self, netlink: Netlink, rate_bps: float | None, public_key: bytes) -> None:
        """MAC, addresses, MTU, routes, up; `rate_bps`: the lines' sum, if known. Raises SystemFault."""
        if self.settings.scheduler != "weighted":
            rate_bps = None
        self._gso_bytes = _gso_bytes(rate_bps, self._capacity)
        netlink.configure_tap(
            self.settings.interface,
            self.settings.address,
            self.settings.mtu,
            self.settings.routes,
            mac=_mac(public_key, self.settings.interface),
            gso_max_size=self._gso_bytes,
            txqueuelen=TAP_QUEUE_PACKETS,
        )

    def capabilities(self, instance: bytes, ciphers: int) -> Capabilities:
        """What this end can take, for the handshake."""
        offloads = CSUM | TSO4 | TSO6 | (USO if self.tap.uso else 0)
        return Capabilities(VERSION, ciphers, offloads, instance, GSO_MAX_BYTES, self.settings.mtu)

    def start(self) -> None:
        """Read the TAP; without a session what comes is dropped."""
        self._read(True)

    def stop(self, now: float) -> None:
        """Say goodbye and close the TAP."""
        self._stopping = True
        if self.session is not None:
            self.session.close(now)
        self._read(False)
        self.tap.close()

    # -- the TAP --------------------------------------------------------------------------------
    def _read(self, wanted: bool) -> None:
        if wanted != self._reading:
            self._reading = wanted
            if wanted:
                self._host.loop.add_reader(self.tap.fileno(), self._on_tap)
            else:
                self._host.loop.remove_reader(self.tap.fileno())

    def _on_tap(self) -> None:
        now = self._host.clock()
        if self.session is None:
            self._out.discard()
            return
        self._carry(now)

    def answer(self, now: float) -> None:
        """A frame was delivered out of silence: what the kernel itself answers (echo replies, ACKs) waits at
        the TAP already."""
        if self._reading:
            self._carry(now)

    def _carry(self, now: float) -> None:
        self._out.on_readable(now)
        self._after_dispatch(now)

    def _after_dispatch(self, now: float) -> None:
        """While no line has room the TAP is read only each REREAD_S: what is express must not wait behind
        what will be dropped."""
        waiting = self._out.waiting
        if not waiting and self._hasten_at == inf and len(self._scheduler.spread) > 1:
            self._hasten_at = now + PROBE_BUSY_S
            self._host.wake_at(self._hasten_at, now)
        if self._reading and not waiting:
            return
        full = self._out.full
        if full and self._reading:
            self._reread_at = now + REREAD_S
            self._host.wake_at(self._reread_at, now)
        self._read(not full)
        if waiting:
            deadline = self._scheduler.deadline(now)
            if deadline is not None:
                self._host.wake_at(deadline, now)

    def received(self, now: float) -> float:
        """A socket has been drained: report what came if that is due. When `poll` is due next."""
        session = self.session
        if session is not None and now >= session.reporter.due:
            session.poll_reports(now)
        return self.deadline(now)

    @property
    def _waiting(self) -> bool:
        """Whether something waits that a line may have room for; without a session it waits for that."""
        return self.session is not None and self._out.waiting

    # -- timers ---------------------------------------------------------------------------------
    def poll(self, now: float) -> None:
        self._in.poll(now)
        if self.session is not None:
            self.session.poll_reports(now)
        if self._waiting:
            if not self._reading and now >= self._reread_at:
                self._reread_at = now + REREAD_S
                self._out.on_readable(now)
            else:
                self._out.dispatch(now)
            self._after_dispatch(now)
        if now >= self._hasten_at:
            self._hasten_at = self._out.hasten(now)

    def deadline(self, now: float) -> float:
        """When `poll` is due; what the queue waits for is told by `wake_at`."""
        deadline = self._in.deadline
        if self.session is not None:
            deadline = min(deadline, self.session.reporter.due)
        if self._waiting:
            room = self._scheduler.deadline(now)
            if room is not None:
                deadline = min(deadline, room)
            if not self._reading:
                deadline = min(deadline, self._reread_at)
        return min(deadline, self._hasten_at)

    # -- SessionObserver ------------------------------------------------------------------------
    def session_started(self, session: Session, now: float) -> None:
        self.session = session
        self.since = now
        self._out.restart()
        self._in.reset()
        self.tap.emit_uso(bool(session.peer.offloads & USO))
        self._host.session_started(session, self._in)
        self._host.control_changed()
        log.info("%s: session up, %s", self.name, self.cipher)
        self._refresh(now)

    def session_ended(self, session: Session, reason: str, now: float) -> None:
        self._host.session_ended(session)
        if self.session is session:
            self.session = None
            self.since = now
            self._scheduler.set_lines([])
            self._read(True)  # to drop what comes
            if self._announcer is not None:
                self._announcer.links([], reason)
            log.log(
                logging.INFO if self._stopping else logging.WARNING, "%s: session down: %s", self.name, reason
            )
        self._host.control_changed()

    def link_changed(self, session: Session, link: Link, now: float) -> None:
        state = link.liveness.state
        demoted = link.demotion.demoted
        if self._states.get(link.number) != (state, demoted):
            self._states[link.number] = (state, demoted)
            well = state in {LinkState.ACTIVE, LinkState.JOINING} and not demoted
            reason = f": {link.reason}" if link.reason else ""
            log.log(
                logging.INFO if well else logging.WARNING,
                "%s: link %s %s%s",
                self.name,
                link.name,
                state.value,
                reason,
            )
        else:
            log.debug("%s: link %s path MTU %d", self.name, link.name, link.path_mtu.current)
        self._host.control_changed()
        if session is self.session:
            self._refresh(now)

    def make_link(self, number: int, name: str) -> Link:
        link = Link(number, name or f"link{number}", self, self.drops)
        link.liveness.idle_s = PROBE_IDLE_SERVER_S
        return link

    def came(self, session: Session, pieces: list[Piece[Any]], now: float) -> None:
        if session is self.session:
            self._out.came(pieces)

    def lost(self, session: Session, link: Link, pieces: list[Piece[Any]], now: float) -> None:
        if session is self.session:
            self._out.lost(link, pieces, now)

    def reported(self, session: Session, now: float) -> None:
        if session is self.session:
            self._out.set_queue_limits(self._scheduler.queue_limits, now)
            self._out.dispatch(now)
            self._after_dispatch(now)

    # -- LinkObserver ---------------------------------------------------------------------------
    def link_busy(self) -> None:
        self._host.control_changed()

    def link_failed(self, link: Link, reason: str, now: float) -> None:
        if self.session is not None and link.path is not None:
            self.session.path_down(link, reason, now)
        link.path = None  # the client's keeper finds it and binds anew
        link.reason = reason

    def link_blocked(self, link: Link) -> None:
        def writable() -> None:
            now = self._host.clock()
            link.flush(now)
            self.poll(now)

        self._host.when_writable(link, writable)

    def link_too_big(self, link: Link, now: float) -> None:
        link.path_mtu.lost_confidence(now)  # our own kernel says so: no forgery
        self._host.control_changed()
        self._refresh(now)

    # -- what follows from the links ------------------------------------------------------------
    def _refresh(self, now: float) -> None:
        if self.session is None:
            return
        if self._announcer is not None:
            self._announcer.links(self.session.links.values())
        links = self.session.carrying
        self._scheduler.set_lines(links)
        spread = self._scheduler.spread
        for link in self.session.links.values():
            link.carries = link in spread
        if links:
            capacity = min(
                chunk_capacity(link.path_mtu.current, link.frame_overhead - ETHERNET_LEN) for link in links
            )
            if capacity != self._capacity:
                self._capacity = capacity
                self._out.set_capacity(capacity)
            self._out.set_queue_limits(self._scheduler.queue_limits, now)
            self._fit_tap()
        self._out.dispatch(now)
        self._after_dispatch(now)

    def _fit_tap(self) -> None:
        """Super-frames in proportion to the lines' configured sum. Where it is to be learned they stay as
        large as they come: a connection keeps the bound that stood when it was opened."""
        rate_bps = self._scheduler.configured_bps
        size = _gso_bytes(rate_bps, self._capacity)
        near = abs(size - self._gso_bytes) * 8 < self._gso_bytes
        if near and self._gso_bytes <= run_frame_bytes(self._capacity):
            return
        self._gso_bytes = size
        self._host.fit_tap(self.settings.interface, size)

    # -- status ---------------------------------------------------------------------------------
    @property
    def cipher(self) -> str:
        keypair = self.session.current if self.session is not None else None
        if keypair is None:
            return ""
        return "AES-256-GCM" if keypair.cipher == AES_256_GCM else "ChaCha20-Poly1305"

    def status(self, links: list[Link], now: float) -> dict[str, Any]:
        """The tunnel's part of the status object."""
        keypair = self.session.current if self.session is not None else None
        up = keypair is not None and any(link.active for link in links)
        return {
            "name": self.name,
            "interface": self.settings.interface,
            "state": "up" if up else "connecting",
            "since_s": round(now - self.since, 1),
            "cipher": self.cipher,
            "scheduler": self.settings.scheduler,
            "handshake_age_s": round(now - keypair.created, 1) if keypair is not None else None,
            "chunk_bytes": self._capacity,
            "queued_bytes": self._out.queued,
            "links": [link_status(link, self._rates_of(link), self.session, now) for link in links],
            "tap": {
                "tx_frames": self._in.frames,
                "rx_frames": self._out.frames,
                "tx_bytes": self._in.bytes,
                "rx_bytes": self._out.bytes,
            },
            "drops": self.drops.as_dict(),
        }

    def sample(self, links: list[Link], now: float) -> None:
        """Once a second: the links' present rates."""
        for link in links:
            self._rates_of(link).sample(link, now)

    def _rates_of(self, link: Link) -> Rates:
        return self._rates.setdefault(link.number, Rates())


def _mac(public_key: bytes, interface: str) -> str:
    """A MAC address that outlives a restart: with a new one the peer's neighbour cache would send to
    the old one for up to a minute. Locally administered, and another at each end."""
    tail = hashlib.blake2s(public_key + interface.encode(), digest_size=5).digest()
    return (b"\x02" + tail).hex(":")


def _gso_bytes(rate_bps: float | None, capacity: int) -> int:
    """Largest super-frame: what one run carries, less for slow lines."""
    most = run_frame_bytes(capacity)
    if rate_bps is None:
        return most
    return int(min(max(rate_bps / 8 * GSO_S, GSO_MIN_BYTES), most))
