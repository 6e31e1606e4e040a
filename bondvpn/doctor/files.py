"""The files that a configuration names."""

import shutil
import stat
import tomllib
from collections.abc import Iterator
from pathlib import Path
from shlex import quote
from typing import Any, get_args

from bondvpn.config import Hooks
from bondvpn.doctor.finding import Finding
from bondvpn.runtime.hooks import Event

_OTHERS = 0o077


def keys(path: Path) -> Iterator[Finding]:
    """Nobody but its owner reads a key, or replaces it. `path`: a configuration that loads."""
    for named in dict.fromkeys(_key_files(tomllib.loads(path.read_text(encoding="utf-8")))):
        key = path.parent / named
        mode = stat.S_IMODE(key.stat().st_mode)
        if mode & _OTHERS:
            yield Finding(
                "key", str(key), f"mode {mode:04o}: others can get at it", f"chmod 600 {quote(str(key))}"
            )
        else:
            yield Finding("key", str(key), f"mode {mode:04o}")
        directory = key.parent.resolve()
        mode = stat.S_IMODE(directory.stat().st_mode)
        if mode & 0o022 and not mode & stat.S_ISVTX:
            found = f"mode {mode:04o}: others can replace the keys in it"
            yield Finding("key", str(directory), found, f"chmod go-w {quote(str(directory))}")


def _key_files(table: Any) -> Iterator[str]:
    if isinstance(table, dict):
        for key, value in table.items():
            if key in {"private_key_file", "preshared_key_file"}:
                yield value
            else:
                yield from _key_files(value)
    elif isinstance(table, list):
        for one in table:
            yield from _key_files(one)


def hooks(commands: Hooks) -> Iterator[Finding]:
    """The hooks' programs are there and can be run."""
    for event in get_args(Event):
        argv: tuple[str, ...] = getattr(commands, event)
        if not argv:
            continue
        if shutil.which(argv[0]) is None:
            mend = f"{'chmod +x' if Path(argv[0]).is_file() else 'ls -l'} {quote(argv[0])}"
            yield Finding("hook", event, f"{argv[0]} cannot be run", mend)
        else:
            yield Finding("hook", event, f"{argv[0]} can be run")
