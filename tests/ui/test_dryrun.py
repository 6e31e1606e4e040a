"""What `--dry-run` says beside the commands; that these do what a start does: netns-tests/test_dry_run.py."""

from ipaddress import ip_interface
from pathlib import Path
from typing import cast

import pytest

from bondvpn.config import ClientConfig, Server, Tunnel
from bondvpn.linux import nftables, policy, resolver
from bondvpn.linux.journal import Journal, Sysctl, journal_path
from bondvpn.linux.netlink import Netlink, Rule
from bondvpn.linux.nftables import Table
from bondvpn.linux.policy import Plan
from bondvpn.linux.resolver import Resolver
from bondvpn.ui import dryrun

PLAN = Plan(
    tables=(Table("bondvpn-kill-switch", ()), Table("bondvpn_bond0", (), optional=True)),
    resolver=Resolver(interface="bond0", servers=("172.21.1.1",), domains=("~.",)),
)
NOBODY = cast(Netlink, None)


def test_another_full_tunnel_refuses_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BONDVPN_RUNTIME_DIR", str(tmp_path))
    Journal.begin(journal_path("bond1"), NOBODY).record([Rule(version=4, priority=11895, table=4489)])
    settings = ClientConfig(
        path=Path("client.toml"),
        private_key=bytes(32),
        tunnel=Tunnel(interface="bond0", address=(ip_interface("172.21.1.2/30"),), default_route=True),
        server=Server(public_key=bytes(32), endpoints=()),
        uplinks=(),
    )
    assert next(dryrun.client(settings)).startswith("# refused: bond1 has the default route already")


def test_in_order_and_without_what_the_kernel_does_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    own, kernels = (
        Sysctl(path=f"/proc/sys/net/ipv4/{name}", old="0", new="1", follows=follows)
        for name, follows in (("ip_forward", False), ("conf/eth1/forwarding", True))
    )
    monkeypatch.setattr(policy, "entries", lambda *_: [kernels, own])
    for program in (nftables, resolver):
        monkeypatch.setattr(program, "missing", str)
    assert list(dryrun._machine(PLAN, NOBODY)) == [
        "nft add table inet bondvpn-kill-switch",
        "nft add table inet bondvpn_bond0",
        "sysctl -w net.ipv4.ip_forward=1",
        "resolvectl dns bond0 172.21.1.1 && resolvectl domain bond0 ~.",
    ]


def test_programs_that_are_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy, "entries", lambda *_: [])
    for program in (nftables, resolver):
        monkeypatch.setattr(program, "missing", lambda: "there is none")
    assert list(dryrun._machine(PLAN, NOBODY)) == [
        "# refused: bondvpn-kill-switch: there is none",
        "# left out: bondvpn_bond0: there is none",
        "# there is none",
    ]
