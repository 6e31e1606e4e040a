"""Follows a script's tree as far as its own text tells, and notes the commands that it would run.

What is not known (an argument that the kernel or pppd gives, the output of a command) stays in the words
as `$NAME`, and where it decides, all ways are followed. Tests for files hold: the setup once worked.
Nothing is executed.
"""

import ast
import contextlib
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from bondvpn.migration import shell
from bondvpn.migration.shell import AndOr, Case, Choice, For, Function, Node, Not, Simple
from bondvpn.migration.sources import Place, Said, Source, Sources
from bondvpn.migration.tokens import Part, ShellSyntaxError, Word

STEPS_MAX = 20_000  # nodes visited in one script; real ones take a few hundred
CALLS_MAX = 6
WORDS_MAX = 1_000  # of one command
VALUE_CHARS_MAX = 4_096
_FILE_TESTS = {"-e", "-f", "-r", "-w", "-x", "-d", "-s", "-h", "-L", "-c", "-b", "-S"}
_UNKNOWN = "$"
_NAME = re.compile(r"([A-Za-z_][A-Za-z0-9_]*|[0-9]+|[@*#?$!-])(.*)", re.DOTALL)
_ARITHMETIC = re.compile(r"[0-9+\-*/% ()]{1,80}")


@dataclass(frozen=True, slots=True)
class Command:
    """One simple command, its words expanded; unknown ones hold a `$`."""

    argv: tuple[str, ...]
    place: Place

    @property
    def name(self) -> str:
        """Without its directory; `$IPTABLES` reads as iptables."""
        return self.argv[0].rpartition("/")[2].removeprefix(_UNKNOWN).lower()


class _Left(Exception):
    """`exit`, `return`, or too many steps."""


def commands(
    source: Source,
    sources: Sources,
    environment: Mapping[str, str],
    arguments: Sequence[str] = (),
    line: int = 1,
) -> tuple[list[Command], list[Said[str]]]:
    """The commands that the script would run, and what of it was not understood."""
    walker = _Walker(sources, environment, arguments)
    walker.run(source, line)
    return walker.commands, walker.trouble


