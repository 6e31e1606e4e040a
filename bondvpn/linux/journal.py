"""What this process put into the kernel, on disk before it is there, so that a killed process can be undone.

One journal per process lies in the runtime directory: `bond0.journal.json` for a client (by its
interface), `server.journal.json` for a server. It names its owner; while the owner lives, nobody else
undoes it. Life of a journal: `begin` (undoes what a dead owner left), `record` before each change,
`take_back` of what is not wanted any more, `undo` at the end, which removes the file. After SIGKILL the next
`begin`, or `undo_dead`, does the rest.
"""

import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Self

import msgspec

from bondvpn.errors import SystemFault
from bondvpn.linux import nftables, resolver
from bondvpn.linux.netlink import Netlink, Route, Rule
from bondvpn.linux.nftables import NftTable
from bondvpn.linux.resolver import Resolver

RUNTIME_DIR = Path("/run/bondvpn")
_SUFFIX = ".journal.json"


class Sysctl(msgspec.Struct, frozen=True, kw_only=True, tag="sysctl"):
    """A kernel setting that we changed."""

    path: str
    """Its file below /proc/sys."""
    old: str
    new: str
    follows: bool = False
    """Nobody writes `new`: the kernel sets it, when the setting recorded after this one is undone."""


class TapDevice(msgspec.Struct, frozen=True, kw_only=True, tag="tap"):
    """A TAP device that we made."""

    interface: str


Entry = Route | Rule | Sysctl | TapDevice | NftTable | Resolver


class Owner(msgspec.Struct, frozen=True, kw_only=True):
    """A process, told from a later one with the same number."""

    pid: int
    start_ticks: int
    """Clock ticks after boot, /proc/PID/stat field 22."""
    boot_id: str

    @classmethod
    def of(cls, pid: int) -> "Owner | None":
        """The process that has the number now."""
        try:
            stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None
        fields = stat.rpartition(")")[2].split()  # the command before it may hold anything
        if fields[0] in "ZX":  # a zombie installs nothing any more
            return None
        return cls(pid=pid, start_ticks=int(fields[19]), boot_id=_boot_id())

    def is_alive(self) -> bool:
        return Owner.of(self.pid) == self


class _File(msgspec.Struct):
    owner: Owner
    entries: list[Entry] = []


def runtime_dir() -> Path:
    """Where control sockets and journals lie: `$BONDVPN_RUNTIME_DIR` or /run/bondvpn."""
    return Path(os.environ.get("BONDVPN_RUNTIME_DIR") or RUNTIME_DIR)


def journal_path(name: str) -> Path:
    """The journal of the process called `name`: a client's interface, or "server"."""
    return runtime_dir() / f"{name}{_SUFFIX}"


def process_name(path: Path) -> str:
    """The `name` that `journal_path` made the path of."""
    return path.name.removesuffix(_SUFFIX)


def journals() -> list[Path]:
    """Every journal in the runtime directory."""
    return sorted(runtime_dir().glob(f"*{_SUFFIX}"))


def owner_runs(path: Path) -> bool:
    """Whether the process whose journal lies at `path` is alive. Raises SystemFault."""
    file = _read(path)
    return file is not None and file.owner.is_alive()


def entries_of(path: Path) -> tuple[Entry, ...]:
    """What the journal at `path` holds; nothing where there is none. Raises SystemFault."""
    file = _read(path)
    return () if file is None else tuple(file.entries)


def tables_taken(but: Path) -> set[int]:
    """Routing tables and marks' tables that other journals than `but` hold."""
    others = [_read(path) for path in journals() if path != but]
    return {
        entry.table for file in others if file for entry in file.entries if isinstance(entry, Route | Rule)
    }


