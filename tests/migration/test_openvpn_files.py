"""One line of an OpenVPN configuration to words, as openvpn(8) has it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bondvpn.migration import interfaces, openvpn
from bondvpn.migration.sources import Place, Source


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("remote 198.51.100.1 1189", ["remote", "198.51.100.1", "1189"]),
        ("\tport\t1189\t# the first line's", ["port", "1189"]),
        ("; dev tap0", []),
        ("dev tap0;1", ["dev", "tap0;1"]),  # a comment begins where a word may begin
        ("dev tap0 ;1", ["dev", "tap0"]),
        ('secret "a key" b', ["secret", "a key", "b"]),
        ("up '/etc/open vpn/up' \"a b\"", ["up", "/etc/open vpn/up", "a b"]),
        (r"ca c:\\\\ca", ["ca", r"c:\\ca"]),
        (r"ca my\\ ca", ["ca", "my ca"]),
        (r"ca 'a\\b'", ["ca", r"a\\b"]),
        ('a "" b', ["a", "", "b"]),
        ('a "b', ["a", "b"]),
        ("", []),
    ],
)
def test_words(line: str, words: list[str]) -> None:
    assert openvpn.words_of(line.replace("\\\\", "\\")) == [word.replace("\\\\", "\\") for word in words]


@given(st.text(max_size=60))
def test_any_line_has_words(line: str) -> None:
    assert all(isinstance(word, str) for word in openvpn.words_of(line))


@given(st.lists(st.text(min_size=1, max_size=10).filter(lambda word: "\\" not in word and "'" not in word)))
def test_quoted_words_come_back(words: list[str]) -> None:
    assert openvpn.words_of(" ".join(f"'{word}'" for word in words)) == words


STANZAS = """\
# iface commented inet static
auto eth0
iface eth0 inet static
\taddress 192.168.10.1/24
    up ip route add 10.0.0.0/8 \\
        via 192.168.10.2
    pre-up modprobe dummy
mapping eth1
    script x
iface eql inet static
  address 172.21.1.2
  netmask 255.255.255.252
iface p2p inet static
  address 10.9.9.1
  pointopoint 10.9.9.2
iface odd inet static
  address nonsense
"""


def test_stanzas() -> None:
    found = interfaces.read(Source("interfaces", STANZAS))
    assert [(one.interface, one.method) for one in found] == [
        ("eth0", "static"), ("eql", "static"), ("p2p", "static"), ("odd", "static"),
    ]  # fmt: skip
    eth0, eql, p2p, odd = found
    assert [(one.value, one.place.line) for one in eth0.commands] == [
        ("ip route add 10.0.0.0/8         via 192.168.10.2", 5),
        ("modprobe dummy", 7),
    ]
    assert str(eql.address.value) == "172.21.1.2/30"
    assert eql.address.place == Place("interfaces", 11)
    assert str(p2p.address.value) == "10.9.9.1/30"  # the shortest link that has both as hosts
    assert odd.address is None
