"""The files of a setup, and the places in them that everything taken names."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Generic, TypeVar

from bondvpn.errors import ConfigError

T = TypeVar("T")

FILE_BYTES_MAX = 256 << 10  # a hundred times any script of this kind
FILES_MAX = 500
DEPTH_MAX = 6

# Where an /etc (or a root directory's) keeps it.
_KNOWN = ("openvpn", "network", "ppp", "iproute2", "rc.local", "default/openvpn", "local", "firewall")


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A line of a file; `file` is relative to the directory that is imported."""

    file: str
    line: int

    def __str__(self) -> str:
        file = "".join(char if char.isprintable() else "?" for char in self.file)
        return f"{file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Said(Generic[T]):
    """A value and the place that says so."""

    value: T
    place: Place


@dataclass(frozen=True, slots=True)
class Source:
    """One file's text."""

    file: str
    text: str

    @property
    def name(self) -> str:
        return self.file.rpartition("/")[2]

    @property
    def directories(self) -> tuple[str, ...]:
        return tuple(self.file.split("/")[:-1])

    def lines(self) -> Iterator[tuple[Place, str]]:
        """Every line with its place, numbers from 1; a backslash at the end joins as in interfaces(5)."""
        joined, first = "", 0
        for number, line in enumerate(self.text.split("\n"), 1):
            first = first or number
            if line.endswith("\\"):
                joined += line[:-1]
                continue
            yield Place(self.file, first), joined + line
            joined, first = "", 0
        if joined:
            yield Place(self.file, first), joined


class Sources:
    """The text files below a directory. What cannot be read is listed in `unread`, not raised."""

    def __init__(self, root: Path) -> None:
        """Raises ConfigError when there is no such directory, or no text file in it."""
        if not root.is_dir():
            raise ConfigError(
                [f"{root}: no directory; accepted: one with the old setup's files, such as /etc"]
            )
        self.root = root
        self.unread: list[str] = []
        self.files: dict[str, Source] = {}
        for path in _paths(root):
            if len(self.files) >= FILES_MAX:
                self.unread.append(
                    f"{root}: more than {FILES_MAX} files: the rest was not read; "
                    "copy what belongs to the setup into a directory of its own"
                )
                break
            self._read(path)
        if not self.files:
            raise ConfigError([f"{root}: no text file in it; accepted: the old setup's files, such as /etc"])

    def __iter__(self) -> Iterator[Source]:
        return iter(self.files.values())

    def find(self, mentioned: str, beside: str = "") -> Source | None:
        """The file that a configuration in `beside` calls `mentioned`, an absolute or relative path.

        Copies lie elsewhere than the original did: the path's longest tail that fits one file decides.
        """
        parts = [part for part in mentioned.split("/") if part not in {"", ".", ".."}]
        for keep in range(len(parts), 0, -1):
            tail = "/".join(parts[-keep:])
            here = f"{beside.rpartition('/')[0]}/{tail}".lstrip("/")
            if here in self.files:
                return self.files[here]
            found = [file for file in self.files if file == tail or file.endswith("/" + tail)]
            if len(found) == 1:
                return self.files[found[0]]
        return None

    def _read(self, path: Path) -> None:
        file = path.relative_to(self.root).as_posix()
        try:
            if not path.is_file():
                return
            if path.stat().st_size > FILE_BYTES_MAX:
                self.unread.append(f"{file}: larger than {FILE_BYTES_MAX >> 10} KiB: not read")
                return
            raw = path.read_bytes()
        except OSError as fault:
            self.unread.append(f"{file}: cannot be read: {fault.strerror}")
            return
        if b"\0" in raw:
            return  # no text: a package's binary, a key database
        text = raw.decode("utf-8", errors="replace").replace("\r\n", "\n")
        self.files[file] = Source(file, text)


def _paths(root: Path) -> list[Path]:
    """A directory made for this is read whole; of an /etc, which is far larger, the places that are known."""
    whole = list(islice(_below(root, DEPTH_MAX), FILES_MAX + 1))
    etc = next((one for one in (root / "etc", root) if (one / "openvpn").is_dir()), None)
    if len(whole) <= FILES_MAX or etc is None:
        return whole
    known = [etc / name for name in _KNOWN]
    return [path for place in known for path in (_below(place, DEPTH_MAX) if place.is_dir() else [place])]


def _below(directory: Path, depth: int) -> Iterator[Path]:
    try:
        entries = sorted(directory.iterdir())
    except OSError:
        return
    for entry in entries:
        if entry.name.startswith(".git") or entry.name.endswith(("~", ".bak", ".dpkg-old", ".dpkg-dist")):
            continue
        if entry.is_dir() and not entry.is_symlink():
            if depth > 1:
                yield from _below(entry, depth - 1)
        elif entry.is_file():
            yield entry
