"""Scripts are followed as the shell would run them; /bin/sh itself says how that is."""

import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bondvpn.migration import shell, walk
from bondvpn.migration.sources import Source, Sources
from bondvpn.migration.tokens import ShellSyntaxError


class NoFiles(Sources):
    """A setup of no other files."""

    def __init__(self) -> None:
        self.files = {}


def followed(
    script: str, arguments: tuple[str, ...] = (), **environment: str
) -> tuple[list[list[str]], list[str]]:
    commands, trouble = walk.commands(Source("script", script), NoFiles(), environment, arguments)
    return [list(command.argv) for command in commands], [str(one.value) for one in trouble]


def run(script: str, arguments: tuple[str, ...] = ()) -> list[list[str]]:
    """What /bin/sh makes of it: `ip` writes its words, one a line, `--` between the commands."""
    prelude = "ip() { printf '%s\\n' ip \"$@\" --; }\n"
    done = subprocess.run(
        ["/bin/sh", "-c", prelude + script, "script", *arguments],
        capture_output=True, text=True, timeout=10, check=False,
        env={"PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert done.stderr == ""
    return [words.split("\n")[:-1] for words in done.stdout.split("--\n")[:-1]]


KNOWN_TO_THE_END = [
    "ip a b",
    'A=1; B="$A 2"; ip $B "$B" \'$B\' ${B}x',
    "ip a; ip b & wait; ip c",
    "for i in 0 1 2; do ip tap$i $((1189+i)) $(( i * 2 + 1 )); done",
    "LIST='a b c'\nfor x in $LIST; do\n  ip $x\ndone",
    "case ppp1 in ppp0) ip zero;; ppp*) ip more ;; *) ip none;; esac",
    "case x in a|b) ip ab ;; (x) ip x\nesac",
    'if [ "$1" = tap0 ]; then ip first; elif [ "$1" = tap1 ]; then ip second; else ip other; fi',
    '[ "$2" != c ] || exit 0\nip on; [ "$2" != b ] || exit 0\nip never',
    '[ -n "$1" ] && ip given; [ -z "$3" ] && ip absent',
    "if ! [ a = b ]; then ip differs; fi",
    "true && ip yes; false && ip no; false || ip or; true || ip nor",
    "f() { ip in $1 $#; }\nf one two; ip out $1",
    'f () {\n  [ "$1" = a ] && return\n  ip $1\n}\nf a; f b',
    "ip a \\\n  b # c\n# ip d\nip 'e # f' g#h",
    "cat >/dev/null <<END\nip in a here-document\nEND\nip after",
    "cat >/dev/null <<-'END'\n\tip in it\n\tEND\nip after",
    "ip a >/dev/stdout 2>&1; ip b 2>/dev/null",
    "N=${1#tap}; ip $N ${1%0} ${UNSET:-default} ${N:+set} ${UNSET-other}",
    "P=/etc/ppp/ip-up.d; ip ${P##*/} ${P%%/ppp*} ${P#*/} ${P%/*}",
    'set -- x y z; ip $1 $#; shift; ip $1 "$@"',
    "(ip sub; ip shell); { ip group; }",
    "ip a | cat; ip b",
    'ip "a\\"b" a\\ b \'a\\b\' "\\$A" ""',
    "i=1; i=$((i+1)); ip $i $(echo x$i)",
    'A=; ip a$A "$A" $A',
    "export A=1 B=2; ip $A $B; unset A; ip $B",
    "while false; do ip never; done; ip after",
    "test 1 -eq 1 && ip equal; [ 1 -ne 1 ] || ip same",
]


@pytest.mark.parametrize("script", KNOWN_TO_THE_END)
def test_what_is_known_is_followed_as_the_shell_runs_it(script: str) -> None:
    arguments = ("tap0", "b")
    mine, trouble = followed(script, arguments)
    assert [words for words in mine if words[0] == "ip"] == run(script, arguments)
    assert trouble == []


def test_of_what_is_not_known_all_ways_are_followed() -> None:
    script = """
case "$PPP_IFACE" in
ppp0) PORT=1189; ip rule zero $PORT;;
ppp1) PORT=1190; ip rule one $PORT;;
esac
ip after $PORT
some command && ip perhaps || ip else
[ "$UNKNOWN" = 1 ] && exit
[ -x /usr/sbin/absent ] || exit 0
ip end
"""
    found = [words[1:] for words in followed(script)[0] if words[0] == "ip"]
    assert found == [
        ["rule", "zero", "1189"], ["rule", "one", "1190"], ["after", "$PORT"],
        ["perhaps"], ["else"], ["end"],
    ]  # fmt: skip
    found = [words[1:] for words in followed(script, PPP_IFACE="ppp1")[0] if words[0] == "ip"]
    assert found[:2] == [["rule", "one", "1190"], ["after", "1190"]]


def test_what_is_not_understood_is_said_and_the_rest_is_read_line_by_line() -> None:
    found, trouble = followed("A=(1 2)\nip one\nfi\nip two")
    assert found == [["ip", "one"], ["ip", "two"]]
    assert len(trouble) == 1
    assert "read line by line" in trouble[0]


@pytest.mark.parametrize(
    "script",
    [
        "f() { f; f; }; f",
        "f() { ip x; f; }; f",
        "while true; do ip x; done",
        "A=xxxxxxxxxxxxxxxx\n" + "A=$A$A$A$A\n" * 200 + "ip $A",
        "for a in 1 2 3 4 5 6 7 8; do " * 8 + "ip x;" + "done;" * 8,
        "! " * 5000 + "ip x",
        "[ " + "! " * 5000 + "a ]",
        "{ " * 5000,
        "$((" + "(" * 3000,
        "ip $((" + "9*" * 2000 + "9))",
        "f() " * 2000 + "ip x",
        "ip ${" + "a:-${" * 2000,
    ],
)
def test_hostile_scripts_end(script: str) -> None:
    found, _ = followed(script)
    assert sum(len(word) for words in found for word in words) < 10_000_000


WORDS = """if then else elif fi case esac for in do done while until { } ( ) ;; ; & && || | ! [ ] = x $x "$@"
    ${x#a} $((1+x)) $(a) `a` f() function > 2>&1 <<E E ' " \\ # """
FRAGMENTS = st.sampled_from([*WORDS.split(), "\n", " "])


@given(st.lists(FRAGMENTS, max_size=40))
def test_any_script_is_parsed_or_refused(fragments: list[str]) -> None:
    text = " ".join(fragments)
    try:
        shell.parse(Source("script", text))
    except ShellSyntaxError as fault:
        where = fault.place.line
    else:
        where = 1
    assert 1 <= where <= text.count("\n") + 1
    followed(text)
