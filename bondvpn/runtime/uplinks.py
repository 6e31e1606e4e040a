"""A client's uplinks: one link and one socket each, following whatever becomes of their lines.

    netlink event --> survey, plan, install (in a thread) --> rebind those whose place has changed

Bringing the kernel to the plan and rebinding are the same work at the start, after an event and, for safety,
every CHECK_S: there is no second way for an address, a gateway or a rule to be there. A link that is rebound
joins anew by its new path; the session, the other links and what is inside notice nothing. One that stays
silent tries the server's next address.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from bondvpn.config import ClientConfig, Uplink
from bondvpn.errors import SystemFault
from bondvpn.linux import policy
from bondvpn.linux.journal import Journal
from bondvpn.linux.netlink import Netlink
from bondvpn.linux.nftables import Changes
from bondvpn.linux.policy import Binding, Leg, Plan
from bondvpn.linux.udp import UdpSocket
from bondvpn.linux.upkeep import Upkeep
from bondvpn.linux.watch import Watch
from bondvpn.runtime.endpoints import Endpoints, Target
from bondvpn.runtime.engine import Engine
from bondvpn.runtime.reload import move_routes
from bondvpn.runtime.tunnel import Tunnel
from bondvpn.session.initiator import Initiator
from bondvpn.session.keypair import MAX_LANES
from bondvpn.session.link import PATH_MTU_DEFAULT_BYTES, Link, Path
from bondvpn.values import IPAddress

log = logging.getLogger(__name__)

TICK_S = 0.5  # how often an uplink without a path is tried, and a silent one's patience looked at
SETTLE_S = 0.01  # between two looks at the kernel: what pppd or a DHCP client does comes in bursts
CHECK_S = 30.0  # a look without an event
RETRY_S = 2.0  # after a look that failed, or left a route out
# Three handshakes, or a dozen challenges: an address that has not answered them is not the server's now.
PATIENCE_S = 4.0
# An address that did answer, on a line that alone is silent: more likely it is the line.
PATIENCE_PROVEN_S = 30.0
RESOLVE_S = 5.0  # between two questions to the name servers


class _Line:
    """One uplink's link and its socket, remade whenever the place it was bound to is not there any more."""

    def __init__(self, uplink: Uplink, link: Link) -> None:
        self.uplink = uplink
        self.link = link
        self.binding: Binding | None = None
        """Where it is, by the last plan; None for an automatic one that has gone."""
        self.socket: UdpSocket | None = None
        self.place: _Place | None = None
        """Where the socket is."""
        self.target: Target | None = None
        self.waited_since = 0.0
        """Since when this target has not answered; monotonic seconds."""
        self.proven = False
        """Whether it ever did."""
        self.said = ""
        """Why it has no path, as last logged."""

    def leg(self) -> Leg | None:
        """How it leaves in the target's family."""
        if self.binding is None or self.target is None:
            return None
        return next((leg for leg in self.binding.legs if leg.version == self.target.version), None)


@dataclass(frozen=True, slots=True)
class _Place:
    """What a socket was made from: while this is the same it may stay."""

    interface: str | None
    index: int
    mtu: int
    mark: int | None
    source: IPAddress
    gateway: IPAddress | None

    def difference(self, other: "_Place") -> str:
        """What has become another, in words."""
        if self.index != other.index:
            return f"another interface {other.interface}"
        changed = ("mtu", "MTU"), ("source", "address"), ("gateway", "gateway"), ("mark", "mark")
        words = [word for field, word in changed if getattr(self, field) != getattr(other, field)]
        return f"another {' and '.join(words)}"


def _place(binding: Binding, leg: Leg | None) -> _Place | None:
    """Where a socket would be; None if there can be none."""
    if binding.waiting or leg is None:
        return None
    return _Place(binding.interface, binding.index, binding.mtu, binding.mark, leg.source, leg.gateway)


