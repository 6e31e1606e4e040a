"""Seeded mutations of genuine datagrams, and authentic nonsense: nothing raises, the tunnel lives."""

import random
from typing import Any

import pytest
from frames import datagram, super_frame
from tunnelends import Receiver, Sender
from virtualnet import Line, World

from bondvpn.stats import Drop
from bondvpn.wire import feedback
from bondvpn.wire.feedback import LaneReport
from bondvpn.wire.sealed import CLOSE, DATA

ROUNDS = 300


def mutated(rng: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """One to three flips, cuts, insertions, or pieces of another datagram."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(changed) + 1)
        match rng.randrange(5):
            case 0 if changed:
                changed[at % len(changed)] ^= rng.randint(1, 255)
            case 1:
                del changed[at : at + rng.randint(1, 60)]
            case 2:
                changed[at:at] = rng.randbytes(rng.randint(1, 60))
            case 3:
                changed[at:] = rng.choice(others)[at:]
            case _:
                changed[: rng.randint(1, 20)] = rng.randbytes(rng.randint(1, 20))
    return bytes(changed)


@pytest.mark.parametrize("seed", range(6))
def test_mutations_of_what_both_ends_sent_change_nothing(seed: int) -> None:
    world = World([Line(0), Line(1)], seed=seed)
    client, server = world.start()
    world.wait(world.all_active, 5)
    frames = [super_frame(1, i * 5000, 5000, 1448) for i in range(20)] + [
        datagram(2, i, 300) for i in range(20)
    ]
    client.tap.frames.extend(frames)
    server.tap.frames.extend(frames)
    world.run(1)
    assert sorted(client.tap.written) == sorted(server.tap.written) == sorted(frames)
    rng = world.rng
    seen = [one.data for one in world.seen]
    sessions = client.session, server.session
    for _ in range(ROUNDS):
        line = rng.choice(world.lines)
        forged = mutated(rng, rng.choice(seen), seen)
        world.inject(forged, line, to_server=rng.random() < 0.5, source=("192.0.2.99", 9))
    world.run(5)
    assert (client.session, server.session) == sessions
    assert world.all_active()
    assert len(client.tap.written) == len(server.tap.written) == 40
    assert world.sent_to["192.0.2.99", 9] == 0
    dropped = sum(client.dropped.values()) + sum(server.dropped.values())
    assert dropped >= ROUNDS * 0.9
    for end in (client, server):
        assert end.count(Drop.SEALED) == end.count(Drop.VIRTIO) == 0


@pytest.mark.parametrize("seed", range(6))
def test_runs_of_mutations_into_the_datapath(seed: int) -> None:
    """As GRO would hand them over: equal sizes, some genuine among the forged."""
    print(f"seed {seed}")
    rng = random.Random(seed)
    sender, receiver = Sender(3), Receiver()
    frames = [super_frame(1 + i % 3, i * 30_000, 30_000, 1448) for i in range(12)]
    runs = [[one.data for one in run] for run in sender.send(frames)]
    everything = [one for run in runs for one in run]
    for run in runs:
        made = list(run)
        for _ in range(rng.randint(1, 6)):
            at = rng.randrange(len(made))
            forged = mutated(rng, made[at], everything)[: len(run[0])]
            made[at] = forged.ljust(len(run[0]), b"\0") if at < len(made) - 1 else forged or b"\0"
        receiver.receive(made)
        receiver.now += 0.01
        receiver.reassembly.poll(receiver.now)
    receiver.receive_each(everything)
    receiver.now += 1
    receiver.reassembly.poll(receiver.now)
    assert receiver.count(Drop.SEALED) == receiver.count(Drop.VIRTIO) == 0
    assert receiver.session.control == []


@pytest.mark.parametrize("seed", range(6))
def test_authentic_nonsense_raises_nothing(seed: int) -> None:
    """A peer that holds the keys and means no good: any sealed bytes, of every kind but CLOSE."""
    world = World([Line(0), Line(1)], seed=seed)
    client, server = world.start()
    world.wait(world.all_active, 5)
    rng = world.rng
    for _ in range(ROUNDS):
        for end, to_server in ((client, True), (server, False)):
            assert end.session is not None
            sealed = bytearray(rng.randbytes(rng.choice([1, 7, 9, 10, 11, 25, 100, 1400])))
            sealed[0] = rng.choice([kind for kind in (*range(9), 255) if kind != CLOSE])
            if sealed[0] == DATA and len(sealed) > 6:
                sealed[1] = rng.randrange(18)
                sealed[2:6] = rng.choice([0, 1, 2, 3, 300, 2**31, 2**32 - 1]).to_bytes(4, "big")
            lane = end.session.current.send_lane(rng.choice([0, 1, 1, 5]))
            world.inject(lane.seal(bytes(sealed)), world.lines[lane.index & 1], to_server=to_server)
        world.run(0.01)
    world.run(3)
    assert len(client.logged("session")) == len(server.logged("session")) == 1
    assert len(server.session.links) <= 32
    assert client.count(Drop.SEALED) > 10
    assert server.count(Drop.SEALED) > 10


@pytest.mark.parametrize("seed", range(4))
def test_authentic_reports_of_anything_raise_nothing_and_leak_nothing(seed: int) -> None:
    """A peer that holds the keys tells lies of what came, while data flows both ways; then it stops lying."""
    world = World([Line(0), Line(1)], seed=seed)
    client, server = world.start("adaptive")
    world.wait(world.all_active, 5)
    rng = world.rng
    for step in range(ROUNDS):
        for end, other, to_server in ((client, server, True), (server, client, False)):
            end.tap.frames.append(super_frame(1 + step % 3, step * 5000, 5000, 1448))
            assert end.session is not None
            assert other.session is not None
            reports = [lie(rng, other) for _ in range(rng.randint(1, 3))]
            lane = end.session.current.send_lane(rng.choice([0, 1]))
            world.inject(lane.seal(feedback.emit(reports)), world.lines[lane.index & 1], to_server=to_server)
        world.run(0.01)
    world.run(5)
    assert len(client.logged("session")) == len(server.logged("session")) == 1
    assert client.count(Drop.SEALED) > 10
    assert server.count(Drop.SEALED) > 10
    for end in (client, server):
        assert not end._out.waiting
        assert end._out._slab.in_use == sum(
            piece.n
            for link in end.session.links.values()
            for piece in link.send_lane.flight.drain()
            if piece.load is not None
        )
    assert world.all_active()


def lie(rng: random.Random, teller: Any) -> LaneReport:
    """About a lane of the teller's, mostly; its counters near what was sent, mostly."""
    lane = teller.session.current.send_lane(rng.choice([0, 0, 1, 1, 5]))
    gaps, below = [], 0
    for _ in range(rng.choice([0, 0, 1, 3, 50])):
        gaps.append((below + rng.randint(1, 9), rng.randint(1, 40)))
        below = sum(gaps[-1]) - 1
    return LaneReport(
        rng.choice([lane.index, lane.index, lane.index, rng.getrandbits(32)]),
        rng.choice([max(lane.counter - rng.randint(0, 20), 0), lane.counter - 1, lane.counter + 5])
        & 0xFFFFFFFF,
        rng.getrandbits(32),
        rng.getrandbits(32),
        rng.getrandbits(16),
        rng.getrandbits(16),
        min(below + rng.randint(1, 300), 65_535),
        tuple(gaps),
    )
