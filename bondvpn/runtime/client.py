"""A client process: one tunnel, one socket per uplink, one server."""

import asyncio
import logging
import socket
from typing import Any

import uvloop

from bondvpn.config import ClientConfig, Uplink
from bondvpn.errors import SystemFault
from bondvpn.linux import policy
from bondvpn.linux.cpu import has_aes
from bondvpn.linux.journal import Journal, journal_path, tables_taken
from bondvpn.linux.netlink import Netlink
from bondvpn.linux.policy import Binding
from bondvpn.linux.tap import Tap
from bondvpn.linux.udp import UdpSocket
from bondvpn.noise.handshake import NO_PRESHARED_KEY, Identity, Remote
from bondvpn.runtime.control import ControlSocket
from bondvpn.runtime.engine import Engine
from bondvpn.runtime.state import TimestampFile
from bondvpn.runtime.tunnel import Tunnel, record_tap
from bondvpn.session.initiator import Initiator
from bondvpn.session.keypair import Keypair
from bondvpn.session.link import Link, Path
from bondvpn.stats import Drop
from bondvpn.wire import handshake
from bondvpn.wire.capabilities import AES_256_GCM, CHACHA20_POLY1305

log = logging.getLogger(__name__)

REBIND_S = 0.5  # how often an uplink without a path is tried
ATTEMPTS_PER_ENDPOINT = 3  # before the next of the server's endpoints is tried
ROUTES_CHECK_S = 30.0  # routes that something deleted come back; sooner when a link does not answer
ROUTES_CHECK_AILING_S = 5.0


def run_client(config: ClientConfig) -> int:
    """Run until SIGTERM or SIGINT; the exit code. Raises SystemFault when it cannot start."""
    with Netlink() as netlink:
        journal = Journal.begin(journal_path(config.tunnel.interface), netlink)
        record_tap(config.tunnel, netlink, journal)
        try:
            return uvloop.run(_Client(config, journal).run())
        finally:
            for line in journal.undo(netlink):
                log.warning("%s", line)


class _UplinkSocket:
    """One uplink's socket, remade whenever the line it was bound to went away."""

    def __init__(self, uplink: Uplink, link: Link, engine: Engine) -> None:
        self.uplink = uplink
        self.link = link
        self._engine = engine
        self._socket: UdpSocket | None = None

    @property
    def family(self) -> int | None:
        """The address family it is tied to, None if either will do."""
        address = self.uplink.source or self.uplink.gateway
        return None if address is None else (socket.AF_INET if address.version == 4 else socket.AF_INET6)

    def open(self, binding: Binding, address: Any, ipv6: bool) -> None:
        """Bind and point the link at `address`. Raises SystemFault while the device is not there."""
        self.close()
        source = binding.source or ("::" if ipv6 else "0.0.0.0")
        self._socket = UdpSocket((source, 0), ipv6=ipv6, device=binding.interface, mark=binding.mark)
        self._engine.watch_socket(self._socket)
        self.link.set_path(Path(self._socket, address))

    def close(self) -> None:
        self.link.path = None
        if self._socket is not None:
            self._engine.unwatch_socket(self._socket)
            self._socket.close()
            self._socket = None


