"""Streams of frames: what may go express, what must not, and that a flow stays together."""

import struct
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bondvpn.bond.classify import ACKS, EXPRESS, EXPRESS_MAX_BYTES, FLOWS, classify

SOURCE, TARGET = b"\x0a\x01\x02\x03", b"\xc0\x00\x02\x09"
SOURCE6, TARGET6 = bytes(range(16)), bytes(range(16, 32))
MACS = bytes(range(12))
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
EF, CS4, CS5, AF41, CS6, CS7 = (dscp << 2 for dscp in (46, 32, 40, 34, 48, 56))


def ethernet(ethertype: int, packet: bytes, vlan: bool = False) -> bytes:
    tag = b"\x81\x00\x20\x07" if vlan else b""
    return MACS + tag + struct.pack(">H", ethertype) + packet


def ipv4(protocol: int, body: bytes, tos: int = 0, options: int = 0, fragment: int = 0x4000) -> bytes:
    total = 20 + options + len(body)
    fields = (0x45 + options // 4, tos, total, 77, fragment, 64, protocol, 0, SOURCE, TARGET)
    return struct.pack(">BBHHHBBH4s4s", *fields) + b"\1" * options + body


def ipv6(protocol: int, body: bytes, tos: int = 0) -> bytes:
    return struct.pack(">IHBB16s16s", 6 << 28 | tos << 20, len(body), protocol, 64, SOURCE6, TARGET6) + body


def tcp(flags: int, payload: int = 0, options: int = 12, ports: tuple[int, int] = (40_000, 443)) -> bytes:
    fixed = struct.pack(">HHIIBBHHH", *ports, 1, 2, (20 + options) << 2, flags, 500, 0, 0)
    return fixed + b"\1" * options + bytes(payload)


def udp(payload: int = 100, ports: tuple[int, int] = (40_000, 443)) -> bytes:
    return struct.pack(">HHHH", *ports, 8 + payload, 0) + bytes(payload)


def packet(version: int, protocol: int, body: bytes, tos: int = 0, vlan: bool = False) -> bytes:
    if version == 4:
        return ethernet(0x0800, ipv4(protocol, body, tos), vlan)
    return ethernet(0x86DD, ipv6(protocol, body, tos), vlan)


def stream(frame: bytes) -> int:
    """Checks on the way that the head alone decides."""
    whole = classify(memoryview(frame), len(frame))
    assert classify(memoryview(frame)[:128], len(frame)) == whole
    return whole


def bulk(hashed: bytes) -> int:
    return 1 + crc32(hashed) % FLOWS


both = pytest.mark.parametrize("version", [4, 6])
tagged = pytest.mark.parametrize("vlan", [False, True])
FLOW = {
    4: bulk(SOURCE + TARGET + struct.pack(">HH", 40_000, 443)),
    6: bulk(SOURCE6 + TARGET6 + struct.pack(">HH", 40_000, 443)),
}


@both
@tagged
def test_tcp(version: int, vlan: bool) -> None:
    def of(body: bytes, tos: int = 0) -> int:
        return stream(packet(version, 6, body, tos, vlan))

    assert of(tcp(ACK)) == ACKS
    assert of(tcp(ACK, options=0)) == ACKS
    assert of(tcp(ACK, options=40)) == ACKS
    assert of(tcp(ACK | 0xC0)) == ACKS  # with ECE and CWR
    for flags in (SYN, SYN | ACK, FIN | ACK, RST, RST | ACK, 0):
        assert of(tcp(flags)) == FLOW[version], flags
    for payload in (1, 100, 1448, 60_000):
        assert of(tcp(ACK | PSH, payload)) == FLOW[version], payload
    for tos in (EF, CS6):
        assert of(tcp(SYN), tos) == of(tcp(ACK, 10), tos) == FLOW[version]
        assert of(tcp(ACK), tos) == ACKS


@tagged
def test_padding_is_not_payload(vlan: bool) -> None:
    assert stream(ethernet(0x0800, ipv4(6, tcp(ACK, options=0)), vlan) + bytes(6)) == ACKS


@both
def test_malformed_tcp_is_no_ack(version: int) -> None:
    body = bytearray(tcp(ACK, options=0))
    body[12] = 0x10  # a header of 4 bytes
    assert stream(packet(version, 6, bytes(body))) == FLOW[version]
    short = bytearray(packet(version, 6, bytes(body)))
    at = (16, 18)[version == 6]
    short[at : at + 2] = struct.pack(">H", 4 + (20 if version == 4 else 0))
    assert stream(bytes(short)) == FLOW[version]


@both
@tagged
def test_datagrams(version: int, vlan: bool) -> None:
    def of(body: bytes, tos: int = 0, protocol: int = 17) -> int:
        return stream(packet(version, protocol, body, tos, vlan))

    assert of(udp()) == FLOW[version]
    assert of(udp(1400)) == FLOW[version]
    assert of(udp(ports=(40_000, 53))) == EXPRESS
    assert of(udp(ports=(53, 40_000))) == EXPRESS
    assert of(udp(1200, ports=(53, 40_000))) != EXPRESS
    for tos in (EF, CS5, CS6, CS7):
        assert of(udp(), tos) == of(udp(), tos | 3) == EXPRESS  # ECN bits do not matter
        assert of(udp(1400), tos) == FLOW[version]
    for tos in (CS4, AF41, 0x9F):
        assert of(udp(), tos) == FLOW[version]
    assert of(b"\0" * 4 + bytes(60), protocol=132) != EXPRESS


@both
def test_icmp(version: int) -> None:
    protocol = 1 if version == 4 else 58
    assert stream(packet(version, protocol, bytes(64))) == EXPRESS
    assert stream(packet(version, protocol, bytes(4))) == EXPRESS
    addresses = SOURCE + TARGET if version == 4 else SOURCE6 + TARGET6
    assert stream(packet(version, protocol, bytes(1400))) == bulk(addresses)


def test_express_limit_is_the_frame_length() -> None:
    frame = packet(4, 1, bytes(EXPRESS_MAX_BYTES - 34))
    assert len(frame) == EXPRESS_MAX_BYTES
    assert stream(frame) == EXPRESS
    assert stream(frame + b"\0") != EXPRESS
    assert classify(memoryview(frame), len(frame), len(frame) - 1) != EXPRESS


@tagged
@pytest.mark.parametrize("options", [4, 12, 40])
def test_ip_options_do_not_move_a_flow(options: int, vlan: bool) -> None:
    def of(body: bytes, protocol: int = 6) -> int:
        return stream(ethernet(0x0800, ipv4(protocol, body, options=options), vlan))

    assert of(tcp(ACK, 1000)) == of(udp(), 17) == FLOW[4]
    assert of(tcp(ACK)) == ACKS
    assert of(tcp(SYN)) == FLOW[4]


@tagged
def test_fragments_stay_together(vlan: bool) -> None:
    by_addresses = bulk(SOURCE + TARGET)
    for protocol, body in ((17, udp(900)), (17, udp(ports=(53, 53))), (6, tcp(ACK)), (1, bytes(64))):
        for fragment in (0x2000, 0x2064, 0x0064):
            for tos in (0, EF):
                packet4 = ipv4(protocol, body, tos=tos, fragment=fragment)
                assert stream(ethernet(0x0800, packet4, vlan)) == by_addresses
    for following in (44, 0, 43, 60, 51):
        assert stream(ethernet(0x86DD, ipv6(following, bytes(64), EF), vlan)) == bulk(SOURCE6 + TARGET6)


@both
def test_tunnels_hash_by_addresses(version: int) -> None:
    addresses = SOURCE + TARGET if version == 4 else SOURCE6 + TARGET6
    for inner in (ipv4(6, tcp(ACK, 10)), ipv4(6, tcp(ACK, 900))):
        assert stream(packet(version, 4, inner)) == bulk(addresses)


def test_other_ethertypes() -> None:
    for ethertype in (0x0806, 0x0026, 0x05DC, 0x88CC, 0x8809, 0x888E):
        assert stream(ethernet(ethertype, bytes(46))) == EXPRESS
        assert stream(ethernet(ethertype, bytes(46), vlan=True)) == EXPRESS
    assert stream(ethernet(0x0806, bytes(1400))) == bulk(MACS)
    for ethertype in (0x0600, 0x8864, 0x8847, 0x88A8):
        assert stream(ethernet(ethertype, bytes(46))) == bulk(MACS)


@pytest.mark.parametrize(
    ("frame", "headers"),
    [
        (packet(4, 6, tcp(SYN)), 38),
        (packet(4, 17, udp(), vlan=True), 42),
        (ethernet(0x0800, ipv4(6, tcp(ACK), options=12)), 50),
        (packet(6, 6, tcp(SYN)), 58),
        (packet(6, 17, udp(), vlan=True), 62),
    ],
)
def test_truncated_frames_go_to_stream_1(frame: bytes, headers: int) -> None:
    assert stream(frame[:headers]) in (FLOW[4], FLOW[6])
    for length in range(headers):
        assert stream(frame[:length]) == 1, length


def test_truncated_ip_options_go_to_stream_1() -> None:
    ping = ethernet(0x0800, ipv4(1, bytes(64), options=12))
    assert stream(ping) == EXPRESS
    assert stream(ping[:45]) == 1


@both
def test_wrong_version_nibble(version: int) -> None:
    frame = bytearray(packet(version, 17, udp()))
    frame[14] ^= 0xF0
    assert stream(bytes(frame)) == 1
    frame = bytearray(packet(4, 17, udp()))
    frame[14] = 0x44
    assert stream(bytes(frame)) == 1


@given(st.integers(0, 65_535), st.integers(0, 65_535), st.integers(1, 1400), st.booleans(), st.booleans())
def test_everything_of_a_connection_but_its_acks_is_one_flow(
    source: int, target: int, payload: int, six: bool, vlan: bool
) -> None:
    version, ports = (6 if six else 4), (source, target)
    frames = [tcp(SYN, ports=ports), tcp(ACK, payload, ports=ports), tcp(FIN | ACK, ports=ports)]
    frames.append(tcp(RST, options=0, ports=ports))
    assert len({stream(packet(version, 6, body, vlan=vlan)) for body in frames}) == 1


def test_connections_are_flows_of_their_own() -> None:
    """But for a few: as many as chance makes."""
    seen = {stream(packet(4, 6, tcp(ACK, 100, ports=(port, 443)))) for port in range(40_000, 40_100)}
    assert 90 <= len(seen) <= 100
    assert seen <= set(range(1, FLOWS + 1))


@given(st.binary(max_size=140), st.integers(0, 3000))
def test_noise_gets_some_stream(head: bytes, extra: int) -> None:
    length = len(head) + (extra if len(head) >= 128 else 0)
    assert 0 <= classify(memoryview(head), length) <= ACKS


@given(
    st.sampled_from(
        [packet(4, 6, tcp(ACK)), packet(6, 6, tcp(ACK)), packet(4, 17, udp(ports=(53, 1)), vlan=True)]
    ),
    st.lists(st.tuples(st.integers(12, 80), st.integers(0, 255)), max_size=3),
    st.integers(0, 120),
)
def test_damaged_frames_get_some_stream(frame: bytes, changes: list[tuple[int, int]], keep: int) -> None:
    damaged = bytearray(frame)
    for at, value in changes:
        if at < len(damaged):
            damaged[at] = value
    damaged = damaged[: max(keep, 1)]
    assert 0 <= classify(memoryview(damaged), len(damaged)) <= ACKS
