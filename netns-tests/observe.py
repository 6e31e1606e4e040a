"""What the tunnel's tests look at: status, inner flows, datagrams on the lines, the kernel's tables."""

import contextlib
import itertools
import os
import random
import shutil
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

from bondvpn.bond.liveness import PROBE_IDLE_S
from bondvpn.lab import namespace
from bondvpn.lab.topology import Lab
from bondvpn.lab.tunnel import PORT, Tunnel, client_address, peer_address
from bondvpn.ui import control

Seen = TypeVar("Seen")

POLL_S = 0.02
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
INITIATION, TRANSPORT = 1, 4  # datagram types, design.md 4

# Data whose place in the stream shows: a prime length, so that no chunk, segment or page repeats it.
PATTERN = random.Random(1189).randbytes(65_521)
BLOCK_BYTES = 16_384
TCP_INFO_TOTAL_RETRANS = 100  # offset of tcpi_total_retrans, linux/tcp.h
SO_RCVBUFFORCE = 33  # asm-generic/socket.h
IP_FRAGMENT_MASK = 0x3FFF  # more fragments, or an offset: RFC 791


def eventually(look: Callable[[], Seen], within_s: float, what: str = "") -> Seen:
    """The first true value of `look`; fails after `within_s` with the last one."""
    give_up_at = time.monotonic() + within_s
    while not (seen := look()):
        if time.monotonic() > give_up_at:
            raise AssertionError(f"not within {within_s:g} s: {what or look}; last seen: {seen!r}")
        time.sleep(POLL_S)
    return seen


def seconds_until(look: Callable[[], object], within_s: float, what: str = "") -> float:
    """How long `eventually` took."""
    started = time.monotonic()
    eventually(look, within_s, what)
    return time.monotonic() - started


# -- the processes ------------------------------------------------------------------------------
def control_socket(tunnel: Tunnel, end: str) -> Path:
    home, name = ("server", "server") if end == "server" else ("client", f"bond{int(end[6:] or 1) - 1}")
    return tunnel.root / home / "run" / f"{name}.sock"


def status(tunnel: Tunnel, end: str) -> dict[str, Any]:
    """What `bondvpn status --json` prints, without starting an interpreter; {} when none runs."""
    return control.ask(control_socket(tunnel, end), "status") or {}


def links(tunnel: Tunnel, end: str) -> dict[str, dict[str, Any]]:
    """The links of the only tunnel by name; {} while there is none."""
    tunnels = status(tunnel, end).get("tunnels") or [{"links": []}]
    return {link["name"]: link for link in tunnels[0]["links"]}


def drops(tunnel: Tunnel, end: str) -> dict[str, int]:
    """Counted reasons, those of the process and of its tunnel together."""
    seen = status(tunnel, end)
    total: dict[str, int] = {}
    for counted in (seen["drops"], *(each["drops"] for each in seen["tunnels"])):
        for reason, n in counted.items():
            total[reason] = total.get(reason, 0) + n
    return total


def all_active(tunnel: Tunnel, lab: Lab) -> bool:
    """Whether both ends use every line of the lab."""
    wanted = {line.name: "active" for line in lab.lines}
    return all(
        {name: link["state"] for name, link in links(tunnel, end).items()} == wanted
        for end in ("client", "server")
    )


