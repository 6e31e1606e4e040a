"""Several sockets on one UDP port, one per worker process, and who of them gets a datagram.

The kernel runs a classic BPF program (socket(7), SO_ATTACH_REUSEPORT_CBPF; Linux 4.5) over each datagram
from its UDP payload on; the result is a place in the group, in the order in which its sockets were bound.
A place is lost when its socket is closed, so whoever restarts workers keeps the sockets open.
"""

import ctypes
import struct
from collections.abc import Sequence
from typing import NamedTuple

from bondvpn.linux.udp import Address, UdpSocket

# linux/bpf_common.h
_LD_W_ABS = 0x20
_RSH_K = 0x74
_MOD_K = 0x94  # Linux 3.7
_RET_A = 0x16

_FILTER = struct.Struct("=HBBI")  # struct sock_filter: code, jump if true, jump if false, k
_FPROG = struct.Struct("@HP")  # struct sock_fprog: instructions, where they are


class Steering(NamedTuple):
    """How a datagram names its worker: the big-endian word at `offset` of the UDP payload, without its lowest
    `shift` bits, modulo the number of workers. A datagram too short for that goes to worker 0."""

    offset: int
    shift: int

    def program(self, workers: int) -> list[bytes]:
        """The instructions, each a `struct sock_filter`."""
        return [
            _FILTER.pack(_LD_W_ABS, 0, 0, self.offset),  # beyond the end: the program returns 0
            _FILTER.pack(_RSH_K, 0, 0, self.shift),
            _FILTER.pack(_MOD_K, 0, 0, workers),
            _FILTER.pack(_RET_A, 0, 0, 0),
        ]


def bind_group(address: Address, *, ipv6: bool, steering: Steering, workers: int) -> list[UdpSocket]:
    """`workers` (2 or more) sockets on `address`, in their workers' order. Raises SystemFault."""
    # Alone at first: another program on this port, even one that shares it, is then a fault as always.
    group = [UdpSocket(address, ipv6=ipv6)]
    try:
        group[0].share_port()
        group += [UdpSocket(group[0].address, ipv6=ipv6, shared=True) for _ in range(workers - 1)]
        attach(group, steering)
    except BaseException:
        for one in group:
            one.close()
        raise
    return group


def attach(group: Sequence[UdpSocket], steering: Steering) -> None:
    """Let `steering` choose among the group's sockets."""
    instructions = steering.program(len(group))
    code = ctypes.create_string_buffer(b"".join(instructions))  # the kernel copies it
    group[0].steer(_FPROG.pack(len(instructions), ctypes.addressof(code)))
