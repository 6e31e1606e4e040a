"""The machine: what bondvpn needs of the kernel and of this process."""

import contextlib
import os
import platform
import re
import socket
import stat
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from bondvpn import config
from bondvpn.doctor.finding import Finding
from bondvpn.errors import SystemFault
from bondvpn.linux import commands, ethtool, nftables, resolver, sysctl
from bondvpn.linux.nftables import Table
from bondvpn.linux.tap import Tap
from bondvpn.linux.udp import SOL_UDP, UDP_GRO, UDP_SEGMENT, UdpSocket
from bondvpn.noise.timestamp import unix_seconds

DEVICE = Path("/dev/net/tun")
TUN_NUMBERS = (10, 200)  # Documentation/admin-guide/devices.txt
KERNEL_MIN = (5, 0)  # UDP_GRO
CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13}  # linux/capability.h
CLOCK_MIN_S = 1_735_689_600  # 2025: no bondvpn is older
CLOCK_SLACK_S = 60.0


def device_node(path: Path = DEVICE) -> Finding:
    """The character device that TAPs come from."""
    major, minor = TUN_NUMBERS
    make = f"mkdir -p {path.parent} && mknod {path} c {major} {minor}"
    try:
        found = path.stat()
    except OSError as fault:
        return Finding("device", str(path), fault.strerror or str(fault), f"modprobe tun || ({make})")
    if not stat.S_ISCHR(found.st_mode) or (os.major(found.st_rdev), os.minor(found.st_rdev)) != TUN_NUMBERS:
        return Finding("device", str(path), "is not the TUN device", f"rm {path} && {make}")
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except OSError as fault:
        return Finding("device", str(path), fault.strerror or str(fault), "modprobe tun, and run as root")
    return Finding("device", str(path), "opens")


def effective_capabilities() -> int:
    """CapEff of this process, proc(5)."""
    found = re.search(r"^CapEff:\s*([0-9a-f]+)", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(found[1], 16) if found is not None else 0


def capabilities(effective: int) -> Finding:
    """What it takes to make devices, routes and rules, and to bind to devices."""
    missing = [name for name, bit in CAPABILITIES.items() if not effective >> bit & 1]
    if missing:
        mend = "run it as root, or in a unit: AmbientCapabilities=" + " ".join(CAPABILITIES)
        found = f"lacks {', '.join(missing)}"
        if missing == ["CAP_NET_RAW"]:
            found += ": binds to no device before Linux 5.7, and hears no ICMP of path MTUs"
        return Finding("capabilities", "this process", found, mend)
    return Finding("capabilities", "this process", f"has {', '.join(CAPABILITIES)}")


def kernel(effective: int) -> Iterator[Finding]:
    """Release and offloads; none of the latter is needed, all make it fast."""
    release = platform.release()
    number = re.match(r"(\d+)\.(\d+)", release)
    if number is not None and (int(number[1]), int(number[2])) < KERNEL_MIN:
        yield Finding("kernel", release, "has no UDP GRO: slow", "install a kernel from 5.0 on")
    else:
        yield Finding("kernel", release, "recent enough")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for name, option in (("UDP_SEGMENT", UDP_SEGMENT), ("UDP_GRO", UDP_GRO)):
            try:
                probe.setsockopt(SOL_UDP, option, 1)
            except OSError as fault:
                yield Finding("offload", name, fault.strerror or "refused", "install a kernel from 5.0 on")
            else:
                yield Finding("offload", name, "works")
    if effective >> CAPABILITIES["CAP_NET_ADMIN"] & 1 and device_node().well:
        yield _tap_offloads()


def _tap_offloads() -> Finding:
    try:
        tap = Tap(f"bvdr{os.getpid() % 10**9}")
    except SystemFault as fault:
        return Finding("offload", "TAP", str(fault), "modprobe tun")
    uso = tap.uso
    tap.close()
    return Finding("offload", "TAP", "TSO and USO" if uso else "TSO; no USO before Linux 6.2")


def interface_offloads(interface: str) -> Iterator[Finding]:
    """Generic segmentation and receive offload of a line's interface."""
    for name, on in ethtool.generic_offloads(interface).items():
        if on:
            yield Finding("offload", interface, f"{name} on")
        else:
            mend = f"ethtool -K {interface} {name} on"
            yield Finding("offload", interface, f"{name} off: more work for each packet", mend)


def clock(state: Path, now_s: float | None = None) -> Finding:
    """Handshakes carry the time, and no older one is taken. `state`: the last one's timestamp."""
    now_s = time.time() if now_s is None else now_s
    mend = "timedatectl set-ntp true"
    if now_s < CLOCK_MIN_S:
        return Finding("clock", "system", time.strftime("says %Y-%m-%d", time.gmtime(now_s)), mend)
    with contextlib.suppress(OSError, ValueError):
        ahead_s = unix_seconds(state.read_bytes()) - now_s
        if ahead_s > CLOCK_SLACK_S:
            found = f"is {ahead_s:.0f} s behind the last handshake: the clock was set back, or was wrong then"
            return Finding("clock", "system", found, mend)
    return Finding("clock", "system", time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now_s)))


