"""POSIX shell scripts, read without running them: text to a tree.

What scripts of this kind use: simple commands, `&&` and `||`, pipelines, `if`, `case`, `for`, `while`,
functions, `{ }` and `( )`. `walk` follows the tree.
"""

from dataclasses import dataclass, field

from bondvpn.migration.sources import Place, Source
from bondvpn.migration.tokens import REDIRECTIONS, Lexer, Part, ShellSyntaxError, Token, Word

NESTING_MAX = 30  # lists and compounds each count; real scripts stay below ten
_SEPARATORS = {";", "&", "\n"}
_ENDS = {"fi", "then", "else", "elif", "do", "done", "esac", "}", ")", ";;"}


@dataclass(slots=True)
class Simple:
    """`NAME=value... command argument...`"""

    place: Place
    assignments: list[tuple[str, Word]] = field(default_factory=list)
    words: list[Word] = field(default_factory=list)


@dataclass(slots=True)
class AndOr:
    """`first && second || third`: each with what joins it to those before it. `;` and newlines join too."""

    parts: list[tuple[str, "Node"]]


@dataclass(slots=True)
class Not:
    """`! command`"""

    node: "Node"


@dataclass(slots=True)
class Choice:
    """`if`: conditions and bodies; the last condition of an `else` is None. `while` and `until` too."""

    arms: list[tuple["Node | None", "Node"]]
    loop: bool = False


@dataclass(slots=True)
class Case:
    """`case word in pattern|pattern) body ;; esac`"""

    word: Word
    arms: list[tuple[list[Word], "Node"]]


@dataclass(slots=True)
class For:
    """`for name in words; do body; done`; no words: the arguments."""

    name: str
    words: list[Word] | None
    body: "Node"


@dataclass(slots=True)
class Function:
    """`name() { body; }`"""

    name: str
    body: "Node"


Node = Simple | AndOr | Not | Choice | Case | For | Function


def parse(source: Source, line: int = 1) -> AndOr:
    """The script's tree; `line`: of its first line in the file. Raises ShellSyntaxError only."""
    parser = _Parser(list(Lexer(source, line).tokens()), Place(source.file, line))
    tree = parser.list_until(set())
    if parser.token is not None:
        raise ShellSyntaxError(parser.token.place, f"unexpected {parser.shown()}")
    return tree


