"""A server process: one port, one tunnel per configured client."""

import asyncio
import logging
from typing import Any

import uvloop

from bondvpn.config import ServerConfig
from bondvpn.linux.cpu import has_aes
from bondvpn.linux.journal import Journal, journal_path
from bondvpn.linux.netlink import Netlink
from bondvpn.linux.policy import has_ipv6
from bondvpn.linux.tap import Tap
from bondvpn.linux.udp import UdpSocket
from bondvpn.noise.handshake import NO_PRESHARED_KEY, Identity
from bondvpn.runtime.control import ControlSocket
from bondvpn.runtime.engine import Engine
from bondvpn.runtime.tunnel import Tunnel, record_tap
from bondvpn.session.keypair import Keypair
from bondvpn.session.link import Link, Path
from bondvpn.session.responder import ClientPeer, Responder
from bondvpn.stats import Drop
from bondvpn.wire import handshake

log = logging.getLogger(__name__)

NAME = "server"


def run_server(config: ServerConfig) -> int:
    """Run until SIGTERM or SIGINT; the exit code. Raises SystemFault when it cannot start."""
    with Netlink() as netlink:
        journal = Journal.begin(journal_path(NAME), netlink)
        for client in config.clients:
            record_tap(client.tunnel, netlink, journal)
        try:
            return uvloop.run(_Server(config).run())
        finally:
            for line in journal.undo(netlink):
                log.warning("%s", line)


class _Server:
    """Implements `engine.Control`."""

    def __init__(self, config: ServerConfig) -> None:
        self._config = config
        self._identity = Identity(config.private_key)
        self._peers: list[ClientPeer] = []

    async def run(self) -> int:
        config = self._config
        self._engine = engine = Engine(asyncio.get_running_loop())
        for client in config.clients:
            tunnel = Tunnel(client.name, client.tunnel, engine, Tap(client.tunnel.interface))
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
        )
        engine.start(self)
        for tunnel in engine.tunnels:
            tunnel.start()
        sockets = [
            UdpSocket((listen.host, listen.port), ipv6=listen.ipv6)
            for listen in config.listen
            if has_ipv6() or not listen.ipv6
        ]
        for socket in sockets:
            engine.watch_socket(socket)
        async with ControlSocket(NAME, self.status):
            log.info("server: started, %d clients", len(self._peers))
            await engine.stopped.wait()
        engine.stop()
        for socket in sockets:
            engine.unwatch_socket(socket)
            socket.close()
        log.info("server: stopped")
        return engine.exit_code

    def _set_up(self) -> None:
        with Netlink() as netlink:
            for tunnel in self._engine.tunnels:
                tunnel.configure(netlink, None, self._identity.public)

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
            "interface": NAME,
            "tunnels": [
                tunnel.status(_links(peer), now)
                for peer, tunnel in zip(self._peers, self._engine.tunnels, strict=True)
            ],
            "drops": self._engine.drops.as_dict(),
        }


def _links(peer: ClientPeer) -> list[Link]:
    return list(peer.session.links.values()) if peer.session is not None else []
