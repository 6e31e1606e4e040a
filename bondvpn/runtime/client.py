"""A client process: one tunnel, one socket per uplink, one server."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import uvloop

from bondvpn.config import ClientConfig, load_client
from bondvpn.errors import BondvpnError
from bondvpn.linux import fulltunnel
from bondvpn.linux.cpu import has_aes
from bondvpn.linux.journal import Journal, journal_path
from bondvpn.linux.netlink import Netlink
from bondvpn.linux.nftables import NftTable
from bondvpn.linux.tap import Tap
from bondvpn.noise.handshake import NO_PRESHARED_KEY, Identity, Remote
from bondvpn.runtime.control import ControlSocket
from bondvpn.runtime.engine import Engine
from bondvpn.runtime.hooks import Hooks
from bondvpn.runtime.reload import Reply, client_changes, refusal
from bondvpn.runtime.state import TimestampFile
from bondvpn.runtime.tunnel import Device, Tunnel, record_tap
from bondvpn.runtime.uplinks import Uplinks
from bondvpn.session.initiator import Initiator
from bondvpn.session.keypair import Keypair
from bondvpn.session.link import Link, Path
from bondvpn.stats import Drop
from bondvpn.wire import handshake
from bondvpn.wire.capabilities import AES_256_GCM, CHACHA20_POLY1305

log = logging.getLogger(__name__)


def run_client(config: ClientConfig) -> int:
    """Run until SIGTERM or SIGINT; the exit code. Raises SystemFault when it cannot start."""
    fulltunnel.refuse_conflicts(config.tunnel.interface, config.tunnel)
    # It stands until somebody ends the process: also while a killed one is started anew, or fails to start.
    standing = [NftTable(name=fulltunnel.KILL_SWITCH)]
    with Netlink() as netlink:
        path = journal_path(config.tunnel.interface)
        journal = Journal.begin(path, netlink, standing if config.tunnel.kill_switch else ())
        record_tap(config.tunnel, netlink, journal)
        try:
            code = uvloop.run(Client(config, journal).run())
            if code == 0:
                standing = []
            return code
        finally:
            for line in journal.undo(netlink, standing):
                log.warning("%s", line)


class Client:
    """Implements `engine.Control`."""

    def __init__(self, config: ClientConfig, journal: Journal) -> None:
        self._config = config
        self._journal = journal
        self._identity = Identity(config.private_key)
        self._hooks = Hooks(config.hooks, "client")
        self._reloading = asyncio.Lock()

    async def run(self) -> int:
        """The real thing, on a TAP; the exit code. Raises SystemFault."""
        name = self._config.tunnel.interface
        async with self.dialling(Tap(name), self._set_up), ControlSocket(name, self.status, self.reload):
            log.info("%s: started, %d uplinks", name, len(self._uplinks.links))
            await self._engine.stopped.wait()
        log.info("%s: stopped", name)
        return self._engine.exit_code

    @contextlib.asynccontextmanager
    async def dialling(self, device: Device, set_up: Callable[[], None] | None = None) -> AsyncIterator[None]:
        """Carry what `device` has over the uplinks while entered; `set_up` blocks, and is for the device."""
        config = self._config
        self._engine = engine = Engine(asyncio.get_running_loop())
        name = config.tunnel.interface
        self._tunnel = tunnel = Tunnel(name, config.tunnel, engine, device, self._hooks.announcer(name, name))
        engine.tunnels.append(tunnel)
        self._uplinks = uplinks = Uplinks(config, self._journal, engine, tunnel)
        try:
            if set_up is not None:
                await asyncio.to_thread(set_up)
            await uplinks.prepare()
            self._initiator = self._make_initiator()
            engine.reload = self.reload
            engine.start(self)
            tunnel.start()
            async with uplinks.running(self._initiator):
                yield
            engine.stop()
        finally:
            uplinks.close()
            await asyncio.to_thread(self._hooks.close)

    def _make_initiator(self) -> Initiator:
        ciphers = CHACHA20_POLY1305 | (AES_256_GCM if has_aes() else 0)
        server = self._config.server
        return Initiator(
            identity=self._identity,
            remote=Remote(server.public_key, server.preshared_key or NO_PRESHARED_KEY),
            capabilities=self._tunnel.capabilities(self._engine.random(8), ciphers),
            links=self._uplinks.links,
            table=self._engine.table,
            random=self._engine.random,
            timestamp=TimestampFile(self._config.tunnel.interface).next,
            observer=self._tunnel,
            drops=self._tunnel.drops,
            rekey_after_s=self._config.tunnel.rekey_after_s,
        )

    def _set_up(self) -> None:
        """The tunnel's device; blocks."""
        ups = [None if uplink.auto else uplink.up_bps for uplink in self._config.uplinks]
        rate = None if None in ups else float(sum(up for up in ups if up))
        with Netlink() as netlink:
            self._tunnel.configure(netlink, rate, self._identity.public)

    async def reload(self) -> Reply:
        """Read the file anew and apply what can be; look at the kernel in any case."""
        async with self._reloading:
            old = self._config
            try:
                new = await asyncio.to_thread(load_client, old.path)
                fulltunnel.refuse_conflicts(old.tunnel.interface, new.tunnel)
            except BondvpnError as fault:
                return refusal(fault)
            self._config, reply = client_changes(old, new)
            self._hooks.commands = self._config.hooks
            reply["faults"] += await self._uplinks.reconfigure(self._config)
            return reply

    # -- Control --------------------------------------------------------------------------------
    def poll(self, now: float) -> None:
        self._initiator.poll(now)
        self._tunnel.sample(self._links(), now)

    def deadline(self, now: float) -> float:
        return self._initiator.deadline(now)

    def handshake(self, datagram: bytes, path: Path, now: float) -> None:
        if datagram[0] == handshake.RESPONSE:
            self._initiator.receive_response(datagram, now)
        else:
            self._tunnel.drops.count(Drop.TYPE)

    def confirm(self, keypair: Keypair, now: float) -> None:
        """Only a responder's keypairs wait for it."""

    def _links(self) -> list[Link]:
        return [link for link, _ in self._uplinks.present()]

    def status(self, now: float) -> dict[str, Any]:
        tunnel = self._tunnel.status(self._links(), now)
        for shown, (_, place) in zip(tunnel["links"], self._uplinks.present(), strict=True):
            shown.update(place)
        return {
            "role": "client",
            "interface": self._config.tunnel.interface,
            "machine": self._uplinks.machine(),
            "tunnels": [tunnel],
            "drops": self._engine.drops.as_dict(),
        }