class _Parser:
    """Tokens to a tree."""

    def __init__(self, tokens: list[Token], start: Place) -> None:
        self._tokens = tokens
        self._at = 0
        self._depth = 0
        self._last = start

    @property
    def token(self) -> Token | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def shown(self) -> str:
        return repr(self._text() or "end of file")

    def _text(self) -> str:
        """The operator, or the word if it is an unquoted one, as reserved words are."""
        if self.token is None:
            return ""
        if self.token.word is None:
            return self.token.operator
        word = self.token.word
        return word[0].text if len(word) == 1 and word[0].kind == "text" and not word[0].quoted else ""

    def _next(self) -> Token:
        token = self.token
        if token is None:
            raise ShellSyntaxError(self._last, "the script ends in the middle")
        self._at += 1
        self._last = token.place
        return token

    def _take(self, *texts: str) -> bool:
        if self.token is not None and self._text() in texts:
            self._next()
            return True
        return False

    def _expect(self, text: str) -> None:
        if not self._take(text):
            place = self.token.place if self.token is not None else self._last
            raise ShellSyntaxError(place, f"{text!r} expected, not {self.shown()}")

    def _newlines(self) -> None:
        while self._take("\n", ";"):
            pass

    def list_until(self, ends: set[str]) -> AndOr:
        """Commands up to one of the words `ends`, which is left, or the end of the file."""
        self._deeper()
        parts: list[tuple[str, Node]] = []
        joint = ";"
        while True:
            while self._take(*_SEPARATORS):
                joint = ";"
            if self.token is None or self._text() in (ends or {")", ";;"}):
                break
            parts.append((joint, self._command()))
            joint = ";"
            if self.token is None:
                break
            text = self._text() if self.token.word is None else ""
            if text in {"&&", "||", "|"}:
                joint = self._next().operator
                while self._take("\n"):
                    pass
            elif text not in _SEPARATORS and self._text() not in (ends or {")", ";;"}):
                raise ShellSyntaxError(self.token.place, f"unexpected {self.shown()}")
        self._depth -= 1
        return AndOr(parts)

    def _deeper(self) -> None:
        self._depth += 1
        if self._depth > NESTING_MAX:
            raise ShellSyntaxError(self._last, "nested too deeply")

    def _command(self) -> Node:
        self._deeper()
        node = self._any_command()
        self._depth -= 1
        return node

    def _any_command(self) -> Node:
        text = self._text()
        if text == "!":
            self._next()
            return Not(self._command())
        compound = {
            "if": self._if, "while": self._while, "until": self._while, "for": self._for,
            "case": self._case, "{": self._group, "(": self._group, "function": self._function,
        }.get(text)  # fmt: skip
        if compound is not None:
            node = compound()
            self._redirections()
            return node
        if text in _ENDS or self.token is None or (self.token.word is None and text not in REDIRECTIONS):
            place = self.token.place if self.token is not None else self._last
            raise ShellSyntaxError(place, f"unexpected {self.shown()}")
        return self._simple()

    def _simple(self) -> Node:
        simple = Simple(self._tokens[self._at].place)
        while self.token is not None:
            if self._redirection():
                continue
            word = self.token.word
            if word is None:
                break
            if self._function_follows(simple):
                return self._function_body(self._name(self._next()))
            self._next()
            assignment = None if simple.words else _assignment(word)
            if assignment is not None:
                simple.assignments.append(assignment)
            else:
                simple.words.append(word)
        return simple

    def _function_follows(self, simple: Simple) -> bool:
        return (
            not simple.words
            and not simple.assignments
            and [token.operator for token in self._tokens[self._at + 1 : self._at + 3]] == ["(", ")"]
        )

    def _function(self) -> Node:
        self._next()
        return self._function_body(self._name(self._next()))

    def _function_body(self, name: str) -> Node:
        if self._take("("):
            self._expect(")")
        self._newlines()
        return Function(name, self._command())

    def _name(self, token: Token) -> str:
        return "".join(part.text for part in token.word or [])

    def _redirections(self) -> None:
        while self._redirection():
            pass

    def _redirection(self) -> bool:
        """`2>&1`, `>/dev/null`: the number, the operator, and the word behind it."""
        token = self.token
        if token is None:
            return False
        following = self._tokens[self._at + 1] if self._at + 1 < len(self._tokens) else None
        if self._text().isdigit() and following is not None and following.operator in REDIRECTIONS:
            self._next()
        elif token.word is not None or token.operator not in REDIRECTIONS:
            return False
        self._next()
        if self.token is not None and self.token.word is not None:
            self._next()
        return True

    def _if(self) -> Node:
        arms: list[tuple[Node | None, Node]] = []
        while self._take("if", "elif"):
            condition = self.list_until({"then"})
            self._expect("then")
            arms.append((condition, self.list_until({"elif", "else", "fi"})))
        if self._take("else"):
            arms.append((None, self.list_until({"fi"})))
        self._expect("fi")
        return Choice(arms)

    def _while(self) -> Node:
        self._next()
        condition = self.list_until({"do"})
        self._expect("do")
        body = self.list_until({"done"})
        self._expect("done")
        return Choice([(condition, body)], loop=True)

    def _for(self) -> Node:
        self._next()
        name = self._name(self._next())
        words: list[Word] | None = None
        self._newlines()
        if self._take("in"):
            words = []
            while self.token is not None and self.token.word is not None:
                words.append(self._next().word or [])
        self._newlines()
        self._expect("do")
        body = self.list_until({"done"})
        self._expect("done")
        return For(name, words, body)

    def _case(self) -> Node:
        self._next()
        word = self._next().word or []
        self._newlines()
        self._expect("in")
        self._newlines()
        arms: list[tuple[list[Word], Node]] = []
        while not self._take("esac"):
            self._take("(")
            patterns = [self._next().word or []]
            while self._take("|"):
                patterns.append(self._next().word or [])
            self._expect(")")
            arms.append((patterns, self.list_until({";;", "esac"})))
            self._take(";;")
            self._newlines()
        return Case(word, arms)

    def _group(self) -> Node:
        closing = "}" if self._next().word is not None else ")"
        body = self.list_until({closing})
        self._expect(closing)
        return body


def _assignment(word: Word) -> tuple[str, Word] | None:
    """`NAME=value` as name and value."""
    first = word[0] if word else None
    if first is None or first.kind != "text" or first.quoted or "=" not in first.text:
        return None
    name, _, rest = first.text.partition("=")
    if not name.isidentifier() or not name.isascii():
        return None
    return name, [Part("text", rest, False), *word[1:]] if rest else word[1:]
