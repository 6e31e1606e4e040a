"""UDP sockets that send and receive runs of datagrams: GSO out, GRO in, with a fallback by themselves.

Sockets stay unconnected: under uvloop the reader of a connected one dies for good after one ICMP error.
"""

import contextlib
import errno
import socket
import struct
import time
from enum import IntEnum
from typing import Any, NamedTuple

from bondvpn.errors import SystemFault

Buffer = bytes | bytearray | memoryview
Address = tuple[Any, ...]

# linux/udp.h, linux/in.h, linux/in6.h, asm-generic/socket.h: not all are in the socket module
SOL_UDP = 17
UDP_SEGMENT = 103
UDP_GRO = 104
IP_PKTINFO = 8
IPV6_RECVPKTINFO = 49
IPV6_PKTINFO = 50
IP_MTU_DISCOVER = 10
IPV6_MTU_DISCOVER = 23
PMTUDISC_PROBE = 3  # set DF, never fragment, ignore the kernel's own path MTU
SO_RCVBUFFORCE = 33
SO_SNDBUFFORCE = 32
SO_MARK = 36
SO_TIMESTAMPNS_NEW = 64  # 64 bits of seconds on every machine; Linux 5.1
SO_ATTACH_REUSEPORT_CBPF = 51

BUFFER_BYTES = 4 << 20  # 10 ms at 3.4 Gbit/s, more than one wake-up ever leaves behind
RUN_BYTES_MAX = 65_000  # below the 65,507 bytes of one UDP payload
RUN_SEGMENTS_MAX = 64  # UDP_MAX_SEGMENTS before Linux 6.2

WAITED_MAX_S = 0.5  # more is no wait but a wall clock that was set

_ANCILLARY_LEN = socket.CMSG_SPACE(4) + socket.CMSG_SPACE(20) + socket.CMSG_SPACE(16)
_SEGMENT = struct.Struct("=H")
_INT = struct.Struct("=i")
_TIMESPEC = struct.Struct("=qq")
_PKTINFO4 = struct.Struct("=I4s4s")
_PKTINFO6 = struct.Struct("=16sI")
_LINK_LOCAL = b"\xfe\x80"

_DOWN = {
    errno.ENETUNREACH,
    errno.EHOSTUNREACH,
    errno.ENETDOWN,
    errno.EHOSTDOWN,
    errno.ENODEV,
    errno.ENXIO,
    errno.EADDRNOTAVAIL,
    errno.EINVAL,  # the source address is gone
    errno.EPERM,  # a firewall's OUTPUT rule
    errno.EACCES,
}


class Sent(IntEnum):
    """What became of a run."""

    OK = 0
    BLOCKED = 1  # the socket's buffer is full; nothing of the rest was sent
    TOO_BIG = 2  # larger than the interface's MTU
    DOWN = 3  # no route, no device, no address: `UdpSocket.last_error` says which


class Received(NamedTuple):
    """One receive call: `length` bytes in datagrams of `segment` bytes, the last may be shorter."""

    length: int
    segment: int
    address: Address
    local: bytes  # packet info to answer from the same address; empty on a bound socket
    waited_s: float  # since the kernel had the first of them: a busy machine reads late


