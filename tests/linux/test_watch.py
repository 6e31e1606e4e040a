"""What wakes us, and what does not; the socket itself is at work in netns-tests/test_uplinks_ethernet.py."""

import struct

import pytest
from pyroute2.netlink import rtnl

from bondvpn.linux.watch import of_uplinks

AF_INET = 2


def message(kind: int, body: bytes) -> bytes:
    """struct nlmsghdr and a body, padded to four bytes."""
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 1, 0) + body + bytes(-len(body) % 4)


def route(kind: int, prefix_bits: int) -> bytes:
    return message(kind, struct.pack("=BB10x", AF_INET, prefix_bits))


@pytest.mark.parametrize("kind", [rtnl.RTM_NEWLINK, rtnl.RTM_DELADDR, rtnl.RTM_NEWRULE, rtnl.RTM_DELRULE])
def test_links_addresses_and_rules_matter(kind: int) -> None:
    assert of_uplinks(message(kind, bytes(16)))


@pytest.mark.parametrize("kind", [rtnl.RTM_NEWROUTE, rtnl.RTM_DELROUTE])
def test_of_routes_only_default_ones_do(kind: int) -> None:
    assert of_uplinks(route(kind, 0))
    assert not of_uplinks(route(kind, 24))
    assert not of_uplinks(route(kind, 24) + route(kind, 8))
    assert of_uplinks(route(kind, 24) + route(kind, 0))


@pytest.mark.parametrize("length", [0, 3, 16])
def test_a_message_of_a_strange_length_wakes_rather_than_hangs(length: int) -> None:
    assert of_uplinks(struct.pack("=IHHII", length, rtnl.RTM_NEWROUTE, 0, 1, 0) + b"\x02\x18" + bytes(14))
    assert not of_uplinks(b"")