def forwarding(tunnels: Iterable[config.Tunnel], *, server: bool, running: bool) -> Iterator[Finding]:
    """A server with routes to an office's network is a router, and who asks for one is."""
    asked: set[int] = set()
    versions: set[int] = set()
    for tunnel in tunnels:
        families = {own.version for own in tunnel.address}
        asked |= families if tunnel.forward else set()
        versions |= families if tunnel.masquerade or tunnel.clamp_mss else set()
        versions |= {route.prefix.version for route in tunnel.routes} if server else set()
    for version, path in sysctl.FORWARDING.items():
        name = commands.sysctl_name(str(path))
        if version not in versions | asked or not path.exists():
            continue
        if not sysctl.is_off(version):
            yield Finding("forwarding", name, "on")
        elif version in asked and not running:
            yield Finding("forwarding", name, "off: a start switches it on")
        else:
            mend = f"sysctl -w {name}=1" + ("" if version in asked else "  # or tunnel.forward = true")
            yield Finding("forwarding", name, "off: what is for others than this machine ends here", mend)


def packet_filter(tables: Iterable[Table], *, running: bool) -> Iterator[Finding]:
    """The tables that a start makes, or has made."""
    for table in tables:
        subject = f"{nftables.FAMILY} {table.name}"
        if why := nftables.missing():
            found = f"{why}: TCP is not told how narrow the tunnel is" if table.optional else why
            yield Finding("nftables", subject, found, "apt-get install nftables")
            continue
        if not running:
            yield Finding("nftables", subject, "a start makes it")
            continue
        try:
            there = nftables.rules_in(nftables.listing(table.name))
        except SystemFault as fault:
            yield Finding("nftables", subject, str(fault), "run it as root")
            continue
        planned = sum(len(chain.rules) for chain in table.chains)
        if there == planned:
            yield Finding("nftables", subject, f"{there} rules as planned")
        else:
            yield Finding("nftables", subject, f"has {there} rules, not {planned}", "bondvpn reload")


def name_servers(tunnel: config.Tunnel) -> Iterator[Finding]:
    """Whether systemd-resolved can be told of them."""
    if not tunnel.dns:
        return
    if why := resolver.missing():
        yield Finding("dns", tunnel.interface, why, "apt-get install systemd-resolved")
    else:
        yield Finding("dns", tunnel.interface, ", ".join(str(server) for server in tunnel.dns))


def ports(settings: config.ServerConfig) -> Iterator[Finding]:
    """Whether a server could listen where it is to; for when none runs."""
    for listen in settings.listen:
        try:
            UdpSocket((listen.host, listen.port), ipv6=listen.ipv6).close()
        except (SystemFault, OSError) as fault:
            yield Finding("listen", str(listen), str(fault), f"ss -ulpn 'sport = :{listen.port}'")
        else:
            yield Finding("listen", str(listen), "free")
