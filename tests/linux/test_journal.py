"""The journal: on disk before the deed, undone in reverse, never while its owner lives."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from bondvpn.errors import SystemFault
from bondvpn.linux import journal
from bondvpn.linux.journal import Journal, Owner, Sysctl, TapDevice
from bondvpn.linux.netlink import Netlink, Route, Rule

ROUTE = Route(version=4, table=4489, interface="eth1", gateway="10.0.0.1")
RULE = Rule(version=4, priority=11890, table=4489, mark=4489)
TAP = TapDevice(interface="bond0")


class Kernel:
    """Stands in for `Netlink`: notes what is undone, and refuses what it is told to."""

    def __init__(self, stuck: object = None) -> None:
        self.undone: list[object] = []
        self.stuck = stuck

    def _undo(self, entry: object) -> bool:
        if entry == self.stuck:
            raise SystemFault("not permitted")
        self.undone.append(entry)
        return True

    drop_route = drop_rule = _undo

    def delete_tap(self, name: str) -> bool:
        return self._undo(TapDevice(interface=name))

    @property
    def netlink(self) -> Netlink:
        return cast(Netlink, self)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "bond0.journal.json"


def _give_to(path: Path, owner: Owner) -> None:
    """Rewrite the journal as that owner's."""
    content: dict[str, Any] = msgspec.json.decode(path.read_bytes())
    content["owner"] = msgspec.to_builtins(owner)
    path.write_bytes(msgspec.json.encode(content))


def _ended_process() -> Owner:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    owner = Owner.of(process.pid)
    assert owner is not None
    assert owner.is_alive()
    process.communicate(b"\n")
    return owner


def test_what_is_recorded_is_on_disk_when_record_returns(path: Path) -> None:
    kept = Journal.begin(path, Kernel().netlink)
    kept.record([ROUTE, RULE, RULE])
    kept.record([RULE, TAP])
    entries = msgspec.json.decode(path.read_bytes())["entries"]
    assert [entry["type"] for entry in entries] == ["route", "rule", "tap"]
    assert path.stat().st_mode & 0o777 == 0o600
    assert [found.name for found in path.parent.iterdir()] == [path.name]  # no draft stays


def test_undo_goes_backwards_and_removes_the_file(path: Path) -> None:
    kernel = Kernel()
    kept = Journal.begin(path, kernel.netlink)
    kept.record([TAP, ROUTE, RULE])
    assert kept.undo(kernel.netlink) == []
    assert kernel.undone == [RULE, ROUTE, TAP]
    assert not path.exists()


def test_undo_continues_past_a_failure_and_keeps_just_that(path: Path) -> None:
    kernel = Kernel(stuck=ROUTE)
    kept = Journal.begin(path, kernel.netlink)
    kept.record([TAP, ROUTE, RULE])
    assert kept.undo(kernel.netlink) == ["left over: not permitted"]
    assert kernel.undone == [RULE, TAP]
    kernel.stuck = None
    assert kept.undo(kernel.netlink) == []
    assert kernel.undone == [RULE, TAP, ROUTE]


def test_a_living_owner_is_left_alone(path: Path) -> None:
    kernel = Kernel()
    Journal.begin(path, kernel.netlink).record([ROUTE])
    for attempt in (journal.undo_dead, Journal.begin):
        with pytest.raises(SystemFault, match=rf"process {os.getpid()} runs and owns {path}"):
            attempt(path, kernel.netlink)
    assert kernel.undone == []
    assert path.exists()


def test_the_next_start_undoes_what_a_dead_owner_left(path: Path) -> None:
    kernel = Kernel()
    Journal.begin(path, kernel.netlink).record([ROUTE, RULE])
    _give_to(path, _ended_process())
    Journal.begin(path, kernel.netlink).record([TAP])
    assert kernel.undone == [RULE, ROUTE]
    assert [entry["type"] for entry in msgspec.json.decode(path.read_bytes())["entries"]] == ["tap"]


def test_a_later_process_with_the_same_number_is_another(path: Path) -> None:
    kernel = Kernel()
    Journal.begin(path, kernel.netlink).record([ROUTE])
    me = Owner.of(os.getpid())
    assert me is not None
    _give_to(path, msgspec.structs.replace(me, start_ticks=me.start_ticks - 1))
    assert journal.undo_dead(path, kernel.netlink) == []
    assert kernel.undone == [ROUTE]


def test_a_reboot_has_undone_it_all(path: Path) -> None:
    kernel = Kernel()
    Journal.begin(path, kernel.netlink).record([ROUTE])
    me = Owner.of(os.getpid())
    assert me is not None
    _give_to(path, msgspec.structs.replace(me, boot_id="another"))
    assert journal.undo_dead(path, kernel.netlink) == []
    assert kernel.undone == []
    assert not path.exists()


def test_a_sysctl_is_restored_unless_somebody_else_set_it_since(path: Path, tmp_path: Path) -> None:
    for left, restored in (("2\n", "1"), ("0\n", "0\n")):
        setting = tmp_path / "rp_filter"
        setting.write_text(left)
        kept = Journal.begin(path, Kernel().netlink)
        kept.record([Sysctl(path=str(setting), old="1", new="2"), Sysctl(path="/gone", old="1", new="2")])
        assert kept.undo(Kernel().netlink) == []
        assert setting.read_text() == restored


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b'{"owner": 3}', b"\xff"])
def test_an_unreadable_journal_is_named(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(SystemFault, match=f"{path} is not a journal of this version"):
        journal.undo_dead(path, Kernel().netlink)


def test_no_journal_is_nothing_to_undo(path: Path) -> None:
    assert journal.undo_dead(path, Kernel().netlink) == []


def test_names_and_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BONDVPN_RUNTIME_DIR", str(tmp_path))
    mine, other = journal.journal_path("bond0"), journal.journal_path("bond1")
    assert mine == tmp_path / "bond0.journal.json"
    assert journal.process_name(mine) == "bond0"
    Journal.begin(mine, Kernel().netlink).record([ROUTE])
    Journal.begin(other, Kernel().netlink).record([Rule(version=4, priority=1, table=77, mark=1)])
    assert journal.journals() == [mine, other]
    assert journal.tables_taken(but=mine) == {77}
    monkeypatch.delenv("BONDVPN_RUNTIME_DIR")
    assert journal.runtime_dir() == Path("/run/bondvpn")
