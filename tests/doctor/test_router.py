"""The full tunnel, forwarding, packet filter and name servers: what the doctor finds of each."""

from dataclasses import replace
from ipaddress import ip_address, ip_interface
from pathlib import Path
from typing import Any, cast

import pytest

from bondvpn.config import ClientConfig, Route, Server, Tunnel
from bondvpn.doctor import machine, plan
from bondvpn.errors import SystemFault
from bondvpn.linux import fulltunnel, nftables, policy, sysctl
from bondvpn.linux.journal import Journal, journal_path
from bondvpn.linux.netlink import Netlink, Rule
from bondvpn.linux.network import DefaultRoute, Network
from bondvpn.linux.nftables import ACCEPT, Chain, Table
from bondvpn.values import prefix

TUNNEL = Tunnel(interface="bond0", address=(ip_interface("172.21.1.2/30"),))
FULL = replace(TUNNEL, default_route=True)
TABLE = Table("bondvpn_bond0", (Chain("forward", "filter", "forward", 0, ((ACCEPT,), (ACCEPT,))),))


class Kernel:
    """Stands in for `Netlink`: default routes in both families."""

    def network(self) -> Network:
        return Network({}, tuple(DefaultRoute(version, "eth1", None) for version in (4, 6)))


NETLINK = cast(Netlink, Kernel())


@pytest.fixture(autouse=True)
def _nobody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BONDVPN_RUNTIME_DIR", str(tmp_path))


@pytest.mark.parametrize(
    ("tunnel", "found"),
    [
        (TUNNEL, []),
        (FULL, [("IPv6", False, "leaves by the lines")]),
        (replace(FULL, kill_switch=True), [("IPv6", True, "the kill switch refuses it")]),
        (replace(FULL, address=(*FULL.address, ip_interface("fd21::2/127"))), []),
    ],
    ids=["none", "IPv4", "kill switch", "both"],
)
def test_a_family_beside_the_full_tunnel(tunnel: Tunnel, found: list[tuple[str, bool, str]]) -> None:
    got = list(plan.full_tunnel(tunnel, NETLINK, running=True))
    assert [(one.subject, one.well) for one in got] == [one[:2] for one in found]
    assert all(part in one.found for one, (*_, part) in zip(got, found, strict=True))


def test_another_full_tunnel_is_in_the_way_of_a_start() -> None:
    Journal.begin(journal_path("bond1"), NETLINK).record([Rule(version=4, priority=11895, table=4489)])
    both = replace(FULL, address=(*FULL.address, ip_interface("fd21::2/127")))
    (found,) = plan.full_tunnel(both, NETLINK, running=False)
    assert "bond1 has the default route already" in found.found
    assert not found.well
    assert list(plan.full_tunnel(both, NETLINK, running=True)) == []


def test_the_plan_has_the_table_that_a_running_client_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy, "plan_here", lambda *given: given[-1])
    settings = ClientConfig(
        path=Path("client.toml"),
        private_key=bytes(32),
        tunnel=FULL,
        server=Server(public_key=bytes(32), endpoints=()),
        uplinks=(),
    )
    for status, numbers in (
        ({"machine": {"default_route_table": 4500}}, {fulltunnel.NUMBER: 4500}),
        ({"machine": {"default_route_table": None}}, {}),
        (None, {}),
    ):
        assert cast(Any, plan.of(settings, status, NETLINK)) == numbers


FORWARDS, MASQUERADES = replace(TUNNEL, forward=True), replace(TUNNEL, masquerade=True)
ROUTED = replace(TUNNEL, routes=(Route(prefix("fd22::/64"), None),))


@pytest.mark.parametrize(
    ("tunnel", "server", "running", "off"),
    [
        (TUNNEL, True, True, {}),
        (FORWARDS, False, False, {4: "a start switches it on"}),
        (FORWARDS, False, True, {4: "ends here"}),
        (MASQUERADES, False, False, {4: "ends here"}),
        (replace(TUNNEL, clamp_mss=True), False, False, {4: "ends here"}),
        (ROUTED, True, False, {6: "ends here"}),
        (ROUTED, False, False, {}),
    ],
)
def test_forwarding(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tunnel: Tunnel,
    server: bool,
    running: bool,
    off: dict[int, str],
) -> None:
    paths = {version: tmp_path / f"forward{version}" for version in (4, 6)}
    monkeypatch.setattr(sysctl, "FORWARDING", paths)
    for state in ("1", "0"):
        for path in paths.values():
            path.write_text(state)
        found = list(machine.forwarding([tunnel], server=server, running=running))
        assert [one.subject[-1:] for one in found] == [str(version) for version in off]
        for one, part in zip(found, off.values(), strict=True):
            assert one.found == "on" if state == "1" else part in one.found
            assert one.well == (state == "1" or "start" in part)
            assert ("tunnel.forward" in one.mend) == (not one.well and not tunnel.forward)


RULE = {"rule": {}}


@pytest.mark.parametrize(
    ("listed", "running", "well", "part"),
    [
        (None, False, True, "a start makes it"),
        ([RULE, RULE], True, True, "2 rules as planned"),
        ([RULE], True, False, "has 1 rules, not 2"),
        (None, True, False, "has 0 rules, not 2"),
        (SystemFault("Operation not permitted"), True, False, "not permitted"),
    ],
)
def test_packet_filter(
    monkeypatch: pytest.MonkeyPatch, listed: Any, running: bool, well: bool, part: str
) -> None:
    def listing(name: str) -> Any:
        assert name == TABLE.name
        if isinstance(listed, SystemFault):
            raise listed
        return listed

    monkeypatch.setattr(nftables, "missing", str)
    monkeypatch.setattr(nftables, "listing", listing)
    (found,) = machine.packet_filter([TABLE], running=running)
    assert (found.subject, found.well) == ("inet bondvpn_bond0", well)
    assert part in found.found


def test_programs_that_are_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with_dns = replace(TUNNEL, dns=(ip_address("172.21.1.1"),))
    monkeypatch.setenv("PATH", str(tmp_path))
    for table, part in ((TABLE, "nftables)"), (replace(TABLE, optional=True), "how narrow the tunnel is")):
        (found,) = machine.packet_filter([table], running=True)
        assert (found.well, found.mend) == (False, "apt-get install nftables")
        assert found.found.endswith(part)
    (found,) = machine.name_servers(with_dns)
    assert (found.well, found.mend) == (False, "apt-get install systemd-resolved")
    assert list(machine.name_servers(TUNNEL)) == []
    (tmp_path / "resolvectl").write_text("#!/bin/sh\n")
    (tmp_path / "resolvectl").chmod(0o755)
    (found,) = machine.name_servers(with_dns)
    assert (found.well, found.found) == (True, "172.21.1.1")
