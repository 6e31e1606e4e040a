"""The least that a tunnel in Python can be: what bondvpn's figures can come near to, and no tunnel to use.

Run as a script it is one end: a TAP, a UDP socket, one datagram a frame sealed under a fixed key. No
handshake, no replay window, no streams, no scheduler, no reports, nothing that is ever lost or held: an
upper bound of what the interpreter, two system calls and one AEAD call a frame allow.

    relay.py INTERFACE LOCAL_ADDRESS PEER_ADDRESS PORT
"""

import asyncio
import gc
import os
import socket
import sys
from importlib.metadata import version
from pathlib import Path

import uvloop
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from bench.peers.peer import Peer
from bondvpn.lab.topology import Lab
from bondvpn.linux.tap import Tap

ADDRESSES = {"client": "172.21.6.2", "server": "172.21.6.1"}
PREFIX_BITS = 30
PORT = 5189
FRAME_MAX_BYTES = 66_000  # a datagram carries one: the relay does not cut super-frames, so it is given none
GSO_MAX_BYTES = 1500
TAG_LEN = 16
MTU = 1400


class Relay(Peer):
    """The script below at both ends."""

    name = "bare relay in Python"
    package = ""

    def __init__(self, lab: Lab, line: str) -> None:
        super().__init__(lab)
        self._line = line

    @classmethod
    def version(cls) -> str | None:
        return f"Python {sys.version.split()[0]}, cryptography {version('cryptography')}"

    @property
    def address(self) -> str:
        return ADDRESSES["server"]

    @property
    def command(self) -> str:
        return f"python {Path(__file__).name}"

    def start(self) -> None:
        outer = {"client": self.lab.address(self._line), "server": self.lab.gateway(self._line)}
        name = f"{self.lab.prefix[:8]}rel"
        for end, other in (("server", "client"), ("client", "server")):
            script = [sys.executable, "-m", "bench.peers.relay", name, outer[end], outer[other], str(PORT)]
            self.spawn(end, end, script)
            self.await_device(end, name)
            self.configure(end, "ip", "address", "add", f"{ADDRESSES[end]}/{PREFIX_BITS}", "dev", name)
            self.configure(
                end, "ip", "link", "set", name, "mtu", str(MTU), "gso_max_size", str(GSO_MAX_BYTES), "up"
            )


async def relay(interface: str, local: str, peer: str, port: int) -> None:
    """One end, until it is killed."""
    tap = Tap(interface)
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.setblocking(False)
    udp.bind((local, port))
    key = AESGCM(bytes(32))
    nonce = bytes(12)
    fd = tap.fileno()
    plain, sealed = memoryview(bytearray(FRAME_MAX_BYTES)), memoryview(bytearray(FRAME_MAX_BYTES))

    def on_tap() -> None:
        length = os.readv(fd, [plain])
        out = sealed[: length + TAG_LEN]
        key.encrypt_into(nonce, plain[:length], None, out)
        udp.sendto(out, (peer, port))

    def on_socket() -> None:
        length = udp.recv_into(sealed)
        frame = plain[: length - TAG_LEN]
        key.decrypt_into(nonce, sealed[:length], None, frame)
        os.writev(fd, [frame])

    loop = asyncio.get_running_loop()
    loop.add_reader(fd, on_tap)
    loop.add_reader(udp.fileno(), on_socket)
    gc.freeze()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(relay(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])))
