"""Reading TOML tables into typed values while collecting every finding, each with its place and remedy."""

import json
import logging
import os
import stat
from collections.abc import Callable, Hashable
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, cast

from bondvpn import values
from bondvpn.errors import ConfigError
from bondvpn.values import UnacceptableError

T = TypeVar("T")

log = logging.getLogger(__name__)

_SECRET_MODE_MASK = 0o077  # group's and others' bits
_SECRET_FILE_BYTES_MAX = 4096
_REQUIRED: Any = object()


class Findings:
    """What is wrong with one file, in the order of reading."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: list[str] = []

    def add(self, place: str, wrong: str, accepted: str) -> None:
        self.lines.append(f"{self.path}: {place}: {wrong}; accepted: {accepted}")

    def raise_if_any(self) -> None:
        if self.lines:
            raise ConfigError(self.lines)


class Table:
    """One TOML table being read: hands out typed values, collects findings, knows what is left over.

    After a finding the value handed out is None whatever its type says: what is built from it is never
    seen, since the load ends in `raise_if_any`. Checks across keys look at `sound` first.
    """

    def __init__(self, table: dict[str, Any], place: str, findings: Findings) -> None:
        self._table = table
        self._place = place
        self._known: list[str] = []
        self.findings = findings
        self._found_before = len(findings.lines)

    @property
    def sound(self) -> bool:
        """No finding in this table, nor in one read since it was opened."""
        return len(self.findings.lines) == self._found_before

    def place(self, key: str) -> str:
        return f"{self._place}.{key}" if self._place else key

    def reject(self, key: str, value: object, wrong: str, accepted: str) -> None:
        self.findings.add(f"{self.place(key)} = {_shown(value)}", wrong, accepted)

    def refuse(self, key: str, wrong: str, accepted: str) -> None:
        """A finding if the key is there at all."""
        if key in self._table:
            self.reject(key, self._table[key], wrong, accepted)

    def given(self, key: str) -> bool:
        return key in self._table

    def value(self, key: str, parse: Callable[[object], T], default: Any = _REQUIRED) -> T:
        """The value of `key`; a finding when it is missing without a default, or unacceptable."""
        self._known.append(key)
        if key not in self._table:
            if default is not _REQUIRED:
                return cast(T, default)
            self.findings.add(self.place(key), "missing", _accepted(parse))
            return cast(T, None)
        try:
            return parse(self._table[key])
        except UnacceptableError as fault:
            self.reject(key, self._table[key], fault.wrong, fault.accepted)
            return cast(T, None)

    def items(self, key: str, parse: Callable[[object], T], default: Any = _REQUIRED) -> tuple[T, ...]:
        """A list, each element parsed and no two alike; a required list is not empty."""
        raw = self.value(key, _list_of(parse, 1 if default is _REQUIRED else 0), default)
        if raw is None or raw is default:
            return cast(tuple[T, ...], raw)
        parsed: dict[Hashable, None] = {}
        for index, element in enumerate(raw):
            try:
                one = parse(element)
            except UnacceptableError as fault:
                self.reject(f"{key}[{index}]", element, fault.wrong, fault.accepted)
                continue
            if one in parsed:
                self.reject(f"{key}[{index}]", element, "given twice", "each value once")
            parsed[one] = None
        return cast(tuple[T, ...], tuple(parsed))

    def table(self, key: str, *, required: bool = True) -> "Table":
        """The sub-table `[key]`; missing reads as empty, and is a finding if it is `required`."""
        raw = self.value(key, _table_of_toml, _REQUIRED if required else {})
        return Table(raw or {}, self.place(key), self.findings if raw is not None else Findings(Path()))

    def tables(self, key: str, at_most: int | None = None) -> list["Table"]:
        """The sub-tables `[[key]]`, at least one."""
        raw = self.value(key, _tables_of_toml(key, at_most)) or []
        return [Table(one, f"{self.place(key)}[{i}]", self.findings) for i, one in enumerate(raw)]

    def secret(self, key: str, default: Any = _REQUIRED) -> bytes:
        """The 32 bytes in the file that `key` names; a warning if others than its owner can read it."""
        return self.value(key, _secret_in(self.findings.path.parent), default)

    def close(self) -> None:
        """Every key has been asked for: what is left over is unknown."""
        for key in self._table:
            if key in self._known:
                continue
            near = get_close_matches(key, self._known, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            self.findings.add(self.place(key), f"unknown key{hint}", ", ".join(self._known))


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return f"[{', '.join(_shown(one) for one in value)}]"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else str(value)


def _list_of(parse: Callable[[object], Any], at_least: int) -> Callable[[object], list[Any]]:
    def whole(value: object) -> list[Any]:
        if not isinstance(value, list):
            raise UnacceptableError("not a list", f"a list, each element {_accepted(parse)}")
        if len(value) < at_least:
            raise UnacceptableError("empty", f"at least one element, each {_accepted(parse)}")
        return value

    return whole


def _accepted(parse: Callable[[object], Any]) -> str:
    """What `parse` would take, by asking it for the one value that TOML cannot give."""
    try:
        parse(None)
    except UnacceptableError as fault:
        return fault.accepted
    raise TypeError(f"{parse!r} accepts None")


def _table_of_toml(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UnacceptableError("not a table", "a table of its own")
    return value


def _tables_of_toml(key: str, at_most: int | None) -> Callable[[object], list[dict[str, Any]]]:
    times = {None: "at least once", 1: "exactly once"}.get(at_most, f"1 to {at_most} times")
    accepted = f"[[{key}]] {times}"

    def parse(value: object) -> list[dict[str, Any]]:
        if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
            raise UnacceptableError("not a list of tables", accepted)
        if not value or (at_most is not None and len(value) > at_most):
            raise UnacceptableError(f"given {len(value)} times", accepted)
        return value

    return parse


def _secret_in(directory: Path) -> Callable[[object], bytes]:
    accepted = "the path of a file, relative to this one, that holds 32 bytes in base64"

    def parse(value: object) -> bytes:
        if not isinstance(value, str) or not value:
            raise UnacceptableError("not a path", accepted)
        path = directory / value
        try:
            with path.open("rb") as file:
                mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
                text = file.read(_SECRET_FILE_BYTES_MAX)
        except (OSError, ValueError) as fault:
            raise UnacceptableError(
                f"cannot be read: {getattr(fault, 'strerror', None) or fault}", accepted
            ) from None
        if mode & _SECRET_MODE_MASK:
            log.warning("%s: others can read this secret (mode %04o); chmod 600 %s", path, mode, path)
        try:
            return values.key(text.decode("ascii"))
        except UnicodeDecodeError:
            raise UnacceptableError(f"{path} holds no key: not base64", accepted) from None
        except UnacceptableError as fault:
            raise UnacceptableError(f"{path} holds no key: {fault.wrong}", fault.accepted) from None

    return parse
