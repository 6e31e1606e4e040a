"""Datagrams that come one by one are opened as those of one call are, where they could have come by one."""

from collections.abc import Sequence
from typing import Any

import pytest
from frames import super_frame
from tunnelends import INDEX, QuietLinks, Receiver, Sender

from bondvpn.datapath import LONE_S
from bondvpn.datapath.inbound import RUN_MIN, Inbound
from bondvpn.session.link import Link, Path
from bondvpn.stats import Drop
from bondvpn.wire.sealed import TIME_UNIT_S
from bondvpn.wire.transport import lane_index

ADDRESS = ("192.0.2.7", 4000)
APART_S = LONE_S / 4


def sealed_run(sender: Sender, frames: int = 1) -> list[bytes]:
    """A frame's datagrams, 14 that are full and a shorter one."""
    return [
        one.data
        for run in sender.send([super_frame(1, i * 20_000, 20_000, 1448) for i in range(frames)])
        for one in run
    ]


def one_by_one(receiver: Receiver, datagrams: Sequence[bytes], addresses: Sequence[Any] = ()) -> None:
    """What waits when somebody looks, each datagram in a call of its own."""
    for number, one in enumerate(datagrams):
        receiver.socket.feed([one], addresses[number] if addresses else ADDRESS)
    receiver.inbound.on_readable(receiver.socket, lambda: receiver.now)


def busy() -> Receiver:
    """Nothing comes out of silence, and both lanes have been heard of."""
    receiver = Receiver()
    for number in (0, 1):
        assert receiver.table.find(lane_index(INDEX, number)) is not None
    receiver.inbound._came_at = receiver.now
    receiver.session.links[0] = Link(0, "a", QuietLinks(), receiver.drops)
    return receiver


def told(receiver: Receiver) -> tuple[Any, ...]:
    lane = receiver.keypair.receive_lane(0)
    link = receiver.session.links[0]
    arrivals = lane.arrivals
    return (
        receiver.tap.written,
        receiver.drops.as_dict(),
        (lane.window.highest, lane.window.received),
        (link.rx_datagrams, link.rx_bytes),
        (arrivals.frame_bytes, arrivals.news, arrivals.gap),
    )


