"""The event loop's side of everything: readers, writers, and one timer for all deadlines."""

import asyncio
import gc
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Protocol

from bondvpn.datapath.inbound import Inbound
from bondvpn.datapath.reassembly import Reassembly
from bondvpn.datapath.slab import SealSlab
from bondvpn.linux.netlink import Netlink
from bondvpn.linux.timer import Timer
from bondvpn.linux.udp import UdpSocket
from bondvpn.runtime.polling import Polling
from bondvpn.runtime.reload import Reply, tell
from bondvpn.runtime.toobig import TooBigMessages
from bondvpn.runtime.tunnel import Tunnel
from bondvpn.session.keypair import Keypair, LaneTable
from bondvpn.session.link import Link, Path
from bondvpn.session.session import Session
from bondvpn.stats import Drops

log = logging.getLogger(__name__)

# Between two wake-ups. With 1 ms two lines whose modems hold 1 and 2 ms have 0.86 of Σ, with 0.5 ms 0.96 and
# 0.97, with 0.25 ms no more (kernel, cubic).
TIMER_MIN_S = 0.0005


class Control(Protocol):
    """The process's control plane: a client's initiator or a server's responder."""

    def poll(self, now: float) -> None: ...

    def deadline(self, now: float) -> float: ...

    def handshake(self, datagram: bytes, path: Path, now: float) -> None: ...

    def confirm(self, keypair: Keypair, now: float) -> None: ...


class Alarm(Protocol):
    """As `linux.timer.Timer`."""

    def set(self, delay_s: float) -> None: ...

    def close(self) -> None: ...