class UdpSocket:
    """A non-blocking UDP socket, bound to an address and, if given, a device and a mark."""

    def __init__(
        self,
        address: Address,
        *,
        ipv6: bool = False,
        device: str | None = None,
        mark: int | None = None,
        shared: bool = False,
    ) -> None:
        """Bind; `shared`: beside others that share the port.

        Raises SystemFault naming the address or device that cannot be had.
        """
        self.ipv6 = ipv6
        self.gso = True
        self.gso_fallbacks = 0
        self.last_error = ""
        self._ancillary: dict[tuple[int, bytes], list[tuple[int, int, bytes]]] = {}
        self._socket = socket.socket(socket.AF_INET6 if ipv6 else socket.AF_INET, socket.SOCK_DGRAM)
        try:
            if shared:
                self.share_port()
            self._configure(device, mark)
            self._socket.bind(address)
        except OSError as error:
            self._socket.close()
            where = f"{address[0]} port {address[1]}" + (f" on {device}" if device else "")
            raise SystemFault(f"cannot bind UDP socket to {where}: {error.strerror}") from None
        self._wildcard = address[0] in {"0.0.0.0", "::"} and device is None
        if self._wildcard:
            self._want_packet_info()

    def _configure(self, device: str | None, mark: int | None) -> None:
        s = self._socket
        s.setblocking(False)
        if self.ipv6:
            s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            s.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, PMTUDISC_PROBE)
        else:
            s.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, PMTUDISC_PROBE)
        if device is not None:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
        if mark is not None:
            s.setsockopt(socket.SOL_SOCKET, SO_MARK, mark)
        for forced, plain in ((SO_RCVBUFFORCE, socket.SO_RCVBUF), (SO_SNDBUFFORCE, socket.SO_SNDBUF)):
            try:
                s.setsockopt(socket.SOL_SOCKET, forced, BUFFER_BYTES)
            except PermissionError:
                s.setsockopt(socket.SOL_SOCKET, plain, BUFFER_BYTES)
        with contextlib.suppress(OSError):  # before Linux 5.0: one datagram a call
            s.setsockopt(SOL_UDP, UDP_GRO, 1)
        with contextlib.suppress(OSError):
            s.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS_NEW, 1)

    def _want_packet_info(self) -> None:
        """A wildcard socket must answer from the address it was asked at."""
        if self.ipv6:
            self._socket.setsockopt(socket.IPPROTO_IPV6, IPV6_RECVPKTINFO, 1)
        else:
            self._socket.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)

    def share_port(self) -> None:
        """From now on others of this user may bind to the same address and port, if they are `shared` too."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)

    def steer(self, program: bytes) -> None:
        """Who of those that share the port gets a datagram: `program` is a `struct sock_fprog`.

        Raises SystemFault.
        """
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, program)
        except OSError as error:  # Linux 4.5
            raise SystemFault(f"cannot split a UDP port among workers: {error.strerror}") from None

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def address(self) -> Address:
        """What the socket is bound to."""
        name: Address = self._socket.getsockname()
        return name

    def receive_into(self, buffers: list[Buffer]) -> Received | None:
        """One receive call into `buffers` (at least 65,535 bytes in sum); None when nothing waits."""
        try:
            length, ancillary, _, address = self._socket.recvmsg_into(buffers, _ANCILLARY_LEN)
        except BlockingIOError:
            return None
        except OSError as error:  # the device went away under us
            self.last_error = error.strerror or str(error)
            return None
        segment = length
        local = b""
        waited_s = 0.0
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == SO_TIMESTAMPNS_NEW:
                seconds, nanoseconds = _TIMESPEC.unpack(data)
                waited_s = time.time() - seconds - nanoseconds * 1e-9
                if not 0.0 < waited_s < WAITED_MAX_S:
                    waited_s = 0.0
            elif level == SOL_UDP and kind == UDP_GRO:
                segment = _INT.unpack(data)[0]
            elif level == socket.IPPROTO_IP and kind == IP_PKTINFO:
                local = _PKTINFO4.pack(0, data[4:8], bytes(4))  # no index: routing may go another way
            elif level == socket.IPPROTO_IPV6 and kind == IPV6_PKTINFO:
                local = data if data.startswith(_LINK_LOCAL) else _PKTINFO6.pack(data[:16], 0)
        return Received(length, segment, address, local, waited_s)

    def send_run(
        self, run: memoryview, segment: int, address: Address, local: bytes = b""
    ) -> tuple[Sent, int]:
        """Datagrams of `segment` bytes each (the last may be shorter), in as few calls as the kernel takes.

        Returns what became of it and how many bytes of `run` the kernel has taken.
        """
        length = len(run)
        done = 0
        sendmsg = self._socket.sendmsg
        if self.gso and length > segment:
            ancillary = self._ancillary_for(segment, local)
            step = min(RUN_SEGMENTS_MAX, RUN_BYTES_MAX // segment) * segment
            try:
                while done < length:
                    done += sendmsg([run[done : done + step]], ancillary, 0, address)
                return Sent.OK, done
            except BlockingIOError:
                return Sent.BLOCKED, done
            except OSError as error:
                if error.errno not in {errno.EIO, errno.EINVAL}:
                    return self._failure(error), done
        ancillary = self._ancillary_for(0, local)
        refused = done < length and length > segment and self.gso
        try:
            while done < length:
                done += sendmsg([run[done : done + segment]], ancillary, 0, address)
        except BlockingIOError:
            return Sent.BLOCKED, done
        except OSError as error:
            return self._failure(error), done
        if refused:  # plain datagrams pass where a run did not: it was GSO the kernel would not have
            self.gso = False
            self.gso_fallbacks += 1
        return Sent.OK, done

    def send(self, datagram: bytes, address: Address, local: bytes = b"") -> Sent:
        """One datagram."""
        return self.send_run(memoryview(datagram), len(datagram), address, local)[0]

    def _failure(self, error: OSError) -> Sent:
        self.last_error = error.strerror or str(error)
        if error.errno == errno.EMSGSIZE:
            return Sent.TOO_BIG
        if error.errno in {errno.ENOBUFS, errno.ENOMEM}:
            return Sent.BLOCKED
        if error.errno in _DOWN:
            return Sent.DOWN
        raise SystemFault(f"sending UDP: {error}") from error

    def _ancillary_for(self, segment: int, local: bytes) -> list[tuple[int, int, bytes]]:
        """Control messages, kept: building them costs as much as sending a small datagram."""
        key = (segment, local)
        ancillary = self._ancillary.get(key)
        if ancillary is None:
            if len(self._ancillary) >= 256:
                self._ancillary.clear()
            ancillary = [(SOL_UDP, UDP_SEGMENT, _SEGMENT.pack(segment))] if segment else []
            if local:
                info = (socket.IPPROTO_IPV6, IPV6_PKTINFO) if self.ipv6 else (socket.IPPROTO_IP, IP_PKTINFO)
                ancillary.append((*info, local))
            self._ancillary[key] = ancillary
        return ancillary

    def close(self) -> None:
        self._socket.close()
