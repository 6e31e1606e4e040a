"""One end of the least that a tunnel in Python can be; run as a script, by `peers/relay.py`.

    relay.py INTERFACE LOCAL_ADDRESS PEER_ADDRESS PORT

A TAP, a UDP socket, one datagram a frame sealed under a fixed key. No handshake, no replay window, no
streams, no scheduler, no reports, nothing that is ever lost or held: an upper bound of what the
interpreter, two system calls and one AEAD call a frame allow.
"""

import asyncio
import gc
import os
import socket
import sys

import uvloop
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from bondvpn.linux.tap import Tap

FRAME_MAX_BYTES = 66_000
TAG_LEN = 16


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