class Engine:
    """One per process. Implements `datapath.inbound.ControlPlane` and the tunnels' `Host`."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[int], bytes] = os.urandom,
        alarm: Callable[[Callable[[], None]], Alarm] | None = None,
        worker: int = 0,
        workers: int = 1,
    ) -> None:
        """`clock`: monotonic, seconds. `alarm` makes the timer that calls back. Simulations hand in these,
        the loop and randomness. `worker` of `workers` processes that share their ports."""
        self.loop = loop
        self.clock = clock
        self.random = random
        self.drops = Drops()
        self.table = LaneTable(self.random, worker=worker, workers=workers)
        self.seal = SealSlab()
        self.inbound = Inbound(self.table, self, self.drops)
        self.tunnels: list[Tunnel] = []
        self.control: Control
        self.stopped = asyncio.Event()
        self.exit_code = 0
        self.reload: Callable[[], Awaitable[Reply]] | None = None
        """What SIGHUP does; a worker of several leaves that to its parent."""
        self._too_big = TooBigMessages(loop, self._links, clock, self.control_changed, self.drops)
        self._reassemblies: dict[Session, Reassembly] = {}
        self._timer = alarm(self._on_timer) if alarm is not None else Timer(loop, self._on_timer)
        self._armed = float("inf")
        self._control_deadline = 0.0
        self._polling = Polling(loop, self._on_socket)

    # -- life -----------------------------------------------------------------------------------
    def start(self, control: Control) -> None:
        """Begin to work; every object that lives as long as the process exists by now."""
        self.control = control
        for number in (signal.SIGTERM, signal.SIGINT):
            self.loop.add_signal_handler(number, self.stopped.set)
        self.loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        self.loop.set_exception_handler(self._on_bug)
        self._too_big.start()
        gc.collect()
        gc.freeze()  # the collector then walks only what came since
        self.control_changed()

    def _on_hangup(self) -> None:
        if self.reload is not None:
            self._reloading = self.loop.create_task(self._reload_and_tell(self.reload))
            self._reloading.add_done_callback(self.task_done)

    async def _reload_and_tell(self, reload: Callable[[], Awaitable[Reply]]) -> None:
        tell("SIGHUP", await reload())

    def _on_bug(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Whatever escapes a callback is our mistake: rather end cleanly than half live."""
        log.critical("internal error, stopping: %s", context["message"], exc_info=context.get("exception"))
        self.exit_code = 1
        self.stopped.set()

    def task_done(self, task: "asyncio.Task[None]") -> None:
        """A task that should last as long as the process has ended."""
        if not task.cancelled() and task.exception() is not None:
            self._on_bug(self.loop, {"message": "a task failed", "exception": task.exception()})

    def stop(self) -> None:
        self._too_big.stop()
        for tunnel in self.tunnels:
            tunnel.stop(self.clock())
        self._timer.close()

    # -- readers --------------------------------------------------------------------------------
    def watch_socket(self, socket: UdpSocket) -> None:
        self._polling.watch(socket)

    def unwatch_socket(self, socket: UdpSocket) -> None:
        self._polling.unwatch(socket)
        self.loop.remove_writer(socket.fileno())

    def _on_socket(self, socket: UdpSocket) -> None:
        nbytes = self.inbound.on_readable(socket, self.clock)
        now = self.clock()
        self._polling.looked(socket, nbytes, now)
        deadline = min(self._control_deadline, self._polling.due)
        for tunnel in self.tunnels:
            deadline = min(deadline, tunnel.received(now))
        if deadline < self._armed:
            self._arm(deadline, now)

    def _drain(self, socket: UdpSocket) -> int:
        return self.inbound.on_readable(socket, self.clock, polled=True)

    # -- the timer ------------------------------------------------------------------------------
    def wake_at(self, deadline: float, now: float) -> None:
        """Something is due at `deadline`."""
        if deadline < self._armed:
            self._arm(deadline, now)

    def control_changed(self) -> None:
        """The control plane's deadline may be nearer than it was."""
        self._control_deadline = 0.0
        if self._armed > 0.0:  # else a stream of strangers' handshakes would put the timer off for ever
            self._arm(0.0, self.clock())

    def _arm(self, deadline: float, now: float) -> None:
        self._armed = deadline
        self._timer.set(max(deadline - now, TIMER_MIN_S))

    def _on_timer(self) -> None:
        self._armed = float("inf")
        now = self.clock()
        if now >= self._polling.due:
            self._polling.poll(self._drain, now)
            now = self.clock()
        if now >= self._control_deadline:
            self.control.poll(now)
            self._control_deadline = self.control.deadline(now)
        deadline = min(self._control_deadline, self._polling.due)
        for tunnel in self.tunnels:
            tunnel.poll(now)
            deadline = min(deadline, tunnel.deadline(now))
        if deadline < self._armed:
            self._arm(deadline, now)

    def _links(self) -> Iterator[Link]:
        for tunnel in self.tunnels:
            if tunnel.session is not None:
                yield from tunnel.session.links.values()

    # -- for the datapath -----------------------------------------------------------------------
    def handshake(self, datagram: bytes, path: Path, now: float) -> None:
        self.control.handshake(datagram, path, now)
        self.control_changed()

    def confirm(self, keypair: Keypair, now: float) -> None:
        self.control.confirm(keypair, now)

    def reassembly_of(self, session: Session) -> Reassembly | None:
        return self._reassemblies.get(session)

    def delivered(self, session: Session, now: float) -> None:
        for tunnel in self.tunnels:
            if tunnel.session is session:
                tunnel.answer(now)

    # -- for the tunnels ------------------------------------------------------------------------
    def session_started(self, session: Session, reassembly: Reassembly) -> None:
        self._reassemblies[session] = reassembly

    def session_ended(self, session: Session) -> None:
        self._reassemblies.pop(session, None)

    def when_writable(self, link: Link, done: Callable[[], None]) -> None:
        """Call `done` once the link's socket takes more."""
        socket = link.path.socket if link.path is not None else None
        if not isinstance(socket, UdpSocket):
            return
        fd = socket.fileno()

        def ready() -> None:
            self.loop.remove_writer(fd)
            done()

        self.loop.add_writer(fd, ready)

    def fit_tap(self, interface: str, gso_bytes: int) -> None:
        """Largest super-frame that the TAP emits. Netlink blocks, so in a thread."""

        def fit() -> None:
            with Netlink() as netlink:
                netlink.set_gso_max_size(interface, gso_bytes)

        self.loop.run_in_executor(None, fit).add_done_callback(_log_failure)


def _log_failure(future: "asyncio.Future[None]") -> None:
    error = None if future.cancelled() else future.exception()
    if error is not None:
        log.warning("%s", error)