def cpu_s(pid: int) -> float:
    """User and system time of a process, all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def resident_bytes(pid: int) -> int:
    for row in Path(f"/proc/{pid}/status").read_text().splitlines():
        if row.startswith("VmRSS:"):
            return int(row.split()[1]) * 1024
    raise AssertionError(f"process {pid} has no memory")


# -- inner traffic ----------------------------------------------------------------------------------
def echoes6(lab: Lab, address: str, *, count: int, payload_bytes: int, timeout_s: float = 1.0) -> int:
    """How many of `count` ICMPv6 echoes from gw (RFC 4443), never fragmented, came back whole."""
    with namespace.entered(lab.namespace("gw")):
        icmp = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
    came = 0
    with icmp:
        icmp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_DONTFRAG, 1)
        for sequence in range(count):
            body = struct.pack("!HH", os.getpid() & 0xFFFF, sequence) + PATTERN[:payload_bytes]
            icmp.sendto(b"\x80\0\0\0" + body, (address, 0))  # the kernel fills in the checksum
            give_up_at = time.monotonic() + timeout_s
            while (left := give_up_at - time.monotonic()) > 0:
                icmp.settimeout(left)
                with contextlib.suppress(TimeoutError):
                    reply = icmp.recv(65536)
                    if reply[0] == 129 and reply[4:] == body:
                        came += 1
                        break
    return came


class Arrival(NamedTuple):
    at: float  # monotonic
    total: int  # bytes since the flow began


class Flow:
    """One TCP connection through the tunnel whose every byte is checked, and when its bytes arrived.

    The checks matter: nobody computes checksums inside the tunnel, so TCP would take a wrong byte for right.
    """

    def __init__(
        self,
        lab: Lab,
        *,
        upload: bool = True,
        congestion: str = "cubic",
        bits_per_second: float | None = None,
        client: int = 1,
    ) -> None:
        sender, receiver = ("gw", "srv") if upload else ("srv", "gw")
        address = peer_address(client) if upload else client_address(client)
        with namespace.entered(lab.namespace(receiver)):
            listener = socket.create_server((address, 0))
        with listener:
            with namespace.entered(lab.namespace(sender)):
                self._out = socket.socket()
            self._out.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, congestion.encode())
            self._out.settimeout(10)
            self._out.connect(listener.getsockname())
            listener.settimeout(10)
            self._in, _ = listener.accept()
        self._out.settimeout(None)
        self._bytes_per_s = None if bits_per_second is None else bits_per_second / 8
        self.arrivals = [Arrival(time.monotonic(), 0)]
        self.failures: list[str] = []
        self._stopping = False
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._send, self._receive)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping = True
        for end in (self._out, self._in):
            with contextlib.suppress(OSError):  # the connection may be broken: that is in `failures`
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
        self._out.close()
        self._in.close()

    @property
    def received(self) -> int:
        return self.arrivals[-1].total

    @property
    def retransmits(self) -> int:
        """Segments that the kernel sent again."""
        info = self._out.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192)
        return int(struct.unpack_from("=I", info, TCP_INFO_TOTAL_RETRANS)[0])

    def silence_s(self, since: float, until: float | None = None) -> float:
        """The longest time without bytes that touches [since, until] (monotonic; until now by default)."""
        until = time.monotonic() if until is None else until
        times = [arrival.at for arrival in list(self.arrivals)]
        times.append(max(until, times[-1]))
        return max(
            later - earlier
            for earlier, later in itertools.pairwise(times)
            if later >= since and earlier <= until
        )

    def bits_per_second(self, since: float, until: float) -> float:
        arrivals = list(self.arrivals)

        def total_at(moment: float) -> int:
            return next((total for at, total in reversed(arrivals) if at <= moment), 0)

        return (total_at(until) - total_at(since)) * 8 / (until - since)

    def flows(self, further_bytes: int = 1_000_000, within_s: float = 5) -> None:
        """Wait until that much more has arrived."""
        wanted = self.received + further_bytes
        eventually(lambda: self.received >= wanted or self.failures, within_s, "bytes arrive")
        assert not self.failures, self.failures

    def _send(self) -> None:
        sent, started = 0, time.monotonic()
        twice = memoryview(PATTERN * 2)
        try:
            while not self._stopping:
                if self._bytes_per_s is not None:
                    time.sleep(max(0.0, started + sent / self._bytes_per_s - time.monotonic()))
                place = sent % len(PATTERN)
                sent += self._out.send(twice[place : place + BLOCK_BYTES])
        except OSError as error:
            if not self._stopping:
                self.failures.append(f"sending after {sent} bytes: {error}")

    def _receive(self) -> None:
        total = 0
        twice = PATTERN * 2
        try:
            while part := self._in.recv(BLOCK_BYTES):
                place = total % len(PATTERN)
                if part != twice[place : place + len(part)]:
                    self.failures.append(f"wrong bytes after {total}")
                    return
                total += len(part)
                self.arrivals.append(Arrival(time.monotonic(), total))
        except OSError as error:
            if not self._stopping:
                self.failures.append(f"receiving after {total} bytes: {error}")


# -- datagrams on a line ------------------------------------------------------------------------
class Datagram(NamedTuple):
    outgoing: bool
    source: str
    target: str
    payload: bytes


class Sniffer:
    """Every UDP datagram over IPv4 of the tunnel's port on one interface of a lab, while entered."""

    def __init__(self, lab: Lab, where: str, interface: str) -> None:
        with namespace.entered(lab.namespace(where)):
            # Protocol 0 until it is bound: a packet socket with one hears every interface until then.
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 16 << 20)
        self._socket.bind((interface, 0x0003))
        self._socket.setblocking(False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def datagrams(self) -> Iterator[Datagram]:
        """Those that passed since the last call."""
        with contextlib.suppress(BlockingIOError):
            while True:
                packet, address = self._socket.recvfrom(65536)
                header_len = (packet[0] & 15) * 4
                if packet[0] >> 4 != 4 or packet[9] != socket.IPPROTO_UDP:
                    continue
                if PORT not in struct.unpack_from("!HH", packet, header_len):
                    continue
                source, target = (socket.inet_ntoa(packet[at : at + 4]) for at in (12, 16))
                outgoing = address[2] == socket.PACKET_OUTGOING
                yield Datagram(outgoing, source, target, packet[header_len + 8 :])


def heard(lab: Lab, where: str, interface: str) -> set[str]:
    """The addresses that the tunnel's datagrams come from there, from the first one on for 0.3 s; a line that
    the flow leaves idle has a probe a second."""
    seen: set[str] = set()
    with Sniffer(lab, where, interface) as sniffer:

        def listen() -> set[str]:
            seen.update(each.source for each in sniffer.datagrams() if not each.outgoing)
            return seen

        eventually(listen, 3 * PROBE_IDLE_S, f"a datagram at {where}'s {interface}")
        time.sleep(0.3)
        return listen()


def fragments(lab: Lab) -> int:
    """IP fragments that the kernels of gw and srv ever made or had to put together."""
    total = 0
    for where in ("gw", "srv"):
        with namespace.entered(lab.namespace(where)):
            names, values = (
                row.split()[1:]
                for row in Path("/proc/thread-self/net/snmp").read_text().splitlines()
                if row.startswith("Ip:")
            )
            counters = dict(zip(names, values, strict=True))
            counters |= dict(
                row.split() for row in Path("/proc/thread-self/net/snmp6").read_text().splitlines()
            )
        total += sum(
            int(counters[name]) for name in ("FragCreates", "ReasmReqds", "Ip6FragCreates", "Ip6ReasmReqds")
        )
    return total


# -- the kernel's tables ------------------------------------------------------------------------
def ip(lab: Lab, where: str, *words: str) -> str:
    """What `ip WORDS` says there."""
    done = lab.run(where, ["ip", *words], capture_output=True, text=True)
    # A table that nothing was ever in is empty.
    assert done.returncode == 0 or "FIB table does not exist" in done.stderr, done.stderr
    return str(done.stdout)


def rp_filter(lab: Lab, where: str, interface: str, value: str | None = None) -> str:
    """An interface's rp_filter, after setting it if a value is given."""
    with namespace.entered(lab.namespace(where)):
        path = Path(f"/proc/sys/net/ipv4/conf/{interface}/rp_filter")
        if value is not None:
            path.write_text(value)
        return path.read_text().strip()


def system_state(lab: Lab, where: str) -> dict[str, str]:
    """All that bondvpn may change there, in words by what it is."""
    state = {}
    for family in ("-4", "-6"):
        state[f"rules {family}"] = ip(lab, where, family, "rule", "show")
        state[f"routes {family}"] = ip(lab, where, family, "route", "show", "table", "all")
    state["interfaces"] = ip(lab, where, "-d", "link", "show")
    state["addresses"] = ip(lab, where, "-br", "address", "show")
    with namespace.entered(lab.namespace(where)):
        for path in sorted(Path("/proc/sys/net/ipv4/conf").iterdir()):
            state[f"rp_filter {path.name}"] = (path / "rp_filter").read_text().strip()
        state["sysctl"] = _settings()
    if nft := shutil.which("nft"):
        state["nft"] = lab.run(
            where, [nft, "list", "ruleset"], check=True, capture_output=True, text=True
        ).stdout
    return state


def _settings() -> str:
    """All settings of IPv4 and IPv6, a line each."""
    lines = []
    for family in ("ipv4", "ipv6"):
        for path in sorted(Path("/proc/sys/net", family).rglob("*")):
            with contextlib.suppress(OSError):  # a directory, or not for reading
                lines.append(f"{path} = {path.read_text().strip()}")
    return "\n".join(lines)


def settled_state(lab: Lab, where: str) -> dict[str, str]:
    """`system_state` once IPv6 has settled its addresses (duplicate address detection takes a second)."""
    eventually(lambda: "tentative" not in ip(lab, where, "address", "show"), 5, "addresses settle")
    return system_state(lab, where)
