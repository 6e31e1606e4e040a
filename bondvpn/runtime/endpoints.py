"""The server's addresses: those of all its endpoints, and whose turn it is on an uplink."""

import asyncio
import logging
import socket
from collections.abc import Sequence
from typing import NamedTuple

from bondvpn.linux.udp import Address
from bondvpn.values import Endpoint

log = logging.getLogger(__name__)

FAMILIES = {socket.AF_INET: 4, socket.AF_INET6: 6}


class Target(NamedTuple):
    """An address of the server."""

    version: int
    address: Address


class Endpoints:
    """All addresses that the server's endpoints have, in the order of the file, then as resolved.

    A name that does not resolve keeps the addresses it had.
    """

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self._found: dict[Endpoint, list[Target]] = {endpoint: [] for endpoint in endpoints}
        self._unknown: set[str] = set()

    @property
    def targets(self) -> list[Target]:
        return list(dict.fromkeys(target for found in self._found.values() for target in found))

    def reachable(self, versions: Sequence[int]) -> list[Target]:
        """Those of these families (4, 6)."""
        return [target for target in self.targets if target.version in versions]

    async def resolve(self) -> None:
        """Ask for all of them anew, at the same time."""
        await asyncio.gather(*(self._resolve(endpoint) for endpoint in self._found))

    async def _resolve(self, endpoint: Endpoint) -> None:
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(
                endpoint.host, endpoint.port, type=socket.SOCK_DGRAM, proto=socket.IPPROTO_UDP
            )
        except OSError as error:
            if endpoint.host not in self._unknown:
                log.warning("cannot resolve %s: %s", endpoint.host, error)
            self._unknown.add(endpoint.host)
            return
        self._unknown.discard(endpoint.host)
        self._found[endpoint] = [
            Target(FAMILIES[family], address) for family, _, _, _, address in found if family in FAMILIES
        ]
