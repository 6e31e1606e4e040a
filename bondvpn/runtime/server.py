"""A server: one port, one tunnel per configured client; in one process, or its clients split over workers."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

import uvloop

from bondvpn import config as config_of
from bondvpn.config import SERVER_SOCKET, Client, ServerConfig
from bondvpn.linux import fulltunnel
from bondvpn.linux.cpu import has_aes
from bondvpn.linux.journal import Journal, journal_path
from bondvpn.linux.netlink import Netlink
from bondvpn.linux.sysctl import has_ipv6
from bondvpn.linux.tap import Tap
from bondvpn.linux.udp import UdpSocket
from bondvpn.noise.handshake import NO_PRESHARED_KEY, Identity
from bondvpn.runtime.channel import WorkerEnd
from bondvpn.runtime.control import ControlSocket
from bondvpn.runtime.engine import Engine
from bondvpn.runtime.handover import Handover
from bondvpn.runtime.hooks import Hooks
from bondvpn.runtime.reload import Reply, ServerReload
from bondvpn.runtime.router import Router
from bondvpn.runtime.supervisor import Share, supervise
from bondvpn.runtime.tunnel import Tunnel, record_tap
from bondvpn.session.keypair import Keypair
from bondvpn.session.link import Link, Path
from bondvpn.session.responder import ClientPeer, Responder
from bondvpn.stats import Drop
from bondvpn.wire import handshake

log = logging.getLogger(__name__)

Status = Callable[[float], dict[str, Any]]


def run_server(config: ServerConfig) -> int:
    """Run until SIGTERM or SIGINT; the exit code. Raises SystemFault when it cannot start."""
    fulltunnel.refuse_conflicts(SERVER_SOCKET)
    with Netlink() as netlink:
        journal = Journal.begin(journal_path(SERVER_SOCKET), netlink)
        for client in config.clients:
            record_tap(client.tunnel, netlink, journal)
    workers = min(config.workers, len(config.clients))
    router = Router(config, journal)
    reload = ServerReload(config, journal, router)
    try:
        router.install()
        if workers > 1:
            return supervise(
                config, workers, lambda share: uvloop.run(_worker(reload.config, share).run()), reload
            )
        return uvloop.run(_run_alone(config, reload))
    finally:
        router.close()
        with Netlink() as netlink:
            for line in journal.undo(netlink):
                log.warning("%s", line)


async def _run_alone(config: ServerConfig, reload: ServerReload) -> int:
    async with reload.router.followed():
        return await _alone(config, reload).run()


def _alone(config: ServerConfig, reload: ServerReload) -> "_Server":
    """The one process of a server."""

    async def reload_in_thread() -> Reply:
        return await asyncio.to_thread(reload)

    def sockets() -> list[UdpSocket]:
        return [
            UdpSocket((listen.host, listen.port), ipv6=listen.ipv6)
            for listen in config.listen
            if has_ipv6() or not listen.ipv6
        ]

    server = _Server(
        "server",
        config,
        config.clients,
        sockets,
        lambda status: ControlSocket(
            SERVER_SOCKET, lambda now: status(now) | {"machine": reload.router.status()}, reload_in_thread
        ),
    )
    server.reload = reload_in_thread
    reload.deliver = server.take_hooks
    return server


def _worker(config: ServerConfig, share: Share) -> "_Server":
    """One of several."""
    server = _Server(
        f"worker {share.number}",
        config,
        share.clients,
        lambda: share.sockets,
        lambda status: WorkerEnd(share.parent, status, server.take_hooks),
        share,
    )
    return server


class _Server:
    """A process that serves clients. Implements `engine.Control`."""

    def __init__(
        self,
        name: str,
        config: ServerConfig,
        clients: Sequence[Client],
        sockets: Callable[[], Sequence[UdpSocket]],
        status_served: Callable[[Status], AbstractAsyncContextManager[Any]],
        share: Share | None = None,
    ) -> None:
        """`sockets` and `status_served` are called once everything behind them works."""
        self._name = name
        self._clients = clients
        self._identity = Identity(config.private_key)
        self._sockets = sockets
        self._status_served = status_served
        self._share = share
        self._peers: list[ClientPeer] = []
        self._hooks = Hooks(config.hooks, "server")
        self.reload: Callable[[], Awaitable[Reply]] | None = None

    def take_hooks(self, commands: config_of.Hooks) -> None:
        """Run these from now on."""
        self._hooks.commands = commands

    async def run(self) -> int:
        share = self._share
        self._engine = engine = Engine(
            asyncio.get_running_loop(),
            worker=share.number if share is not None else 0,
            workers=share.workers if share is not None else 1,
        )
        for client in self._clients:
            interface = client.tunnel.interface
            announcer = self._hooks.announcer(client.name, interface)
            tunnel = Tunnel(client.name, client.tunnel, engine, Tap(interface), announcer)
            engine.tunnels.append(tunnel)
            preshared_key = client.preshared_key or NO_PRESHARED_KEY
            self._peers.append(
                ClientPeer(client.name, client.public_key, preshared_key, tunnel, tunnel.drops)
            )
        await asyncio.to_thread(self._set_up)
        self._responder = Responder(
            identity=self._identity,
            capabilities=engine.tunnels[0].capabilities(engine.random(8), 0),
            has_aes=has_aes(),
            peers=self._peers,
            table=engine.table,
            random=engine.random,
            drops=engine.drops,
            elsewhere=share.handover if share is not None else None,
        )
        engine.reload = self.reload
        engine.start(self)
        for tunnel in engine.tunnels:
            tunnel.start()
        sockets = self._sockets()
        for socket in sockets:
            engine.watch_socket(socket)
        if share is not None:
            engine.loop.add_reader(share.handover.fileno(), self._on_handed_over, share.handover)
        async with self._status_served(self.status):
            log.info("%s: started, %d clients", self._name, len(self._peers))
            await engine.stopped.wait()
        engine.stop()
        for socket in sockets:
            engine.unwatch_socket(socket)
            socket.close()
        await asyncio.to_thread(self._hooks.close)
        log.info("%s: stopped", self._name)
        return engine.exit_code

    def _set_up(self) -> None:
        with Netlink() as netlink:
            for tunnel in self._engine.tunnels:
                tunnel.configure(netlink, None, self._identity.public)

    def _on_handed_over(self, handover: Handover) -> None:
        """Initiations of our clients that another worker got."""
        now = self._engine.clock()
        for datagram, path in handover.receive():
            self._engine.handshake(datagram, path, now)

    # -- Control --------------------------------------------------------------------------------
    def poll(self, now: float) -> None:
        self._responder.poll(now)
        for peer, tunnel in zip(self._peers, self._engine.tunnels, strict=True):
            tunnel.sample(_links(peer), now)

    def deadline(self, now: float) -> float:
        return self._responder.deadline(now)

    def handshake(self, datagram: bytes, path: Path, now: float) -> None:
        if datagram[0] == handshake.INITIATION:
            self._responder.receive_initiation(datagram, path, now)
        else:
            self._engine.drops.count(Drop.TYPE)

    def confirm(self, keypair: Keypair, now: float) -> None:
        self._responder.confirm(keypair, now)

    def status(self, now: float) -> dict[str, Any]:
        return {
            "role": "server",
            "interface": SERVER_SOCKET,
            "tunnels": [
                tunnel.status(_links(peer), now)
                for peer, tunnel in zip(self._peers, self._engine.tunnels, strict=True)
            ],
            "drops": self._engine.drops.as_dict(),
        }


def _links(peer: ClientPeer) -> list[Link]:
    return list(peer.session.links.values()) if peer.session is not None else []
