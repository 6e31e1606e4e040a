"""Measurements inside a lab: TCP and UDP by iperf3, round trips by ICMP, one-way delays by stamped datagrams.

The congestion control of a TCP measurement is always named: the default differs between machines.
"""

import contextlib
import itertools
import json
import os
import socket
import statistics
import struct
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bondvpn.errors import SystemFault
from bondvpn.lab import namespace
from bondvpn.lab.topology import Lab

# One server per measurement, each on a port of its own: two may run at once, and none meets a busy server.
_ports = itertools.cycle(range(5201, 5801))
# A raw socket hears every echo of its machine: several measurements at once tell theirs by these.
_identities = itertools.count(os.getpid())

SERVER_WAIT_S = 5.0
SPARE_S = 20.0
# In life sources and sinks are other machines. Here their wake-ups would preempt the tunnels: those of eight
# flows did 11,000 times a second, and every second run carried 70 to 220 of 320 Mbit/s, both cores busy.
IPERF3 = ["chrt", "--batch", "0", "iperf3"]
TCP_LISTEN = "0A"  # state in /proc/net/tcp, include/net/tcp_states.h
SO_TIMESTAMPNS = 35  # asm-generic/socket.h
ICMP_ECHO = struct.Struct("!BBHHH")
STAMP = struct.Struct("!Q")


@dataclass(frozen=True, slots=True)
class TcpResult:
    """What iperf3 saw of one TCP measurement; `omit_s` is left out of all but `total_bytes`."""

    bits_per_second: float
    """Goodput at the receiver."""
    retransmits: int
    """Segments that the sender sent again."""
    intervals: list[float]
    """Goodput per interval in bit/s, all flows, as the client end saw it (reverse: the receiver)."""
    cpu: tuple[float, float]
    """Shares of a core that iperf3 took at the client and the server end; 1 is a whole core."""
    congestion: str
    """The congestion control that the sender really used."""
    total_bytes: int
    """Payload that the client end sent (reverse: received), the omitted seconds included."""


@dataclass(frozen=True, slots=True)
class UdpResult:
    """What iperf3 saw of one UDP measurement."""

    bits_per_second: float
    """UDP payload at the receiver, mean over the whole seconds between the first and the last."""
    sent: int
    lost: int


def tcp(
    lab: Lab,
    address: str,
    seconds: float,
    *,
    congestion: str,
    reverse: bool = False,
    bind: str | None = None,
    parallel: int = 1,
    omit_s: int = 0,
    interval_s: float = 1.0,
    at_most_bps: float | None = None,
) -> TcpResult:
    """Send TCP from gw to `address` on srv, or back when `reverse`; `at_most_bps` bounds each flow.

    Raises SystemFault when iperf3 fails.
    """
    options = ["-C", congestion, "-t", f"{seconds:g}", "-O", str(omit_s), "-P", str(parallel)]
    options += ["-i", f"{interval_s:g}", *(["-R"] if reverse else []), *(["-B", bind] if bind else [])]
    options += ["-b", f"{at_most_bps:.0f}"] if at_most_bps else []
    report = _iperf3(lab, address, options, seconds + omit_s)
    end = report["end"]
    cpu = end["cpu_utilization_percent"]
    return TcpResult(
        bits_per_second=end["sum_received"]["bits_per_second"],
        retransmits=end["sum_sent"].get("retransmits", 0),
        intervals=[
            interval["sum"]["bits_per_second"]
            for interval in report["intervals"]
            if not interval["sum"]["omitted"]
        ],
        cpu=(cpu["host_total"] / 100, cpu["remote_total"] / 100),
        congestion=end.get("sender_tcp_congestion", congestion),
        total_bytes=sum(interval["sum"]["bytes"] for interval in report["intervals"]),
    )


def udp(
    lab: Lab,
    address: str,
    seconds: float,
    *,
    bits_per_second: float,
    reverse: bool = False,
    payload_bytes: int = 1472,
    bind: str | None = None,
) -> UdpResult:
    """Send UDP payload at a rate from gw to `address` on srv, or back when `reverse`, for 3 seconds or more.

    Raises SystemFault when iperf3 fails.
    """
    options = [
        "--get-server-output",
        "-u",
        "-b",
        f"{bits_per_second:.0f}",
        "-t",
        f"{seconds:g}",
        "-l",
        str(payload_bytes),
    ]
    options += [*(["-R"] if reverse else []), *(["-B", bind] if bind else [])]
    report = _iperf3(lab, address, options, seconds)
    # The first second has an empty queue to fill and the last one drains it.
    steady = (report if reverse else report["server_output_json"])["intervals"][1:-1]
    total = report["end"]["sum"]
    return UdpResult(
        bits_per_second=statistics.fmean(interval["sum"]["bits_per_second"] for interval in steady),
        sent=total["packets"],
        lost=total["lost_packets"],
    )


