"""The least that a tunnel in Python can be: what bondvpn's figures can come near to, and no tunnel to use."""

import sys
from importlib.metadata import version

from bench.peers.peer import PointToPoint

PORT = 5189
MTU = 1400
GSO_MAX_BYTES = 1500  # a datagram carries one frame, and no super-frame fits into one


class Relay(PointToPoint):
    """`bench/relay.py` at both ends."""

    name = "bare relay in Python"
    package = ""
    octet = 6

    @classmethod
    def version(cls) -> str | None:
        return f"Python {sys.version.split()[0]}, cryptography {version('cryptography')}"

    @property
    def command(self) -> str:
        return "python -m bench.relay"

    def start(self) -> None:
        outer = {"client": self.lab.address(self.line), "server": self.lab.gateway(self.line)}
        name = f"{self.lab.prefix[:8]}rel"
        for end, other in (("server", "client"), ("client", "server")):
            script = [sys.executable, "-m", "bench.relay", name, outer[end], outer[other], str(PORT)]
            self.spawn(end, end, script)
            self.await_device(end, name)
            self.bring_up(end, name, "mtu", str(MTU), "gso_max_size", str(GSO_MAX_BYTES))
