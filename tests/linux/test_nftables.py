"""Tables as commands, and who touched them; nft itself is at work in netns-tests/test_gateway.py."""

import errno
import socket
import struct
from dataclasses import replace
from ipaddress import ip_interface
from typing import Self

import pytest

from bondvpn.config import Tunnel
from bondvpn.linux import gateway, nftables
from bondvpn.linux.nftables import Changes, _steady, _tables_in, table_name

OFFICE = Tunnel(interface="office0", address=(ip_interface("172.21.1.1/30"),))
VAN = replace(OFFICE, interface="van0")
NEW_TABLE, DELETE_RULE = 0xA00, 0xA08  # NFNL_SUBSYS_NFTABLES << 8, and linux/nf_tables.h


def test_a_client_that_does_all() -> None:
    tunnel = replace(OFFICE, interface="bond0", mtu=1400, forward=True, masquerade=True)
    table = gateway.table("bond0", [tunnel], server=False)
    assert table is not None
    assert not table.optional
    clamped = "tcp flags syn tcp option maxseg size set rt mtu"
    assert list(nftables.commands(table)) == [
        "nft add table inet bondvpn_bond0",
        "nft 'add chain inet bondvpn_bond0 clamp_mss "
        "{ type filter hook forward priority -150; policy accept; }'",
        f"nft 'add rule inet bondvpn_bond0 clamp_mss meta iifname bond0 {clamped}'",
        f"nft 'add rule inet bondvpn_bond0 clamp_mss meta oifname bond0 {clamped}'",
        "nft 'add chain inet bondvpn_bond0 forward { type filter hook forward priority 0; policy accept; }'",
        "nft 'add rule inet bondvpn_bond0 forward meta iifname bond0 counter accept'",
        "nft 'add rule inet bondvpn_bond0 forward meta oifname bond0 counter accept'",
        "nft 'add chain inet bondvpn_bond0 postrouting "
        "{ type nat hook postrouting priority 100; policy accept; }'",
        "nft 'add rule inet bondvpn_bond0 postrouting meta oifname bond0 masquerade'",
    ]


def test_a_server_masquerades_what_leaves_its_tunnels() -> None:
    table = gateway.table("server", [replace(OFFICE, masquerade=True), VAN], server=True)
    assert table is not None
    assert list(nftables.commands(table))[-1] == (
        "nft 'add rule inet bondvpn_server postrouting meta iifname office0 "
        "meta oifname != { lo, office0, van0 } masquerade'"
    )


@pytest.mark.parametrize(
    ("tunnel", "clamped", "optional"),
    [
        (OFFICE, False, True),
        (replace(OFFICE, mtu=1499), True, True),
        (replace(OFFICE, mtu=1499, clamp_mss=False), False, True),
        (replace(OFFICE, clamp_mss=True), True, False),
        (replace(OFFICE, mtu=1499, masquerade=True), True, False),
    ],
)
def test_a_narrow_tunnel_tells_by_itself(tunnel: Tunnel, clamped: bool, optional: bool) -> None:
    table = gateway.table("server", [tunnel], server=True)
    names = [] if table is None else [chain.name for chain in table.chains]
    assert ("clamp_mss" in names) == clamped
    assert table is None or table.optional == optional


def test_forwarding_is_for_the_families_of_who_asks() -> None:
    both = (ip_interface("172.21.2.1/30"), ip_interface("fd21::/127"))
    assert gateway.versions([replace(OFFICE, forward=True), replace(VAN, address=both)]) == (4,)
    assert gateway.versions([OFFICE, replace(VAN, address=both, forward=True)]) == (4, 6)


def test_names_are_names_to_nft() -> None:
    assert table_name("bond0") == "bondvpn_bond0"
    assert table_name("eth0.7") == "bondvpn_eth0.7"
    assert table_name("a+b") == "bondvpn_a_2bb"


def test_counts_and_handles_are_no_difference() -> None:
    listed = [{"metainfo": {"version": "1"}}, {"rule": {"handle": 4, "expr": [{"counter": {"packets": 3}}]}}]
    again = [{"metainfo": {"version": "2"}}, {"rule": {"handle": 9, "expr": [{"counter": {"packets": 4}}]}}]
    assert _steady(listed) == _steady(again)
    assert nftables.rules_in(_steady(listed)) == 1
    assert nftables.rules_in(None) == 0


def _message(kind: int, table: bytes, attribute: int = 1) -> bytes:
    """struct nlmsghdr, struct nfgenmsg, one attribute; padded to four bytes."""
    name = table + b"\0"
    body = struct.pack("=BBH", 1, 0, 0) + struct.pack("=HH", 4 + len(name), attribute) + name
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 1, 0) + body + bytes(-len(body) % 4)


def test_whose_table_was_touched() -> None:
    datagram = _message(NEW_TABLE, b"bondvpn_bond0") + _message(DELETE_RULE, b"filter")
    assert list(_tables_in(datagram)) == ["bondvpn_bond0", "filter"]
    assert list(_tables_in(_message(NEW_TABLE, b"bondvpn_bond0", attribute=2))) == []


class Group:
    """Stands in for the netlink socket: brings these, one a `recv`."""

    def __init__(self, *brings: bytes | OSError) -> None:
        self.brings = list(brings)

    def __call__(self, *_: int) -> Self:
        return self

    def bind(self, _address: object) -> None: ...

    def recv(self, _bytes: int) -> bytes:
        one = self.brings.pop(0) if self.brings else BlockingIOError()
        if isinstance(one, OSError):
            raise one
        return one


def test_what_was_lost_may_have_been_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    group = Group()
    monkeypatch.setattr(socket, "socket", group)
    changes = Changes()
    changes.names = {"bondvpn_bond0"}
    for brings, ours in (
        ([], False),
        ([_message(DELETE_RULE, b"filter")], False),
        ([_message(DELETE_RULE, b"filter"), _message(DELETE_RULE, b"bondvpn_bond0")], True),
        ([OSError(errno.ENOBUFS, "")], True),
        ([OSError(errno.ENOBUFS, ""), _message(DELETE_RULE, b"filter")], True),
    ):
        group.brings = list(brings)
        assert changes.changed() == ours
        assert group.brings == []


@pytest.mark.parametrize("length", [0, 3, 16, 20, 1 << 31])
def test_a_message_of_a_strange_length_ends(length: int) -> None:
    header = struct.pack("=IHHII", length, NEW_TABLE, 0, 1, 0)
    assert list(_tables_in(header + bytes(8))) == []
    assert list(_tables_in(header)) == []
