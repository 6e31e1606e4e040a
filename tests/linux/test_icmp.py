"""What a router says of a datagram's size: literal messages, and everything that is none."""

import contextlib
import os
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bondvpn.linux import icmp
from bondvpn.linux.icmp import IcmpSocket, TooBig, checksum, parse4, parse6
from bondvpn.linux.sysctl import has_ipv6

# r1 10.1.0.1 to srv 198.51.100.1: a datagram from port 1189 to 10.1.0.2, port 40000, does not fit into 1400.
QUOTED4 = bytes.fromhex("450005dc00004000401100 00".replace(" ", "")) + bytes.fromhex(
    "c6336401" "0a010002" "04a5" "9c40" "05c8" "0000"  # addresses, ports, length, checksum
)  # fmt: skip
MESSAGE4 = bytes.fromhex("0304000000000578") + QUOTED4
OUTER4 = bytes.fromhex("45c0003800000000400100000a010001c6336401")
QUOTED6 = bytes.fromhex(
    "6000000005b4114020010db800000000000000000000000120010db800010000000000000000000204a59c4005b40000"
)
MESSAGE6 = bytes.fromhex("0200000000000578") + QUOTED6


def summed(message: bytes) -> bytes:
    """With its checksum (RFC 1071)."""
    blank = message[:2] + bytes(2) + message[4:]
    return blank[:2] + struct.pack("!H", checksum(blank)) + blank[4:]


def packet4(message: bytes, outer: bytes = OUTER4) -> bytes:
    return outer + summed(message)


def test_the_checksum_of_rfc_1071() -> None:
    data = bytes.fromhex("0001f203f4f5f6f7")  # section 3
    assert checksum(data) == 0xFFFF - 0xDDF2
    assert checksum(data + struct.pack("!H", checksum(data))) == 0
    assert checksum(b"\x01") == 0xFEFF


def test_over_ipv4() -> None:
    assert parse4(packet4(MESSAGE4)) == TooBig(1400, ("198.51.100.1", 1189), ("10.1.0.2", 40000))
    options = bytes([0x46]) + OUTER4[1:] + bytes(4)
    assert parse4(packet4(MESSAGE4, options)) == parse4(packet4(MESSAGE4))


def test_over_ipv6() -> None:
    assert parse6(MESSAGE6) == TooBig(1400, ("2001:db8::1", 1189), ("2001:db8:1::2", 40000))


def changed(message: bytes, at: int, value: int) -> bytes:
    return message[:at] + bytes([value]) + message[at + 1 :]


@pytest.mark.parametrize(
    "message",
    [changed(MESSAGE4, 1, 3), changed(MESSAGE4, 8 + 9, 6), changed(MESSAGE4, 8 + 7, 1)],
    ids=["port unreachable", "about TCP", "about a later fragment"],
)
def test_what_is_about_something_else(message: bytes) -> None:
    assert parse4(packet4(message)) is None


def test_what_is_about_something_else_over_ipv6() -> None:
    assert parse6(changed(MESSAGE6, 0, 1)) is None
    assert parse6(changed(MESSAGE6, 8 + 6, 6)) is None


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        OUTER4,
        packet4(MESSAGE4)[:-1],
        changed(packet4(MESSAGE4), 22, 0xFF),
        packet4(MESSAGE4[:-1]),
        packet4(changed(MESSAGE4, 8, 0x65)),
        packet4(changed(MESSAGE4, 8, 0x44)),
        packet4(changed(MESSAGE4, 8, 0x4F)),
        changed(packet4(MESSAGE4), 0, 0x44),
    ],
    ids=["empty", "header only", "cut off", "checksum", "quotes too little", "quotes IPv6", "short header",
         "long header", "short header outside"],
)  # fmt: skip
def test_malformed(packet: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - that is what it promises
        parse4(packet)


@pytest.mark.parametrize("message", [b"", MESSAGE6[:-1], changed(MESSAGE6, 8, 0x45)])
def test_malformed_over_ipv6(message: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        parse6(message)


@given(st.binary(max_size=200))
def test_anything_else_is_refused_or_none(noise: bytes) -> None:
    for parse, message in ((parse4, noise), (parse6, noise), (parse4, packet4(MESSAGE4[:8] + noise))):
        try:
            found = parse(message)
        except ValueError:
            continue
        assert found is None or 0 <= found.mtu < 1 << 32


def test_a_reserved_mtu_of_zero_is_passed_on() -> None:
    """Routers older than RFC 1191 have none; bond.pathmtu takes no such hint."""
    found = parse4(packet4(MESSAGE4[:6] + bytes(2) + QUOTED4))
    assert found is not None
    assert found.mtu == 0
    assert icmp.RECEIVE_BYTES >= 1280


@pytest.mark.skipif(os.geteuid() != 0, reason="raw sockets need CAP_NET_RAW")
@pytest.mark.parametrize("ipv6", [False, True])
def test_the_kernel_lets_nothing_else_through(ipv6: bool) -> None:
    """On the loopback, which keeps the order. The kernel itself does nothing about an echo's answer."""
    if ipv6 and not has_ipv6("lo"):
        pytest.skip("no IPv6 here")
    family, protocol, host, echo_reply, message = (
        (socket.AF_INET6, socket.IPPROTO_ICMPV6, "::1", 129, MESSAGE6)
        if ipv6
        else (socket.AF_INET, socket.IPPROTO_ICMP, "127.0.0.1", 0, summed(MESSAGE4))
    )
    with (
        contextlib.closing(IcmpSocket(ipv6=ipv6)) as icmp,
        socket.socket(fileno=os.dup(icmp.fileno())) as raw,
        socket.socket(family, socket.SOCK_RAW, protocol) as router,
    ):
        router.sendto(summed(bytes([echo_reply, 0]) + bytes(6)), (host, 0))
        for _ in range(2):
            router.sendto(message, (host, 0))
        assert raw.recv(2048)[0 if ipv6 else 20] == message[0]
        assert (parse6(MESSAGE6) if ipv6 else parse4(packet4(MESSAGE4))) in icmp.receive()
        router.sendto(summed(message[:8]), (host, 0))
        assert (icmp.receive(), icmp.malformed) == ([], 1)
        assert (icmp.receive(), icmp.malformed) == ([], 0)
