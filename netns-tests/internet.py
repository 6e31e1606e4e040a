"""The Internet behind srv: whoever connects is told the address it comes from."""

import contextlib
import socket
import threading
from typing import Self

from premises import Premises

from bondvpn.lab import namespace
from bondvpn.lab.topology import Lab

HOST, HOST6 = "198.51.100.80", "2001:db8:80::1"  # not the address that the tunnel's server has
PORT = 7
PATIENCE_S = 3.0


class Internet:
    """Hosts at srv, or at a router, while entered; at srv they are reached through a tunnel and by every line
    alike."""

    def __init__(self, lab: Lab, where: str = "srv") -> None:
        self._lab = lab
        for address in (f"{HOST}/32", f"{HOST6}/128"):
            nodad = ["nodad"] if ":" in address else []
            lab.run(where, ["ip", "address", "add", address, "dev", "lo", *nodad], check=True)
        with namespace.entered(lab.namespace(where)):
            self._listener = socket.create_server(("::", PORT), family=socket.AF_INET6, dualstack_ipv6=True)
        self._thread = threading.Thread(target=self._answer, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)

    def sees(
        self,
        where: str,
        host: str = HOST,
        *,
        mark: int | None = None,
        timeout_s: float = PATIENCE_S,
        segment_max: bool = False,
    ) -> str:
        """What address a connection from there to it comes from; "" where none is made. `segment_max`: also
        the largest segment that the host was told of."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with namespace.entered(self._lab.namespace(where)):
            asking = socket.socket(family)
        with asking, contextlib.suppress(OSError):
            asking.settimeout(timeout_s)
            if mark is not None:
                asking.setsockopt(socket.SOL_SOCKET, 36, mark)  # SO_MARK
            asking.connect((host, PORT))
            address, _, size = asking.recv(128).decode().partition(" ")
            return f"{address} {size}" if segment_max else address
        return ""

    def _answer(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, address = self._listener.accept()
                with connection, contextlib.suppress(OSError):
                    told = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)
                    connection.sendall(f"{address[0].removeprefix('::ffff:')} {told}".encode())


def dual_stack_office(premises: Premises) -> None:
    """gw has eth1 and eth2 with a router and a default route each, IPv6 by the first, and a PC at lan0."""
    for i in (1, 2):
        premises.join("gw", f"eth{i}", f"r{i}", "lan", f"10.{i}.0.2/24", f"10.{i}.0.1/24")
        premises.provider(i, f"10.{i}.0.0/24")
        premises.ip("gw", f"route add default via 10.{i}.0.1 metric {i}00")
    premises.ip("gw", "address add 2001:db8:1::2/64 dev eth1 nodad")
    premises.ip("r1", "address add 2001:db8:1::1/64 dev lan nodad")
    premises.ip("gw", "route add default via 2001:db8:1::1")
    premises.ip("srv", "route add 2001:db8:1::/64 via 2001:db8:ffff:1::2")
    premises.join("gw", "lan0", "wire", "lan0", "192.168.7.1/24", "192.168.7.2/24")
