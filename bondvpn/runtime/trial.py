"""The lines of a client tried out, without a TAP: who reaches which of the server's endpoints, and how well.

It is the client itself that dials, with its own planner, sockets, handshake and probes, so what comes of it
is what would come of a start. To the server it is a client that comes and goes. Everything is taken back at
the end, or by `bondvpn down` after a kill. Only for when no client runs: the server would take the second
one for the first one restarted.
"""

import asyncio
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace

import uvloop

from bondvpn.config import ClientConfig, Hooks, Tunnel
from bondvpn.linux.journal import Journal, journal_path
from bondvpn.linux.netlink import Netlink
from bondvpn.runtime.client import Client
from bondvpn.session.link import Link
from bondvpn.wire.datagram import UDP
from bondvpn.wire.virtio import HEADER_BYTES

ANSWER_S = 3.0  # two handshakes and a retry: who is silent for so long is not there
SETTLE_S = 6.0  # for the search of the path MTU, 3 s through a black hole
LOOK_S = 0.02
RAMP_S = 1.5  # until a line of some hundred milliseconds is full
SPEED_S = 2.0

# To a group that no bridge forwards (IEEE 802.1Q table 8-1), IPv4 with a checksum that no host takes.
_ETHERNET = bytes.fromhex("0180c200000e0200000011890800")
_PAYLOAD_BYTES = 1_472
_FRAME = (
    bytes(HEADER_BYTES)
    + _ETHERNET
    + struct.pack("!BBHHHBBH4s4s", 0x45, 0, 28 + _PAYLOAD_BYTES, 0, 0, 1, UDP, 0xDEAD, bytes(4), bytes(4))
    + struct.pack("!HHHH", 9, 9, 8 + _PAYLOAD_BYTES, 0)  # the discard port, RFC 863
    + bytes(_PAYLOAD_BYTES)
)


@dataclass(frozen=True, slots=True)
class Tried:
    """One uplink to one endpoint."""

    uplink: str
    interface: str | None
    endpoint: str
    reached: bool
    reason: str
    """Why not, in words."""
    rtt_ms: float | None = None
    path_mtu: int | None = None
    interface_mtu: int | None = None
    up_bps: int | None = None
    """What arrived there a second, as Ethernet frames, with all lines full; if that was asked for."""


def try_lines(config: ClientConfig, *, speed: bool) -> list[Tried]:
    """Each uplink to each endpoint, a few seconds an endpoint. Raises SystemFault, also where one runs."""
    tried: list[Tried] = []
    with Netlink() as netlink:
        journal = Journal.begin(journal_path(config.tunnel.interface), netlink)
        try:
            for endpoint in config.server.endpoints:
                one = replace(
                    config,
                    hooks=Hooks(),
                    server=replace(config.server, endpoints=(endpoint,)),
                    tunnel=Tunnel(interface=config.tunnel.interface, address=config.tunnel.address),
                    uplinks=tuple(replace(uplink, up_bps=None, tier=0) for uplink in config.uplinks),
                )
                tried += uvloop.run(_Trial(one, journal).result(str(endpoint), speed=speed))
        finally:
            journal.undo(netlink)
    return tried


class _Source:
    """A device without a kernel behind it: nothing comes from it until it is opened, then without end."""

    uso = False

    def __init__(self) -> None:
        self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._open = False

    def open(self) -> None:
        self._open = True
        os.eventfd_write(self._fd, 1)  # readable from now on: nobody reads it

    def emit_uso(self, wanted: bool) -> None:
        """There is none."""

    def fileno(self) -> int:
        return self._fd

    def read_into(self, buffers: Sequence[memoryview]) -> int:
        if not self._open:
            return 0
        done = 0
        for buffer in buffers:
            part = _FRAME[done : done + len(buffer)]
            buffer[: len(part)] = part
            done += len(part)
        return done

    def write(self, parts: Sequence[bytes | bytearray | memoryview]) -> bool:
        return True

    def close(self) -> None:
        os.close(self._fd)


class _Trial(Client):
    """A client that only looks."""

    async def result(self, endpoint: str, *, speed: bool) -> list[Tried]:
        source = _Source()
        async with self.dialling(source):
            await self._settled()
            rates: dict[str, int] = {}
            if speed and any(link.active for link in self._links()):
                source.open()
                await asyncio.sleep(RAMP_S)
                before = {link.name: link.reported_bytes for link in self._links()}
                await asyncio.sleep(SPEED_S)
                rates = {
                    link.name: round((link.reported_bytes - before[link.name]) * 8 / SPEED_S)
                    for link in self._links()
                }
            return [
                Tried(
                    uplink=link.name,
                    interface=place["interface"],
                    endpoint=endpoint,
                    reached=link.active,
                    reason="" if link.active else link.reason or "no answer",
                    rtt_ms=round(link.srtt_s * 1e3, 1) if link.active else None,
                    path_mtu=link.path_mtu.current if link.active else None,
                    interface_mtu=link.interface_mtu or None,
                    up_bps=rates.get(link.name) if link.active else None,
                )
                for link, place in self._uplinks.present()
            ]

    async def _settled(self) -> None:
        """Until every line is known, or has had its time."""
        clock = self._engine.clock
        started = clock()
        while not self._engine.stopped.is_set() and clock() - started < SETTLE_S:
            links = [link for link in self._links() if link.path is not None]
            if links and all(_known(link) for link in links):
                return
            if clock() - started > ANSWER_S and all(_known(link) for link in links if link.active):
                return
            await asyncio.sleep(LOOK_S)


def _known(link: Link) -> bool:
    return link.active and link.srtt_s > 0 and not link.path_mtu.searching