class _Client:
    """Implements `engine.Control`."""

    def __init__(self, config: ClientConfig, journal: Journal) -> None:
        self._config = config
        self._journal = journal
        self._identity = Identity(config.private_key)
        self._plan = policy.Plan((), (), (), ())
        self._waiting: dict[str, str] = {}  # uplink name -> why it has no path, as last logged

    async def run(self) -> int:
        config = self._config
        self._engine = engine = Engine(asyncio.get_running_loop())
        self._tunnel = tunnel = Tunnel(
            config.tunnel.interface, config.tunnel, engine, Tap(config.tunnel.interface)
        )
        engine.tunnels.append(tunnel)
        self._uplinks = [self._make_uplink(i, uplink) for i, uplink in enumerate(config.uplinks)]
        ups = [uplink.up_bps for uplink in config.uplinks]
        rate = None if None in ups else float(sum(up for up in ups if up))
        await asyncio.to_thread(self._set_up, rate)
        await self._resolve(0)
        ciphers = CHACHA20_POLY1305 | (AES_256_GCM if has_aes() else 0)
        self._initiator = Initiator(
            identity=self._identity,
            remote=Remote(config.server.public_key, config.server.preshared_key or NO_PRESHARED_KEY),
            capabilities=tunnel.capabilities(engine.random(8), ciphers),
            links={uplink.link.number: uplink.link for uplink in self._uplinks},
            table=engine.table,
            random=engine.random,
            timestamp=TimestampFile(config.tunnel.interface).next,
            observer=tunnel,
            drops=tunnel.drops,
            rekey_after_s=config.tunnel.rekey_after_s,
        )
        engine.start(self)
        tunnel.start()
        self._open_uplinks()
        async with ControlSocket(config.tunnel.interface, self.status):
            keeper = asyncio.create_task(self._keep_uplinks())
            keeper.add_done_callback(engine.task_done)
            log.info("%s: started, %d uplinks", tunnel.name, len(self._uplinks))
            await engine.stopped.wait()
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)
        engine.stop()
        for uplink in self._uplinks:
            uplink.close()
        log.info("%s: stopped", tunnel.name)
        return engine.exit_code

    # -- uplinks --------------------------------------------------------------------------------
    def _make_uplink(self, number: int, uplink: Uplink) -> _UplinkSocket:
        link = Link(number, uplink.name, self._tunnel, self._tunnel.drops)
        link.tier = uplink.tier
        link.receive_rate_bps = uplink.down_bps or 0
        link.set_send_rate(uplink.up_bps or 0)
        return _UplinkSocket(uplink, link, self._engine)

    def _set_up(self, rate_bps: float | None) -> None:
        with Netlink() as netlink:
            self._tunnel.configure(netlink, rate_bps, self._identity.public)
            self._install(netlink)

    def _install(self, netlink: Netlink) -> None:
        """Routes and rules of all uplinks; where each of them is now."""
        uplinks = self._config.uplinks
        path = journal_path(self._config.tunnel.interface)
        old = self._plan
        self._plan = policy.plan(uplinks, policy.survey(uplinks, netlink), tables_taken(path))
        for rule in set(old.rules) - set(self._plan.rules):
            netlink.drop_rule(rule)  # of an address that has gone
        for line in policy.install(self._plan, netlink, self._journal):
            log.debug("waiting: %s", line)
        for binding, uplink in zip(self._plan.bindings, self._uplinks, strict=True):
            mtu = netlink.link_mtu(binding.interface) if binding.interface else None
            uplink.link.interface_mtu = min(mtu or 1500, 1500)

    async def _resolve(self, attempt: int) -> None:
        """The server's addresses, by family; another endpoint after some fruitless attempts."""
        endpoints = self._config.server.endpoints
        endpoint = endpoints[attempt % len(endpoints)]
        try:
            found = await self._engine.loop.getaddrinfo(
                endpoint.host, endpoint.port, type=socket.SOCK_DGRAM, proto=socket.IPPROTO_UDP
            )
        except OSError as error:
            log.warning("cannot resolve %s: %s", endpoint.host, error)
            found = []
        self._addresses: dict[int, Any] = {
            int(family): address for family, _, _, _, address in reversed(found)
        }

    def _open_uplinks(self) -> None:
        """Bind those that have no path."""
        now = self._engine.clock()
        session = self._initiator.session
        for binding, uplink in zip(self._plan.bindings, self._uplinks, strict=True):
            if uplink.link.path is not None:
                continue
            families = [uplink.family] if uplink.family is not None else list(self._addresses)
            family = next((family for family in families if family in self._addresses), None)
            try:
                if family is None:
                    raise SystemFault("the server has no address that this uplink could reach")
                uplink.open(binding, self._addresses[family], family == socket.AF_INET6)
            except SystemFault as fault:
                uplink.link.reason = str(fault)
                if self._waiting.get(uplink.uplink.name) != str(fault):
                    log.warning("uplink %s: %s", uplink.uplink.name, fault)
                    self._waiting[uplink.uplink.name] = str(fault)
                continue
            if self._waiting.pop(uplink.uplink.name, None):
                log.info("uplink %s: back", uplink.uplink.name)
            if session is not None:
                session.path_up(uplink.link, now)
        self._engine.control_changed()

    async def _keep_uplinks(self) -> None:
        """Retry what has no path, restore routes that something deleted, try other endpoints."""
        tried = 0
        checked = self._engine.clock()
        while True:
            await asyncio.sleep(REBIND_S)
            attempt = self._initiator.attempts // ATTEMPTS_PER_ENDPOINT
            links = self._links()
            missing = any(link.path is None for link in links)
            ailing = self._initiator.session is not None and not all(link.active for link in links)
            if attempt != tried and attempt:
                for uplink in self._uplinks:
                    uplink.close()
                await self._resolve(attempt)
                missing = True
            tried = attempt
            now = self._engine.clock()
            if missing or now - checked >= (ROUTES_CHECK_AILING_S if ailing else ROUTES_CHECK_S):
                checked = now
                try:
                    await asyncio.to_thread(self._reinstall)
                except SystemFault as fault:
                    log.warning("%s", fault)
            if missing:
                if not self._addresses:
                    await self._resolve(attempt)
                self._open_uplinks()

    def _reinstall(self) -> None:
        with Netlink() as netlink:
            self._install(netlink)

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
        return [uplink.link for uplink in self._uplinks]

    def status(self, now: float) -> dict[str, Any]:
        return {
            "role": "client",
            "interface": self._config.tunnel.interface,
            "tunnels": [self._tunnel.status(self._links(), now)],
            "drops": self._engine.drops.as_dict(),
        }