def test_it_makes_no_difference() -> None:
    datagrams = sealed_run(Sender())
    run, single = busy(), busy()
    run.receive(datagrams)
    one_by_one(single, datagrams)
    assert told(single) == told(run)
    assert single.reassembly.frames == 1


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The lengths of the datagrams that were opened by themselves."""
    lengths: list[int] = []
    single = Inbound._single

    def counted(inbound: Inbound, start: int, end: int, path: Path, now: float) -> None:
        lengths.append(end - start)
        single(inbound, start, end, path, now)

    monkeypatch.setattr(Inbound, "_single", counted)
    return lengths


def test_all_but_the_shorter_last_are_opened_at_once(alone: list[int]) -> None:
    datagrams = sealed_run(Sender())
    one_by_one(busy(), datagrams)
    assert alone == [len(datagrams[-1])]


def test_less_than_a_run_is_opened_one_by_one() -> None:
    receiver = busy()
    one_by_one(receiver, sealed_run(Sender())[: RUN_MIN - 1])
    assert receiver.session.links[0].rx_datagrams == RUN_MIN - 1


@pytest.mark.parametrize("lost", [0, 1, 6, 13])
def test_a_lost_one_parts_it(lost: int, alone: list[int]) -> None:
    datagrams = sealed_run(Sender())
    del datagrams[lost]
    receiver = busy()
    one_by_one(receiver, datagrams)
    window = receiver.keypair.receive_lane(0).window
    assert window.received == len(datagrams)
    assert receiver.drops.as_dict() == {}
    assert len(alone) == (lost if lost < RUN_MIN else 0) + 1


@pytest.mark.parametrize("forged", [0, 1, 6, 13])
def test_a_forged_one_takes_no_other_with_it(forged: int) -> None:
    datagrams = sealed_run(Sender())
    datagrams[forged] = datagrams[forged][:-1] + bytes([datagrams[forged][-1] ^ 1])
    receiver = busy()
    one_by_one(receiver, datagrams)
    assert receiver.drops.as_dict() == {"auth": 1}
    assert receiver.keypair.receive_lane(0).window.received == len(datagrams) - 1


def test_nor_does_a_repeated_one() -> None:
    datagrams = sealed_run(Sender())
    receiver = busy()
    one_by_one(receiver, [*datagrams[:8], datagrams[3], *datagrams[8:]])
    assert receiver.drops.as_dict() == {"replay": 1}
    assert receiver.reassembly.frames == 1


def test_a_strangers_datagrams_between_ours() -> None:
    datagrams = sealed_run(Sender())
    receiver = busy()
    stranger = b"\xff" * len(datagrams[0])
    one_by_one(receiver, [*datagrams[:5], stranger, *datagrams[5:10], b"", b"short", *datagrams[10:]])
    assert receiver.handshakes == [stranger]
    assert receiver.count(Drop.SHORT) == 2
    assert receiver.reassembly.frames == 1


def test_two_lanes_by_turns() -> None:
    sender, receiver = Sender(), busy()
    lanes = [sender.keypair.send_lane(number) for number in (0, 1)]
    body = bytes([1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]) + bytes(500)
    turns = [lanes[i % 2].seal(body) for i in range(20)]
    one_by_one(receiver, turns)
    assert [receiver.keypair.receive_lane(number).window.received for number in (0, 1)] == [10, 10]


def test_the_peers_address_changes_within() -> None:
    datagrams = sealed_run(Sender())[:14]
    elsewhere = ("192.0.2.8", 5000)
    receiver = busy()
    one_by_one(receiver, datagrams, [ADDRESS] * 6 + [elsewhere] * (len(datagrams) - 6))
    assert receiver.session.moves[-1] == elsewhere


def test_a_call_of_many_behind_a_single_one() -> None:
    datagrams = sealed_run(Sender(), 3)
    receiver = busy()
    receiver.socket.feed(datagrams[:1])
    receiver.socket.feed(datagrams[1:15])
    receiver.socket.feed(datagrams[15:30])
    for one in datagrams[30:]:
        receiver.socket.feed([one])
    receiver.inbound.on_readable(receiver.socket, lambda: receiver.now)
    assert receiver.drops.as_dict() == {}
    assert receiver.reassembly.frames == 3


def test_what_is_larger_than_any_of_ours_finds_room() -> None:
    sender, receiver = Sender(), busy()
    datagrams = [sender.keypair.send_lane(0).seal(bytes([9]) + bytes(9000)) for _ in range(20)]
    one_by_one(receiver, datagrams)
    while receiver.socket.calls:
        receiver.inbound.on_readable(receiver.socket, lambda: receiver.now)
    assert receiver.drops.as_dict() == {"short": 20}


def test_each_is_told_of_by_its_own_time() -> None:
    """The first one's delay, since later ones left later too, and what had come when the last one did."""
    receiver = busy()
    datagrams = sealed_run(Sender())[:14]
    for one in datagrams:
        receiver.socket.feed([one])
    times = iter(receiver.now + APART_S * number for number in range(100))
    receiver.inbound.on_readable(receiver.socket, lambda: next(times))
    arrivals = receiver.keypair.receive_lane(0).arrivals
    first, last = receiver.now, receiver.now + 13 * APART_S
    assert arrivals.at == pytest.approx(last)
    delay, _ = arrivals.take(13)
    prompt = busy()
    prompt.receive(datagrams[:1])
    expected, _ = prompt.keypair.receive_lane(0).arrivals.take(0)
    assert delay == expected
    assert last - first > 10 * TIME_UNIT_S
