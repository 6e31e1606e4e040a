"""In what order a machine comes to its plan, and what is a warning; with stand-ins for all that it asks."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from bondvpn.errors import SystemFault
from bondvpn.linux import fulltunnel, nftables, policy, resolver
from bondvpn.linux.journal import Journal
from bondvpn.linux.netlink import Netlink
from bondvpn.linux.nftables import Table
from bondvpn.linux.policy import Plan
from bondvpn.linux.resolver import Resolver
from bondvpn.linux.upkeep import Upkeep

SWITCH = Table(fulltunnel.KILL_SWITCH, ())
NARROW = Table("bondvpn_bond0", (), optional=True)
DNS = Resolver(interface="bond0", servers=("172.21.1.1",), domains=())


class Machine:
    """Notes what is done to it. `fails`: the deed that does; `lacks`: why nft and resolvectl are missing."""

    def __init__(self, directory: Path, patch: pytest.MonkeyPatch) -> None:
        self.done: list[str] = []
        self.listed = "as made"
        self.fails = self.lacks = ""
        self.netlink = cast(Netlink, self)
        self.upkeep = Upkeep(Journal.begin(directory / "bond0.journal.json", self.netlink))
        patch.setattr(nftables, "put", lambda table: self._do(f"put {table.name}"))
        patch.setattr(nftables, "delete", lambda name: self._do(f"delete {name}"))
        patch.setattr(nftables, "listing", lambda _name: self.listed)
        patch.setattr(policy, "install", lambda *_: self._do("routes") or [])
        patch.setattr(resolver, "put", lambda _resolver: self._do("dns"))
        patch.setattr(resolver, "revert", lambda _interface: self._do("revert dns"))
        for program in (nftables, resolver):
            patch.setattr(program, "missing", lambda: self.lacks)

    def link_index(self, _name: str) -> int:
        return 7

    def _do(self, what: str) -> None:
        self.done.append(what)
        if what == self.fails:
            raise SystemFault(f"cannot {what}")

    def install(self, **wanted: Any) -> tuple[list[str], list[str]]:
        """What it did, and what waits."""
        self.done = []
        waiting = self.upkeep.install(Plan(**wanted), self.netlink)
        return self.done, waiting


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    machine = Machine(tmp_path, monkeypatch)
    yield machine
    machine.upkeep.close()


def test_the_kill_switch_is_the_first_to_come_and_goes_after_the_routes(machine: Machine) -> None:
    put = [f"put {SWITCH.name}", f"put {NARROW.name}"]
    assert machine.install(tables=(SWITCH, NARROW), resolver=DNS) == ([*put, "routes", "dns"], [])
    assert machine.install(tables=(SWITCH, NARROW), resolver=DNS) == (["routes"], [])
    assert machine.install(tables=(NARROW,)) == (["routes", f"delete {SWITCH.name}", "revert dns"], [])
    assert machine.install(tables=(SWITCH, NARROW), resolver=DNS) == ([put[0], "routes", "dns"], [])


def test_who_changed_a_table_is_found_out_when_in_doubt(machine: Machine) -> None:
    machine.install(tables=(SWITCH,))
    machine.listed = "nothing"
    assert machine.install(tables=(SWITCH,))[0] == ["routes"]  # asking nft takes a process
    machine.upkeep.doubt()
    assert machine.install(tables=(SWITCH,))[0] == [f"put {SWITCH.name}", "routes"]
    machine.upkeep.doubt()
    assert machine.install(tables=(SWITCH,))[0] == ["routes"]


def test_a_table_that_cannot_be_refuses_a_start_and_nothing_later(machine: Machine) -> None:
    machine.fails = f"put {SWITCH.name}"
    with pytest.raises(SystemFault, match="cannot put"):
        machine.install(tables=(SWITCH,))
    assert machine.done == [machine.fails]  # no route before it
    machine.fails = ""
    machine.install(tables=(SWITCH,))
    machine.listed, machine.fails = "nothing", f"put {SWITCH.name}"
    machine.upkeep.doubt()
    assert machine.install(tables=(SWITCH,)) == ([machine.fails, "routes"], [f"cannot {machine.fails}"])
    machine.fails = ""
    assert machine.install(tables=(SWITCH,))[0] == [f"put {SWITCH.name}", "routes"]  # without another doubt


def test_nobody_stays_without_a_tunnel_for_want_of_a_name_server(machine: Machine) -> None:
    machine.fails = "dns"
    assert machine.install(resolver=DNS) == (["routes", "dns"], ["cannot dns"])
    machine.fails = ""
    assert machine.install(resolver=DNS) == (["routes", "dns"], [])


def test_what_is_missing_is_said_once(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    machine.lacks = "there is none"
    for _ in range(2):
        assert machine.install(tables=(NARROW,), resolver=DNS) == (["routes"], [])
    assert caplog.messages == ["there is none: TCP is not told how narrow the tunnel is", "there is none"]


def test_without_nft_what_was_asked_for_refuses_a_start(machine: Machine) -> None:
    machine.lacks = "there is none"
    with pytest.raises(SystemFault, match="there is none"):
        machine.install(tables=(SWITCH,))