def ping(
    lab: Lab,
    address: str,
    *,
    where: str = "gw",
    count: int = 10,
    interval_s: float = 0.2,
    timeout_s: float = 1.0,
    payload_bytes: int = 56,
    device: str | None = None,
) -> list[float]:
    """Round-trip times in seconds of those of `count` ICMP echoes that came back within `timeout_s` each."""
    with namespace.entered(lab.namespace(where)):
        icmp = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    with icmp:
        if device:
            icmp.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
        icmp.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        identity = next(_identities) & 0xFFFF
        trips = []
        for sequence in range(count):
            started = time.monotonic()
            payload = STAMP.pack(time.time_ns()).ljust(payload_bytes, b"\0")
            # A line may be down or a route not there yet: an echo lost like any other.
            with contextlib.suppress(OSError):
                icmp.sendto(_echo(identity, sequence, payload), (address, 0))
            trip = _await_echo(icmp, identity, sequence, started + timeout_s)
            if trip is not None:
                trips.append(trip)
            if sequence + 1 < count:
                time.sleep(max(0.0, started + interval_s - time.monotonic()))
        return trips


def one_way_delays(
    lab: Lab,
    line: str,
    direction: str,
    *,
    count: int = 100,
    interval_s: float = 0.02,
    payload_bytes: int = 64,
) -> list[float]:
    """Delays in seconds of datagrams over one line, from just before the send call to the kernel's stamp at
    the receiver; both ends share a clock. Those that do not come are left out."""
    far = lab.gateway(line) if direction == "up" else lab.address(line)
    with namespace.entered(lab.namespace("gw" if direction == "up" else "srv")):
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with namespace.entered(lab.namespace("srv" if direction == "up" else "gw")):
        receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sender, receiver:
        receiver.bind((far, 0))
        receiver.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        receiver.settimeout(0.5)
        target = receiver.getsockname()
        delays = []
        for _ in range(count):
            sender.sendto(STAMP.pack(time.time_ns()).ljust(payload_bytes, b"\0"), target)
            with contextlib.suppress(TimeoutError):
                payload, stamp_ns = _receive_stamped(receiver)
                delays.append((stamp_ns - STAMP.unpack_from(payload)[0]) / 1e9)
            time.sleep(interval_s)
        return delays


@contextlib.contextmanager
def cpu_share(lab: Lab) -> Iterator[list[float]]:
    """Measure the emulator while the block runs; the list then holds its share of a core."""
    share: list[float] = []
    used, started = lab.counters()["cpu_s"], time.monotonic()
    yield share
    share.append((lab.counters()["cpu_s"] - used) / (time.monotonic() - started))


def _iperf3(lab: Lab, address: str, options: list[str], seconds: float) -> dict[str, Any]:
    port = next(_ports)
    server = lab.popen(
        "srv",
        [*IPERF3, "-s", "-1", "--json", "-p", str(port)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _await_listening(server, port)
        client = lab.run(
            "gw",
            [*IPERF3, "-c", address, "-p", str(port), "--json", *options],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=seconds + SPARE_S,
        )
        report: dict[str, Any] = json.loads(client.stdout)
    except (subprocess.TimeoutExpired, ValueError) as error:
        raise SystemFault(f"iperf3 to {address} gave no report: {error}") from error
    finally:
        server.kill()
        server.wait()
    if "error" in report:
        raise SystemFault(f"iperf3 to {address}: {report['error']}")
    return report


def _await_listening(server: subprocess.Popen[Any], port: int) -> None:
    give_up_at = time.monotonic() + SERVER_WAIT_S
    wanted = f":{port:04X}"
    while time.monotonic() < give_up_at:
        if server.poll() is not None:
            raise SystemFault(f"iperf3 -s ended with status {server.returncode}")
        for table in ("tcp", "tcp6"):
            with contextlib.suppress(OSError):
                rows = Path(f"/proc/{server.pid}/net/{table}").read_text().splitlines()[1:]
                # Columns: sl, local_address, rem_address, st (proc_net_tcp.rst).
                if any(row.split()[1].endswith(wanted) and row.split()[3] == TCP_LISTEN for row in rows):
                    return
        time.sleep(0.01)
    raise SystemFault(f"iperf3 -s does not listen after {SERVER_WAIT_S:.0f} s")


def _echo(identity: int, sequence: int, payload: bytes) -> bytes:
    """An ICMP echo request (RFC 792)."""
    unsummed = ICMP_ECHO.pack(8, 0, 0, identity, sequence) + payload
    padded = unsummed + b"\0" * (len(unsummed) % 2)
    total = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    total = (total & 0xFFFF) + (total >> 16)
    total += total >> 16
    return ICMP_ECHO.pack(8, 0, ~total & 0xFFFF, identity, sequence) + payload


def _await_echo(icmp: socket.socket, identity: int, sequence: int, until: float) -> float | None:
    """The round-trip time of that echo; None when it has not come by `until` (monotonic)."""
    while (left := until - time.monotonic()) > 0:
        icmp.settimeout(left)
        try:
            packet, stamp_ns = _receive_stamped(icmp)
        except OSError:
            continue  # nothing in time, or an ICMP error of an earlier echo
        reply = packet[(packet[0] & 15) * 4 :]
        kind, _, _, its_identity, its_sequence = ICMP_ECHO.unpack_from(reply)
        if (kind, its_identity, its_sequence) == (0, identity, sequence):
            return float(stamp_ns - STAMP.unpack_from(reply, ICMP_ECHO.size)[0]) / 1e9
    return None


def _receive_stamped(receiver: socket.socket) -> tuple[bytes, int]:
    """A datagram and the kernel's arrival stamp, ns of the wall clock."""
    payload, ancillary, _, _ = receiver.recvmsg(65536, socket.CMSG_SPACE(16))
    seconds, nanoseconds = struct.unpack("=qq", ancillary[0][2])
    return payload, seconds * 1_000_000_000 + nanoseconds