class _Walker:
    def __init__(self, sources: Sources, environment: Mapping[str, str], arguments: Sequence[str]) -> None:
        self.commands: list[Command] = []
        self.trouble: list[Said[str]] = []
        self._sources = sources
        self._variables = dict(environment)
        self._arguments = list(arguments)
        self._functions: dict[str, Node] = {}
        self._calls = 0
        self._steps = 0

    def run(self, source: Source, line: int) -> None:
        try:
            tree = shell.parse(source, line)
        except ShellSyntaxError as fault:
            self.trouble.append(Said(f"{fault.wrong}: read line by line", fault.place))
            tree = _line_by_line(source, line)
        try:
            self._node(tree)
        except _Left:
            if self._steps > STEPS_MAX:
                self.trouble.append(Said("too long to follow to its end", Place(source.file, line)))

    # -- nodes: each gives True, False or, unknown, None ------------------------------------------
    def _node(self, node: Node) -> bool | None:
        self._steps += 1
        if self._steps > STEPS_MAX:
            raise _Left
        match node:
            case Simple():
                return self._simple(node)
            case AndOr():
                return self._and_or(node)
            case Not():
                status = self._node(node.node)
                return None if status is None else not status
            case Choice():
                return self._choice(node)
            case Case():
                return self._case(node)
            case For():
                return self._for(node)
            case Function():
                self._functions[node.name] = node.body
                return True

    def _and_or(self, node: AndOr) -> bool | None:
        status: bool | None = True
        for joint, part in node.parts:
            if (joint, status) in {("&&", False), ("||", True)}:
                continue
            if joint in {"&&", "||"} and status is None:
                before = dict(self._variables)
                done = self._perhaps(part)
                self._join([before, self._variables])
                status = None if done is None or joint == "||" else status
            else:
                status = self._node(part)
        return status

    def _perhaps(self, node: Node) -> bool | None:
        """Follow what may not happen: an `exit` in it ends only itself."""
        try:
            return self._node(node)
        except _Left:
            if self._steps > STEPS_MAX:
                raise
            return None

    def _join(self, ways: Sequence[dict[str, str]]) -> None:
        """After several ways a variable is known if it is the same in all."""
        self._variables = {
            name: value for name, value in ways[0].items() if all(way.get(name) == value for way in ways[1:])
        }

    def _choice(self, node: Choice) -> bool | None:
        ways: list[dict[str, str]] = []
        unsure = False
        for condition, body in node.arms:
            status = True if condition is None else self._node(condition)
            if node.loop and status is not False:
                status = None  # nobody knows how often
            if status is False:
                continue
            if status is True and not unsure:
                return self._node(body)
            before = dict(self._variables)
            self._perhaps(body)
            ways.append(self._variables)
            self._variables = before
            unsure = True
            if status is True:
                break
        else:
            ways.append(self._variables)
        self._join(ways)
        return None if unsure else True

    def _case(self, node: Case) -> bool | None:
        value = self._one(node.word)
        known = _UNKNOWN not in value
        ways: list[dict[str, str]] = []
        for patterns, body in node.arms:
            if not known:
                before = dict(self._variables)
                self._perhaps(body)
                ways.append(self._variables)
                self._variables = before
            elif any(fnmatchcase(value, self._one(pattern)) for pattern in patterns):
                return self._node(body)
        if ways:
            self._join([*ways, self._variables])
        return None

    def _for(self, node: For) -> bool | None:
        values = self._arguments if node.words is None else self._many(node.words)
        for value in list(values):
            self._variables[node.name] = value
            self._node(node.body)
        return None

    def _simple(self, node: Simple) -> bool | None:
        argv = self._many(node.words)
        for name, word in node.assignments:
            self._assign(name, self._one(word))
        if not argv:
            return True
        command = Command(tuple(argv), node.place)
        builtin = self._BUILTINS.get(argv[0])
        if builtin is not None:
            return builtin(self, command)
        if argv[0] in self._functions and self._calls < CALLS_MAX:
            return self._call(self._functions[argv[0]], argv[1:])
        self.commands.append(command)
        return None

    def _call(self, body: Node, arguments: list[str]) -> bool | None:
        outer, self._arguments = self._arguments, arguments
        self._calls += 1
        try:
            return self._node(body)
        except _Left:
            if self._steps > STEPS_MAX:
                raise
            return None
        finally:
            self._calls -= 1
            self._arguments = outer

    # -- builtins -------------------------------------------------------------------------------
    def _leave(self, _command: Command) -> bool | None:
        raise _Left

    def _true(self, _command: Command) -> bool | None:
        return True

    def _false(self, _command: Command) -> bool | None:
        return False

    def _unknown(self, _command: Command) -> bool | None:
        return None

    def _test(self, command: Command) -> bool | None:
        return _tested([word for word in command.argv[1:] if word not in {"]", "]]"}])

    def _source(self, command: Command) -> bool | None:
        found = self._sources.find(command.argv[1], command.place.file) if len(command.argv) > 1 else None
        if found is None or self._calls >= CALLS_MAX:
            self.trouble.append(Said(f"{' '.join(command.argv)}: the file is not there", command.place))
            return None
        self._calls += 1
        self.run(found, 1)
        self._calls -= 1
        return True

    def _export(self, command: Command) -> bool | None:
        for word in command.argv[1:]:
            name, equals, value = word.partition("=")
            if equals and name.isidentifier():
                self._assign(name, value)
        return True

    def _shift(self, command: Command) -> bool | None:
        count = command.argv[1] if len(command.argv) > 1 else "1"
        del self._arguments[: int(count) if count.isdigit() and len(count) < 4 else 1]
        return True

    def _set(self, command: Command) -> bool | None:
        if "--" in command.argv:
            self._arguments = list(command.argv[command.argv.index("--") + 1 :])
        return True

    def _unset(self, command: Command) -> bool | None:
        for name in command.argv[1:]:
            self._variables.pop(name, None)
        return True

    _BUILTINS: Mapping[str, Callable[["_Walker", Command], bool | None]] = {
        "exit": _leave, "return": _leave, "true": _true, ":": _true, "false": _false,
        "[": _test, "[[": _test, "test": _test, ".": _source, "source": _source,
        "export": _export, "local": _export, "readonly": _export, "declare": _export,
        "shift": _shift, "set": _set, "unset": _unset,
        "echo": _unknown, "printf": _unknown, "logger": _unknown, "sleep": _unknown, "read": _unknown,
        "break": _unknown, "continue": _unknown, "cd": _unknown, "umask": _unknown, "trap": _unknown,
    }  # fmt: skip

    # -- words ----------------------------------------------------------------------------------
    def _assign(self, name: str, value: str) -> None:
        self._variables[name] = value[:VALUE_CHARS_MAX]

    def _one(self, word: Word) -> str:
        return "".join(self._value(part) for part in word)[:VALUE_CHARS_MAX]

    def _many(self, words: Sequence[Word]) -> list[str]:
        """Expanded and split: an unquoted expansion at its blanks, `"$@"` into the arguments."""
        many: list[str] = []
        for word in words[:WORDS_MAX]:
            if len(word) <= 2 and word and word[-1].kind == "variable" and word[-1].text in {"@", "*"}:
                many += self._arguments
            elif all(part.quoted or part.kind == "text" for part in word):
                many.append(self._one(word))
            else:
                many += self._split(word)
        return many

    def _split(self, word: Word) -> Iterator[str]:
        current: str | None = None
        for part in word:
            value = self._value(part)
            if part.quoted or part.kind == "text":
                current = (current or "") + value
                continue
            pieces = re.split(r"\s+", value)
            for number, piece in enumerate(pieces):
                if number:
                    if current:
                        yield current
                    current = None
                if piece:
                    current = (current or "") + piece
        if current is not None:
            yield current[:VALUE_CHARS_MAX]

    def _value(self, part: Part) -> str:
        if part.kind == "text":
            return part.text
        if part.kind == "command":
            echoed = re.fullmatch(r"\s*echo\s+([^|;&<>`\\'\"]*?)\s*", part.text)
            return self._substituted(echoed[1]) if echoed else "$(...)"
        if part.text.startswith("(("):
            return self._arithmetic(part.text[2:-2])
        return self._variable(part.text)

    def _variable(self, text: str) -> str:
        """`NAME`, and what may follow it in braces: defaults, and what is cut off at either end."""
        match = _NAME.fullmatch(text)
        if match is None or (text.startswith("#") and text != "#"):  # ${#NAME} is a length
            return _UNKNOWN + text
        name, rest = match[1], match[2]
        value = self._looked_up(name)
        for mark in (":-", ":=", "-", "=", ":+", "+", "##", "#", "%%", "%"):
            if rest.startswith(mark):
                return self._modified(name, value, mark, rest[len(mark) :])
        return _UNKNOWN + text if value is None or rest else value

    def _looked_up(self, name: str) -> str | None:
        if name.isdigit():
            at = int(name[:4])
            return self._arguments[at - 1] if 0 < at <= len(self._arguments) else None
        if name == "#":
            return str(len(self._arguments))
        if name in {"@", "*"}:
            return " ".join(self._arguments)
        return self._variables.get(name)

    def _modified(self, name: str, value: str | None, mark: str, rest: str) -> str:
        rest = self._substituted(rest)
        if mark in {":-", ":=", "-", "="}:
            return value or rest if value is not None else rest
        if mark in {":+", "+"}:
            return rest if value else _UNKNOWN + name
        if value is None or _UNKNOWN in value:
            return _UNKNOWN + name
        value = value[:256]
        cuts = range(len(value) + 1)
        if mark[0] == "#":
            fitting = [at for at in cuts if fnmatchcase(value[:at], rest)]
            return value[(fitting[-1] if mark == "##" else fitting[0]) :] if fitting else value
        fitting = [at for at in cuts if fnmatchcase(value[at:], rest)]
        return value[: (fitting[0] if mark == "%%" else fitting[-1])] if fitting else value

    def _substituted(self, text: str) -> str:
        """Plain `$NAME` and `${NAME}` within."""
        plain = re.compile(r"\$\{?([A-Za-z_][A-Za-z0-9_]*|[0-9])\}?")
        return plain.sub(lambda found: self._looked_up(found[1]) or found[0], text)[:VALUE_CHARS_MAX]

    def _arithmetic(self, text: str) -> str:
        bare = re.sub(r"\$?\{?\b([A-Za-z_]\w*)\}?", lambda m: self._looked_up(m[1]) or "?", text)
        value = _calculated(self._substituted(bare))
        return f"$(({text}))" if value is None else str(value)