class Uplinks:
    """See above. `links` by number, for the initiator; it may grow while we run."""

    def __init__(self, config: ClientConfig, journal: Journal, engine: Engine, tunnel: Tunnel) -> None:
        self.links: dict[int, Link] = {}
        self.initiator: Initiator | None = None
        self._config = config
        self._journal = journal
        self._engine = engine
        self._tunnel = tunnel
        self._endpoints = Endpoints(config.server.endpoints)
        self._lines: dict[str, _Line] = {}
        self._plan = Plan()
        self._upkeep = Upkeep(journal)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="netlink")
        self._said: list[str] = []  # what waits in the kernel, as last logged
        self._event = asyncio.Event()
        self._impatient = asyncio.Event()

    # -- life -----------------------------------------------------------------------------------
    async def prepare(self) -> None:
        """Bring the machine to the plan. Raises SystemFault."""
        if self._config.tunnel.default_route:  # soon names can be asked for through the tunnel only
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RESOLVE_S):
                    await self._endpoints.resolve()
        self._adopt(await self._in_thread())

    @contextlib.asynccontextmanager
    async def running(self, initiator: Initiator) -> AsyncIterator[None]:
        """Bind, and follow the network until left."""
        self.initiator = initiator
        loop = self._engine.loop
        with Watch() as watch:
            loop.add_reader(watch.fileno(), self._on_event, watch)
            if (changes := self._upkeep.changes) is not None:
                loop.add_reader(changes.fileno(), self._on_filter_event, changes)
            self._event.set()  # for what happened since `prepare`
            tasks = [asyncio.create_task(work) for work in (self._follow(), self._keep(), self._resolve())]
            for task in tasks:
                task.add_done_callback(self._engine.task_done)
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                loop.remove_reader(watch.fileno())
                if changes is not None:
                    loop.remove_reader(changes.fileno())

    async def reconfigure(self, config: ClientConfig) -> list[str]:
        """Go on with another configuration; what of it could not be done. Lines it does not change stay."""
        old, self._config = self._config, config
        faults: list[str] = []
        if old.tunnel.routes != config.tunnel.routes:
            faults += await self._engine.loop.run_in_executor(self._thread, self._move_routes, old, config)
        if old.server.endpoints != config.server.endpoints:
            self._endpoints = Endpoints(config.server.endpoints)
            await self._endpoints.resolve()
            for line in self._lines.values():
                if line.target not in self._endpoints.targets:
                    self._unbind(line, "the server's endpoints were changed")
        try:
            self._adopt(await self._in_thread())
        except SystemFault as fault:
            faults.append(str(fault))
        return faults

    def _move_routes(self, old: ClientConfig, new: ClientConfig) -> list[str]:
        with Netlink() as netlink:
            return move_routes(old.tunnel, new.tunnel, netlink, self._journal)

    def close(self) -> None:
        """Close the sockets; when this returns nothing changes the kernel any more."""
        for line in self._lines.values():
            self._unbind(line, "closed here")
        self._thread.shutdown()
        self._upkeep.close()

    # -- the kernel -----------------------------------------------------------------------------
    def _on_event(self, watch: Watch) -> None:
        if watch.changed():
            self._event.set()

    def _on_filter_event(self, changes: Changes) -> None:
        if changes.changed():
            self._upkeep.doubt()
            self._event.set()

    async def _follow(self) -> None:
        """Look at the kernel whenever it changed."""
        pause_s = CHECK_S
        while True:
            try:
                async with asyncio.timeout(pause_s):
                    await self._event.wait()
            except TimeoutError:
                self._upkeep.doubt()
            self._event.clear()
            pause_s = CHECK_S
            try:
                self._adopt(await self._in_thread())
            except SystemFault as fault:
                self._say([str(fault)])
            if self._said:
                pause_s = RETRY_S
            await asyncio.sleep(SETTLE_S)

    async def _in_thread(self) -> tuple[Plan, list[str]]:
        return await self._engine.loop.run_in_executor(self._thread, self._install)

    def _install(self) -> tuple[Plan, list[str]]:
        """Survey, plan, install; blocks."""
        config, tunnel = self._config, self._config.tunnel
        if not self._endpoints.targets and not tunnel.kill_switch:
            tunnel = replace(tunnel, default_route=False)  # until there is somebody to dial
        with Netlink() as netlink:
            plan = policy.plan_here(tunnel, config.uplinks, netlink, self._plan.numbers)
            return plan, self._upkeep.install(plan, netlink)

    def _adopt(self, done: tuple[Plan, list[str]]) -> None:
        """The kernel is as planned: rebind those whose place has changed."""
        self._plan, waiting = done
        self._say(waiting)
        named = {binding.uplink.name: binding for binding in self._plan.bindings}
        for name in self._lines.keys() - named.keys():
            line = self._lines[name]
            if line.binding is not None:
                line.binding = None
                self._unbind(line, "it has gone")
                log.info("uplink %s: gone", name)
        for name, binding in named.items():
            line = self._lines.get(name) or self._add(binding.uplink)
            line.binding = binding
            if line.uplink != binding.uplink:
                self._unbind(line, "its configuration changed")
                self._settle(line, binding.uplink)
            if line.place is not None:
                place = _place(binding, line.leg())
                if place is None:
                    self._unbind(line, binding.waiting or "its address has gone")
                elif place != line.place:
                    self._unbind(line, line.place.difference(place))
        self._bind_all()

    def _say(self, waiting: list[str]) -> None:
        for line in waiting:
            if line not in self._said:
                log.warning("%s", line)
        self._said = waiting

    # -- lines ----------------------------------------------------------------------------------
    def _add(self, uplink: Uplink) -> _Line:
        """A line for a new uplink, with a link of its own; when all are taken, that of one that has gone."""
        number = next((number for number in range(MAX_LANES) if number not in self.links), None)
        if number is None:
            name = next(name for name, line in self._lines.items() if line.binding is None)
            link = self._lines.pop(name).link
        else:
            link = self.links[number] = Link(number, uplink.name, self._tunnel, self._tunnel.drops)
        link.name = uplink.name
        line = self._lines[uplink.name] = _Line(uplink, link)
        self._settle(line, uplink)
        return line

    def _settle(self, line: _Line, uplink: Uplink) -> None:
        """What the configuration says of the line; the server hears of it when the link joins."""
        line.uplink = uplink
        line.link.tier = uplink.tier
        line.link.receive_rate_bps = uplink.down_bps or 0
        line.link.set_send_rate(uplink.up_bps or 0)

    def _unbind(self, line: _Line, reason: str) -> None:
        session = self.initiator.session if self.initiator is not None else None
        if session is not None and line.link.path is not None:
            session.path_down(line.link, reason, self._engine.clock())
        line.link.path = None
        line.link.reason = reason
        line.place = None
        if line.socket is not None:
            self._engine.unwatch_socket(line.socket)
            line.socket.close()
            line.socket = None

    def _bind_all(self) -> None:
        """Bind those that have no path and could have one."""
        if self.initiator is None:
            return
        now = self._engine.clock()
        session = self.initiator.session
        for name, line in self._lines.items():
            if line.link.path is not None or line.binding is None:
                continue
            try:
                self._bind(line, line.binding)
            except SystemFault as fault:
                line.link.reason = str(fault)
                if line.said != str(fault):
                    log.warning("uplink %s: %s", name, fault)
                    line.said = str(fault)
                continue
            line.said = ""
            line.waited_since = now
            if session is not None:
                session.path_up(line.link, now)
            self._engine.control_changed()

    def _bind(self, line: _Line, binding: Binding) -> None:
        """Bind and point the link at the server. Raises SystemFault where that cannot be now."""
        if binding.waiting:
            raise SystemFault(binding.waiting)
        targets = self._endpoints.reachable([leg.version for leg in binding.legs])
        if not targets:
            raise SystemFault("the server has no address that this uplink could reach")
        if line.target not in targets:
            line.target, line.proven = targets[0], False
        leg = line.leg()
        if leg is None or line.target is None:
            return
        self._unbind(line, "")
        line.socket = UdpSocket(
            (str(leg.source), 0), ipv6=leg.version == 6, device=binding.interface, mark=binding.mark
        )
        line.place = _place(binding, leg)
        line.link.interface_mtu = min(binding.mtu, PATH_MTU_DEFAULT_BYTES)
        self._engine.watch_socket(line.socket)
        line.link.set_path(Path(line.socket, line.target.address))
        via = f" via {leg.gateway}" if leg.gateway is not None else ""
        log.info("uplink %s: %s on %s%s", line.uplink.name, leg.source, binding.interface, via)

    # -- the server's addresses -----------------------------------------------------------------
    async def _resolve(self) -> None:
        """Ask for the server's addresses, at first and whenever an uplink has no answer."""
        while True:
            self._impatient.clear()
            await self._endpoints.resolve()
            self._event.set()  # the default route may have waited for it
            self._bind_all()
            if not self._endpoints.targets:
                self._impatient.set()
            await asyncio.sleep(RESOLVE_S)
            await self._impatient.wait()

    async def _keep(self) -> None:
        """Bind again what failed; turn who has no answer to another of the server's addresses."""
        while True:
            await asyncio.sleep(TICK_S)
            now = self._engine.clock()
            lines = [line for line in self._lines.values() if line.link.path is not None]
            served = any(line.link.active for line in lines)
            for line in lines:
                if line.link.active:
                    line.waited_since, line.proven = now, True
                elif now - line.waited_since >= (PATIENCE_PROVEN_S if served and line.proven else PATIENCE_S):
                    line.waited_since = now
                    self._impatient.set()
                    self._turn(line)
            self._bind_all()

    def _turn(self, line: _Line) -> None:
        """To the next target, if there is another."""
        if line.binding is None:
            return
        targets = self._endpoints.reachable([leg.version for leg in line.binding.legs])
        at = targets.index(line.target) if line.target in targets else -1
        following = targets[(at + 1) % len(targets)] if targets else None
        if following != line.target:
            line.target, line.proven = following, False
            self._unbind(line, "no answer: trying the server's next address")

    # -- status ---------------------------------------------------------------------------------
    def machine(self) -> dict[str, Any]:
        """What of the machine is as the tunnel asks for."""
        return self._plan.summary()

    def present(self) -> Iterator[tuple[Link, dict[str, Any]]]:
        """The links of all uplinks but the automatic ones that have gone, and where each is."""
        for line in self._lines.values():
            binding, leg = line.binding, line.leg()
            if binding is not None:
                yield (
                    line.link,
                    {
                        "interface": binding.interface,
                        "source": str(leg.source) if leg is not None else None,
                        "gateway": str(leg.gateway) if leg is not None and leg.gateway is not None else None,
                        "table": binding.table,
                    },
                )
