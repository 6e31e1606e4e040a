"""Name servers of the tunnel, told to systemd-resolved through resolvectl(1) while the tunnel is there.

They belong to the interface: resolved forgets them when it goes, and `resolvectl revert` before that.
"""

import contextlib
import shutil
import subprocess
from collections.abc import Iterator, Sequence

import msgspec

from bondvpn.config import Tunnel
from bondvpn.errors import SystemFault

EVERYTHING = "~."  # resolved.conf(5), Domains=: all names are asked for by this interface
TIMEOUT_S = 10.0  # D-Bus starts resolved if need be


class Resolver(msgspec.Struct, frozen=True, kw_only=True, tag="resolver"):
    """An interface's name servers and domains."""

    interface: str
    servers: tuple[str, ...]
    domains: tuple[str, ...]


def of(tunnel: Tunnel) -> Resolver | None:
    """What the tunnel asks for; with the default route it is asked for all names."""
    if not tunnel.dns:
        return None
    everything = (EVERYTHING,) if tunnel.default_route else ()
    return Resolver(
        interface=tunnel.interface,
        servers=tuple(str(server) for server in tunnel.dns),
        domains=(*everything, *tunnel.dns_search),
    )


def commands(wanted: Resolver) -> Iterator[tuple[str, ...]]:
    """What sets them, as argument lists."""
    yield "resolvectl", "dns", wanted.interface, *wanted.servers
    if wanted.domains:
        yield "resolvectl", "domain", wanted.interface, *wanted.domains


def missing() -> str:
    """Why it cannot be done; empty if it can."""
    if shutil.which("resolvectl"):
        return ""
    return (
        "tunnel.dns: there is no resolvectl (systemd-resolved): put the name servers into /etc/resolv.conf "
        "by a hook, or leave tunnel.dns out"
    )


def put(wanted: Resolver) -> None:
    """Set them; twice is as good as once. Raises SystemFault."""
    for command in commands(wanted):
        _run(command)


def revert(interface: str) -> None:
    """Back to what the interface had of its own. Where that cannot be, the interface or resolved is gone, and
    what was set with it."""
    with contextlib.suppress(SystemFault):
        _run(("resolvectl", "revert", interface))


def _run(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as fault:
        raise SystemFault(f"cannot run {' '.join(command)}: {fault}") from None
    if done.returncode:
        why = done.stderr.strip().partition("\n")[0] or f"exit status {done.returncode}"
        raise SystemFault(f"{' '.join(command)}: {why}")
