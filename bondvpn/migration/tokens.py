"""POSIX shell scripts cut into words and operators.

A word is a list of parts: `("text", ...)`, `("variable", ...)` with what stands between the braces, or
`("command", ...)` for a substitution that nobody can know without running it. Here-documents are skipped.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple

from bondvpn.migration.sources import Place, Source

_OPERATORS = (";;", "&&", "||", ">>", "<<-", "<<", ">&", "<&", ";", "&", "|", "(", ")", "<", ">", "\n")
REDIRECTIONS = {">>", "<<-", "<<", ">&", "<&", "<", ">"}


class Part(NamedTuple):
    """A piece of a word."""

    kind: Literal["text", "variable", "command"]
    text: str
    quoted: bool
    """In quotes: its blanks do not split it."""


Word = list[Part]


class Token(NamedTuple):
    """A word or an operator."""

    place: Place
    word: Word | None
    operator: str = ""


class ShellSyntaxError(Exception):
    """The script is not understood from `place` on."""

    def __init__(self, place: Place, wrong: str) -> None:
        super().__init__(f"{place}: {wrong}")
        self.place = place
        self.wrong = wrong


class Lexer:
    """Text to tokens."""

    def __init__(self, source: Source, line: int) -> None:
        self._file = source.file
        self._text = source.text
        self._at = 0
        self._line = line
        self._here_ends: list[str] = []

    def tokens(self) -> Iterator[Token]:
        text = self._text
        here_next = False
        while self._at < len(text):
            char = text[self._at]
            if char in " \t\r":
                self._at += 1
            elif text.startswith("\\\n", self._at):
                self._skip(2)
            elif char == "#":
                end = text.find("\n", self._at)
                self._at = len(text) if end < 0 else end
            elif (operator := self._operator()) is not None:
                place = self._place()
                self._skip(len(operator))
                if operator == "\n":
                    self._skip_here_documents()
                here_next = operator.startswith("<<")
                yield Token(place, None, operator)
            else:
                place = self._place()
                word = self._word()
                if here_next:
                    self._here_ends.append("".join(part.text for part in word))
                    here_next = False
                yield Token(place, word)

    def _operator(self) -> str | None:
        for operator in _OPERATORS:
            if self._text.startswith(operator, self._at):
                return operator
        return None

    def _place(self) -> Place:
        return Place(self._file, self._line)

    def _skip(self, characters: int) -> str:
        skipped = self._text[self._at : self._at + characters]
        self._line += skipped.count("\n")
        self._at += len(skipped)
        return skipped

    def _skip_here_documents(self) -> None:
        for end in self._here_ends:
            while self._at < len(self._text):
                stop = self._text.find("\n", self._at)
                line = self._skip((len(self._text) if stop < 0 else stop + 1) - self._at)
                if line.strip("\t\n") == end:
                    break
        self._here_ends.clear()

    def _word(self) -> Word:
        word: Word = []
        while self._at < len(self._text):
            char = self._text[self._at]
            if char in " \t\r" or self._operator() is not None:
                break
            if char == "'":
                word.append(Part("text", self._quoted_by("'"), True))
            elif char == '"':
                word += self._double_quoted()
            elif char == "\\":
                escaped = self._skip(2)[1:]
                if escaped != "\n":
                    word.append(Part("text", escaped, True))
            elif char in "$`":
                word.append(self._expansion(False))
            else:
                word.append(Part("text", self._skip(1), False))
        return _joined(word)

    def _quoted_by(self, quote: str) -> str:
        place = self._place()
        end = self._text.find(quote, self._at + 1)
        if end < 0:
            raise ShellSyntaxError(place, f"the {quote} that begins here does not end")
        return self._skip(end + 1 - self._at)[1:-1]

    def _double_quoted(self) -> Word:
        place = self._place()
        word: Word = [Part("text", "", True)]
        self._skip(1)
        while self._at < len(self._text):
            char = self._text[self._at]
            if char == '"':
                self._skip(1)
                return word
            if char == "\\":
                pair = self._skip(2)
                word.append(Part("text", pair[1:] if pair[1:] in set('$`"\\') else pair, True))
            elif char in "$`":
                word.append(self._expansion(True))
            else:
                word.append(Part("text", self._skip(1), True))
        raise ShellSyntaxError(place, 'the " that begins here does not end')

    def _expansion(self, quoted: bool) -> Part:
        if self._text[self._at] == "`":
            return Part("command", self._quoted_by("`"), quoted)
        if self._text.startswith("$((", self._at):
            inner = self._balanced("$((", "(", ")", 2)
            return Part("variable", f"(({inner}))", quoted)
        if self._text.startswith("$(", self._at):
            return Part("command", self._balanced("$(", "(", ")", 1), quoted)
        if self._text.startswith("${", self._at):
            return Part("variable", self._balanced("${", "{", "}", 1), quoted)
        end = self._at + 1
        while end < len(self._text) and (self._text[end].isalnum() or self._text[end] == "_"):
            end += 1
            if self._text[self._at + 1].isdigit():
                break
        if end == self._at + 1 and end < len(self._text) and self._text[end] in "@*#?$!-":
            end += 1
        name = self._skip(end - self._at)[1:]
        return Part("variable", name, quoted) if name else Part("text", "$", True)

    def _balanced(self, opening: str, more: str, less: str, depth: int) -> str:
        place = self._place()
        start = self._at + len(opening)
        at = start
        open_ = depth
        while at < len(self._text):
            char = self._text[at]
            if char == "\\":
                at += 1
            elif char == "'" and less == ")" and depth == 1:
                at = max(self._text.find("'", at + 1), at)
            elif char == more:
                open_ += 1
            elif char == less:
                open_ -= 1
                if open_ == 0:
                    inner = self._text[start : at + 1 - depth]
                    self._skip(at + 1 - self._at)
                    return inner
            at += 1
        raise ShellSyntaxError(place, f"the {opening} that begins here does not end")


def _joined(word: Word) -> Word:
    """Neighbouring characters of one kind become one part."""
    parts: Word = []
    for part in word:
        if parts and parts[-1].kind == part.kind == "text" and parts[-1].quoted == part.quoted:
            parts[-1] = Part("text", parts[-1].text + part.text, part.quoted)
        else:
            parts.append(part)
    return parts