def _line_by_line(source: Source, line: int) -> AndOr:
    """What of a script is understood without its structure."""
    parts: list[tuple[str, Node]] = []
    for place, text in source.lines():
        with contextlib.suppress(ShellSyntaxError):
            parts.append((";", shell.parse(Source(source.file, text), place.line + line - 1)))
    return AndOr(parts)


def _tested(words: list[str]) -> bool | None:
    negated = False
    while words and words[0] == "!":
        words, negated = words[1:], not negated
    status = _tested_plain(words)
    return None if status is None else status != negated


def _tested_plain(words: list[str]) -> bool | None:
    match words:
        case [flag, _] if flag in _FILE_TESTS:
            return True
        case ["-n" | "-z" as flag, word]:
            return None if _UNKNOWN in word else bool(word) == (flag == "-n")
        case [word]:
            return None if _UNKNOWN in word else bool(word)
        case [left, "=" | "==" | "-eq" | "!=" | "-ne" as sign, right]:
            if _UNKNOWN in left + right:
                return None
            same = fnmatchcase(left, right) if sign in {"==", "!="} else left == right
            return same == (sign in {"=", "==", "-eq"})
    return None


_OPERATIONS: dict[type, Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


def _calculated(text: str) -> int | None:
    """The whole number that a shell's `+ - * / %` make of numbers; None for anything else."""
    if not _ARITHMETIC.fullmatch(text.strip()):
        return None
    try:
        return _evaluated(ast.parse(re.sub(r"/+", "//", text.strip()), mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return None


def _evaluated(node: ast.expr) -> int:
    match node:
        case ast.Constant(value=int() as number):
            return number
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATIONS:
            return _OPERATIONS[type(op)](_evaluated(left), _evaluated(right))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_evaluated(operand)
    raise ValueError("no arithmetic")