class Journal:
    """This process's journal."""

    def __init__(self, path: Path, owner: Owner) -> None:
        self._path = path
        self._file = _File(owner=owner)

    @classmethod
    def begin(cls, path: Path, netlink: Netlink, keep: Collection[Entry] = ()) -> Self:
        """Undo what a dead owner left, but for what is to be `keep`t, then start this process's own journal.

        Raises SystemFault when the owner lives, or when its leftovers cannot be removed.
        """
        left = undo_dead(path, netlink, keep)
        if left:
            raise SystemFault("\n".join(left))
        owner = Owner.of(os.getpid())
        if owner is None:
            raise SystemFault("cannot read /proc/self/stat: /proc must be mounted")
        journal = cls(path, owner)
        journal._file.entries += entries_of(path)
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as fault:
            raise SystemFault(f"cannot make {path.parent}: {fault.strerror}") from None
        _write(path, journal._file)
        return journal

    def record(self, entries: Iterable[Entry]) -> None:
        """Note, on disk once this returns, what is about to be installed. Raises SystemFault."""
        new = [entry for entry in dict.fromkeys(entries) if entry not in self._file.entries]
        if new:
            self._file.entries += new
            _write(self._path, self._file)

    @property
    def entries(self) -> tuple[Entry, ...]:
        """What was recorded and not taken back, in its order."""
        return tuple(self._file.entries)

    def take_back(self, entries: Sequence[Entry], netlink: Netlink) -> None:
        """Undo some of what was recorded, last first, and forget it. What is gone already is no error.

        Raises SystemFault; what was not undone by then stays in the file.
        """
        undone = []
        try:
            for entry in reversed(entries):
                _undo_entry(entry, netlink)
                undone.append(entry)
        finally:
            if undone:
                self._file.entries = [entry for entry in self._file.entries if entry not in undone]
                _write(self._path, self._file)

    def undo(self, netlink: Netlink, keep: Collection[Entry] = ()) -> list[str]:
        """Undo everything but what is to be `keep`t, last first, and remove the file if nothing is. What is
        gone already is no error.

        Returns one line for each thing that could not be undone; those stay in the file.
        """
        return _undo(self._path, self._file, netlink, keep)


def undo_dead(path: Path, netlink: Netlink, keep: Collection[Entry] = ()) -> list[str]:
    """Undo the journal of a process that is no more, but for what is to be `keep`t; no journal: nothing.

    Returns one line for each thing that could not be undone. Raises SystemFault while the owner lives.
    """
    file = _read(path)
    if file is None:
        return []
    if file.owner.is_alive():
        raise SystemFault(
            f"process {file.owner.pid} runs and owns {path}: end it first (kill {file.owner.pid})"
        )
    if file.owner.boot_id != _boot_id():
        path.unlink(missing_ok=True)  # the reboot has undone it
        return []
    return _undo(path, file, netlink, keep)


def _undo(path: Path, file: _File, netlink: Netlink, keep: Collection[Entry]) -> list[str]:
    failures: list[str] = []
    stuck: list[Entry] = []
    for entry in reversed(file.entries):
        if entry in keep:
            stuck.insert(0, entry)
            continue
        try:
            _undo_entry(entry, netlink)
        except (SystemFault, OSError) as fault:
            failures.append(f"left over: {fault}")
            stuck.insert(0, entry)
    file.entries = stuck
    if stuck:
        _write(path, file)
    else:
        path.unlink(missing_ok=True)
    return failures


def _undo_entry(entry: Entry, netlink: Netlink) -> None:
    match entry:
        case Route():
            netlink.drop_route(entry)
        case Rule():
            netlink.drop_rule(entry)
        case TapDevice():
            netlink.delete_tap(entry.interface)
        case NftTable():
            nftables.delete(entry.name)
        case Resolver():
            resolver.revert(entry.interface)
        case Sysctl():
            setting = Path(entry.path)
            # Whoever set something else in between meant it.
            if setting.exists() and setting.read_text().strip() == entry.new:
                setting.write_text(entry.old)


def _read(path: Path) -> _File | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_File)
    except FileNotFoundError:
        return None
    except OSError as fault:
        raise SystemFault(f"cannot read {path}: {fault.strerror}") from None
    except msgspec.DecodeError as fault:
        raise SystemFault(f"{path} is not a journal of this version ({fault}): remove it") from None


def _write(path: Path, file: _File) -> None:
    """Replace the file as a whole; it is on disk when this returns."""
    draft = path.with_name(f".{path.name}.new")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as out:
            out.write(msgspec.json.format(msgspec.json.encode(file)))
            out.flush()
            os.fsync(descriptor)
        draft.rename(path)
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as fault:
        raise SystemFault(f"cannot write {path}: {fault.strerror}") from None


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
