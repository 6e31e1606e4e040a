"""Name servers through systemd-resolved: what it is told, and that it is taken back.

    gw bond0 172.21.1.2 --- eth1 10.1.0.2/24 --- 10.1.0.1 r1 --- srv office0 172.21.1.1   lo 198.51.100.1

A stand-in for resolvectl notes what it is called with. systemd-resolved itself, which knows the interfaces of
one namespace only, is asked in the virtual machine (vm/test_resolved.py).
"""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from observe import control_socket, status
from premises import Premises, await_active, configure

from bondvpn.lab.tunnel import BONDVPN, Tunnel
from bondvpn.ui import control

pytestmark = pytest.mark.netns

SETTLE_S = 30.0  # on a busy machine
UPLINK = '[[uplink]]\nname = "eth1"\ninterface = "eth1"\ngateway = "10.1.0.1"\n'
DNS = {"dns": ["172.21.1.1", "10.9.9.9"], "dns_search": ["office.example"]}
TOLD = ["dns bond0 172.21.1.1 10.9.9.9", "domain bond0 ~. office.example"]


class Place(NamedTuple):
    premises: Premises
    directory: Path

    @property
    def path(self) -> str:
        return f"{self.directory}/bin:{os.environ['PATH']}"

    def tunnel(self, path: str | None = None, **settings: object) -> Tunnel:
        configs = configure(self.premises, self.directory / "etc", UPLINK, **settings)
        program = ("env", f"PATH={path or self.path}", *BONDVPN)
        return Tunnel(self.premises, configs, wait_s=SETTLE_S, program=lambda _end: program)

    def told(self) -> list[str]:
        """What resolvectl was called with since the last time."""
        noted = self.directory / "noted"
        lines = noted.read_text().splitlines() if noted.exists() else []
        noted.unlink(missing_ok=True)
        return lines


@pytest.fixture
def place(premises_with: Callable[[int], Premises], tmp_path: Path) -> Place:
    premises = premises_with(1)
    premises.join("gw", "eth1", "r1", "lan", "10.1.0.2/24", "10.1.0.1/24")
    premises.provider(1, "10.1.0.0/24")
    stand_in = tmp_path / "bin" / "resolvectl"
    stand_in.parent.mkdir()
    stand_in.write_text(f'#!/bin/sh\necho "$*" >> {tmp_path}/noted\n')
    stand_in.chmod(0o755)
    return Place(premises, tmp_path)


def down(tunnel: Tunnel, place: Place) -> None:
    words = ["env", f"PATH={place.path}", *BONDVPN, "down"]
    place.premises.run("gw", words, env=tunnel.environment("client"), check=True, capture_output=True)


def test_told_at_the_start_and_taken_back_at_the_end(place: Place) -> None:
    with place.tunnel(default_route=True, **DNS) as tunnel:
        await_active(tunnel, "eth1", within_s=SETTLE_S)
        assert place.told() == TOLD
        assert status(tunnel, "client")["machine"]["dns"] == DNS["dns"]
        assert "DNS 172.21.1.1, 10.9.9.9" in tunnel.command("client", "status").stdout
        place.premises.ip("gw", "link set eth1 down")  # events of the lines are none of the resolver's
        place.premises.ip("gw", "link set eth1 up")
        await_active(tunnel, "eth1", within_s=SETTLE_S)
        assert tunnel.stop("client") == 0
        assert place.told() == ["revert bond0"]
        # Killed: by `down`, or by the next start.
        tunnel.start("client")
        await_active(tunnel, "eth1", within_s=SETTLE_S)
        tunnel.stop("client", with_signal=signal.SIGKILL)
        assert place.told() == TOLD
        down(tunnel, place)
        assert place.told() == ["revert bond0"]
        tunnel.start("client")
        await_active(tunnel, "eth1", within_s=SETTLE_S)
        tunnel.stop("client", with_signal=signal.SIGKILL)
        tunnel.start("client")
        await_active(tunnel, "eth1", within_s=SETTLE_S)
        assert place.told() == [*TOLD, "revert bond0", *TOLD]


def test_without_the_default_route_only_the_domains(place: Place) -> None:
    with place.tunnel(**DNS) as tunnel:
        await_active(tunnel, "eth1", within_s=SETTLE_S)
        assert place.told() == ["dns bond0 172.21.1.1 10.9.9.9", "domain bond0 office.example"]
        file = place.directory / "etc" / "client.toml"
        file.write_text(file.read_text().replace('dns_search = ["office.example"]\n', ""))
        reply = control.ask(control_socket(tunnel, "client"), "reload", SETTLE_S)
        assert reply == {"applied": ["tunnel.dns_search"], "restart": [], "faults": []}
        assert place.told() == ["revert bond0", "dns bond0 172.21.1.1 10.9.9.9"]


def test_without_resolvectl_a_warning(place: Place) -> None:
    with place.tunnel(path="/usr/sbin:/sbin", **DNS) as tunnel:
        await_active(tunnel, "eth1", within_s=SETTLE_S)
        assert tunnel.client_log.count("tunnel.dns: there is no resolvectl (systemd-resolved)") == 1
    assert place.told() == []
