"""Which flows of UDP count as sparse."""

import pytest
from frames import VIRTIO_BYTES, ack, datagram, super_frame

from bondvpn.bond.sparse import DENSE_S, FRAMES_MAX, SLOTS, WINDOW_S, SparseFlows

NOW = 1000.0


def seen(frame: bytes) -> memoryview:
    """As the TAP gives it, behind the virtio header."""
    return memoryview(frame)[VIRTIO_BYTES:]


def udp(flow: int, number: int = 0, size: int = 200) -> memoryview:
    return seen(datagram(flow, number, size))


def ipv6(protocol: int = 17, port: int = 5000) -> memoryview:
    header = bytes((0x60, 0, 0, 0, 0, 100, protocol, 64)) + bytes(range(32))
    return memoryview(b"\2" * 12 + b"\x86\xdd" + header + port.to_bytes(2, "big") + bytes(98))


def test_a_call_stays_sparse_for_ever() -> None:
    """20 ms frames: 50 a second."""
    flows = SparseFlows()
    assert all(flows.admits(udp(1, i), NOW + i * 0.020) for i in range(3000))


def test_a_flow_is_dense_from_the_first_frame_too_many_until_it_has_paused() -> None:
    flows = SparseFlows()
    admitted = [flows.admits(udp(1, i), NOW + i * 0.001) for i in range(40)]
    assert admitted == [True] * FRAMES_MAX + [False] * (40 - FRAMES_MAX)
    dense_since = NOW + FRAMES_MAX * 0.001
    assert not flows.admits(udp(1), dense_since + DENSE_S - 0.01)
    assert flows.admits(udp(1), dense_since + DENSE_S + 0.01)


def test_a_dense_flow_that_goes_on_gets_a_few_frames_through_each_second() -> None:
    flows = SparseFlows()
    admitted = sum(flows.admits(udp(1, i), NOW + i * 0.001) for i in range(10_000))
    assert admitted <= 10 / DENSE_S * FRAMES_MAX


def test_what_a_window_counted_is_forgotten_with_it() -> None:
    flows = SparseFlows()
    for start in (NOW, NOW + 1.01 * WINDOW_S, NOW + 2.02 * WINDOW_S):
        assert all(flows.admits(udp(1, i), start) for i in range(FRAMES_MAX))


def test_a_dense_flow_leaves_the_others_alone() -> None:
    flows = SparseFlows()
    for i in range(100):
        flows.admits(udp(1, i), NOW)
    assert not flows.admits(udp(1), NOW)
    others = sum(flows.admits(udp(flow), NOW) for flow in range(2, 52))
    assert others >= 49, f"two of 50 in one of {SLOTS} slots is rare"


@pytest.mark.parametrize(
    "frame",
    [
        seen(ack(1, 1)),
        seen(super_frame(1, 0, 100, 1448)),
        udp(1)[:63],
        memoryview(bytes(100)),
        ipv6(protocol=6),
        ipv6(protocol=44),  # a fragment: its ports are elsewhere
    ],
    ids=["ack", "tcp", "cut", "zeros", "tcp6", "fragment6"],
)
def test_only_udp_counts(frame: memoryview) -> None:
    assert not SparseFlows().admits(frame, NOW)


def test_ipv6_flows_are_told_apart_by_their_ports() -> None:
    flows = SparseFlows()
    for _ in range(FRAMES_MAX):
        assert flows.admits(ipv6(), NOW)
    assert not flows.admits(ipv6(), NOW)
    assert flows.admits(ipv6(port=5001), NOW)


def test_ip_options_make_it_bulk() -> None:
    """Where its ports lie is not looked for."""
    frame = bytearray(udp(1))
    frame[14] = 0x46
    assert not SparseFlows().admits(memoryview(frame), NOW)
