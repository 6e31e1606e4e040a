"""What routers say of our datagrams' size, told to the links concerned.

    raw ICMP sockets --> TooBig: which datagram --> the link that sends just so --> a hint to its path MTU

A hint directs the next probes and changes nothing else, so a forged message costs a few of them. It has to
quote a link's addresses and ports at both ends even for that. Without CAP_NET_RAW nobody listens: a smaller
path MTU is then found by what is lost.
"""

import asyncio
import logging
import socket
from collections.abc import Callable, Iterable, Iterator

from bondvpn.linux.icmp import IcmpSocket, TooBig
from bondvpn.linux.sysctl import has_ipv6
from bondvpn.linux.udp import UdpSocket
from bondvpn.session.link import Link, Path
from bondvpn.stats import Drop, Drops

log = logging.getLogger(__name__)

# In a path's packet info: struct in_pktinfo's ipi_spec_dst, struct in6_pktinfo's ipi6_addr
_LOCAL4, _LOCAL6 = slice(4, 8), slice(0, 16)

Key = tuple[tuple[str, int], tuple[str, int]]
"""Address and port of this end and of the peer."""


class TooBigMessages:
    """The process's ICMP sockets in its loop, from `start` to `stop`."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        links: Callable[[], Iterable[Link]],
        clock: Callable[[], float],
        changed: Callable[[], None],
        drops: Drops,
    ) -> None:
        """`links`: all that may send; `changed` is called when one has got a hint."""
        self._loop = loop
        self._links = links
        self._clock = clock
        self._changed = changed
        self._drops = drops
        self._sockets: list[IcmpSocket] = []

    def start(self) -> None:
        """Listen, as far as we may."""
        for ipv6 in (False, True) if has_ipv6() else (False,):
            try:
                one = IcmpSocket(ipv6=ipv6)
            except OSError as fault:
                log.info("no ICMP (%s): smaller path MTUs are found by what is lost", fault.strerror)
                return
            self._sockets.append(one)
            self._loop.add_reader(one.fileno(), self._on_message, one)

    def stop(self) -> None:
        """Listen no more."""
        for one in self._sockets:
            self._loop.remove_reader(one.fileno())
            one.close()
        self._sockets = []

    def _on_message(self, icmp: IcmpSocket) -> None:
        messages = icmp.receive()
        self._drops.count(Drop.ICMP, icmp.malformed)
        if messages:
            self.told(messages)

    def told(self, messages: Iterable[TooBig]) -> None:
        """Hint those links that sent what the messages quote."""
        now = self._clock()
        links = {key: link for link in self._links() for key in _keys(link.path)}
        ports = {source[1] for source, _ in links}
        for message in messages:
            link = links.get((message.source, message.target))
            if link is not None:
                link.path_mtu.packet_too_big(message.mtu, now)
            elif message.source[1] in ports:  # else it is another program's
                self._drops.count(Drop.ICMP)
        self._changed()


def _keys(path: Path | None) -> Iterator[Key]:
    """How a message would quote what leaves by the path; nothing where it is no socket's."""
    if path is None or not isinstance(path.socket, UdpSocket):
        return
    host, port = path.socket.address[:2]
    if path.local:
        family, place = (socket.AF_INET6, _LOCAL6) if path.socket.ipv6 else (socket.AF_INET, _LOCAL4)
        host = socket.inet_ntop(family, path.local[place])
    yield (host, port), path.address[:2]
