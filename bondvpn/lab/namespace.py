"""Network namespaces by name: make, enter, clear, remove."""

import contextlib
import ctypes
import fcntl
import os
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from pyroute2 import netns

from bondvpn.errors import SystemFault

CLONE_NEWNET = 0x40000000  # linux/sched.h

# linux/sockios.h, linux/ethtool.h
SIOCETHTOOL = 0x8946
ETHTOOL_STXCSUM = 0x17
ETHTOOL_SGRO = 0x2C

KILL_WAIT_S = 2.0

_libc = ctypes.CDLL(None, use_errno=True)


def exists(name: str) -> bool:
    return name in netns.listnetns()


def create(name: str) -> None:
    """Raises SystemFault when the kernel refuses (not root, most often)."""
    try:
        netns.create(name)
    except OSError as error:
        raise SystemFault(f"cannot make the network namespace {name}: {error} (this needs root)") from error


def processes(name: str) -> list[int]:
    """The pids inside the namespace."""
    listed = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=False)
    return [int(pid) for pid in listed.stdout.split()]


def remove(name: str) -> None:
    """Kill what runs inside, then the namespace. One that does not exist is fine."""
    if not exists(name):
        return
    give_up_at = time.monotonic() + KILL_WAIT_S
    while (pids := processes(name)) and time.monotonic() < give_up_at:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    netns.remove(name)


@contextlib.contextmanager
def entered(name: str) -> Iterator[None]:
    """Put the calling thread into the namespace; sockets opened here stay there. So does /proc/sys/net."""
    with Path("/proc/thread-self/ns/net").open("rb") as home, Path(f"/run/netns/{name}").open("rb") as there:
        _setns(there.fileno())
        try:
            yield
        finally:
            _setns(home.fileno())


def sysctl(name: str, settings: dict[str, str]) -> None:
    """Write /proc/sys entries, given as paths below /proc/sys/net, inside the namespace."""
    with entered(name):
        for path, value in settings.items():
            Path("/proc/sys/net", path).write_text(value)


def wire_size(name: str, interfaces: list[str]) -> None:
    """Switch off what makes frames larger than the wire's: checksum (and with it segmentation) and receive
    offload. The kernel then cuts and sums in software before the interface sees a frame."""
    with entered(name), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for interface in interfaces:
            for command in (ETHTOOL_STXCSUM, ETHTOOL_SGRO):
                value = ctypes.create_string_buffer(struct.pack("=II", command, 0))
                request = struct.pack("16sP8x", interface.encode(), ctypes.addressof(value))
                fcntl.ioctl(any_socket, SIOCETHTOOL, request)


def _setns(fd: int) -> None:
    if _libc.setns(fd, CLONE_NEWNET) != 0:
        error = ctypes.get_errno()
        raise SystemFault(f"cannot enter a network namespace: {os.strerror(error)}")
