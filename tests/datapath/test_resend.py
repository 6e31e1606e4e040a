"""What the outbound side does with what its lines lost: sent again first and elsewhere, or given up."""

import random

import pytest
from frames import ack, datagram, super_frame
from tunnelends import Datagram, Receiver, Sender

from bondvpn.bond.adaptive import COPY_SHARE, Adaptive, Redundant
from bondvpn.bond.reorder import HOLD_S
from bondvpn.datapath.backlog import RESEND_WITHIN_S, TRIES_MAX
from bondvpn.datapath.slab import CHUNK_MAX_BYTES
from bondvpn.session.link import Link
from bondvpn.wire.sealed import EXPRESS

SLOW_BPS = 5_000_000


def counters_of(runs: list[list[Datagram]], link: Link) -> list[int]:
    mine = [one.data for run in runs for one in run if one.address == link.number]
    return [int.from_bytes(data[8:16], "big") for data in mine]


def report(sender: Sender, link: Link, missing: set[int]) -> int:
    """The peer has all that left by `link` but `missing`; how many chunks that makes lost."""
    highest = link.send_lane.counter - 1 + 3  # later ones came: what is missing is lost
    gaps = [(0, 3), *((highest - counter, 1) for counter in sorted(missing, reverse=True))]
    outcome = link.send_lane.flight.report(highest, gaps, highest + 1)
    sender.out.came(outcome.came)
    sender.out.lost(link, outcome.lost, sender.now)
    return outcome.lost_count


def opened(runs: list[list[Datagram]]) -> list[tuple[int, int, int]]:
    """(lane, stream, sequence) of each datagram, in the order they left."""
    receiver = Receiver()
    found: list[tuple[int, int, int]] = []

    def note(lane: object, stream: int, sequence: int, chunks: list[memoryview], *_: object) -> None:
        found.extend((lane.number, stream, sequence + i) for i in range(len(chunks)))  # type: ignore[attr-defined]

    receiver.inbound._deliver = note  # type: ignore[method-assign, assignment]
    receiver.receive_each(one.data for run in runs for one in run)
    return found


def test_a_lost_chunk_leaves_again_before_what_waits_and_by_another_line() -> None:
    sender = Sender(2, rate_bps=SLOW_BPS)
    sender.tap.frames.extend(super_frame(1, i * 60_000, 60_000, 1448) for i in range(3))
    sender.out.on_readable(sender.now)
    first = sender.taken()
    assert sender.out.queued > 0
    loser, other = sender.links
    lost = opened([[one for run in first for one in run if one.address == 0][:1]])
    assert report(sender, loser, {0}) == 1
    sender.now += 1.0
    sender.out.dispatch(sender.now)
    again = opened(sender.taken())
    assert again[0] == (other.number, *lost[0][1:])
    assert len(again) > 1, "what waits follows"
    assert (loser.resent_chunks, other.resent_chunks) == (0, 1)
    assert sender.out.waiting


def test_a_lost_chunk_takes_a_new_counter_and_arrives_whole() -> None:
    sender, receiver = Sender(2), Receiver()
    frame = super_frame(1, 0, 20_000, 1448)
    runs = sender.send([frame])
    (lane,) = {one.address for run in runs for one in run}
    kept = [one.data for run in runs for one in run]
    receiver.receive_each(kept[:4] + kept[6:])
    report(sender, sender.links[lane], {4, 5})
    assert sender.out.waiting
    sender.out.dispatch(sender.now)
    again = sender.taken()
    assert sum(len(run) for run in again) == 2
    assert sorted(counters_of(again, sender.links[1 - lane])) == [0, 1]
    receiver.receive_each(one.data for run in again for one in run)
    assert receiver.tap.written == [frame]
    assert not sender.out.waiting


def test_what_a_line_is_late_with_leaves_by_the_idle_one_too_and_only_once() -> None:
    sender, receiver = bonded(Adaptive()), Receiver()
    frame = super_frame(1, 0, 6000, 1448)
    sender.tap.frames.append(frame)
    sender.out.on_readable(sender.now)
    first = sender.taken()
    (lane,) = {one.address for run in first for one in run}
    late, idle = sender.links[lane], sender.links[1 - lane]
    due = sender.out.hasten(sender.now)
    assert due == late.late_at > sender.now
    assert sender.taken() == []
    under_way, sender.now = late.in_flight, due
    assert sender.out.hasten(sender.now) == idle.late_at
    again = sender.taken()
    assert {one.address for run in again for one in run} == {idle.number}
    assert [place[1:] for place in opened(again)] == [place[1:] for place in opened(first)]
    assert late.in_flight == under_way, "it may still come: no more may leave by this line"
    receiver.receive_each(one.data for run in again for one in run)
    receiver.receive_each(one.data for run in first for one in run)
    assert receiver.tap.written == [frame]
    report(sender, idle, set())
    assert sender.out._slab.in_use == 0
    sender.out.lost(late, late.drain(), sender.now)
    assert not sender.out.waiting, "the other has brought it"


def test_nothing_is_hastened_while_something_waits_or_all_lines_are_late() -> None:
    sender = bonded(Adaptive())
    for link in sender.links:
        link.capacity.window = 40_000
    sender.tap.frames.extend(super_frame(1, i * 30_000, 30_000, 1448) for i in range(3))
    sender.out.on_readable(sender.now)
    assert sender.out.waiting
    assert sender.out.hasten(sender.now + 9) == float("inf")
    for link in sender.links:
        link.capacity.window = 1e9
    for _ in range(10):
        sender.now += 0.001
        sender.out.dispatch(sender.now)
    assert not sender.out.waiting
    assert all(link.in_flight for link in sender.links)
    sender.taken()
    sender.now += 9
    assert sender.now < sender.out.hasten(sender.now) < sender.now + 1
    assert sender.taken() == []


def test_the_only_line_sends_it_again_itself() -> None:
    sender = Sender(1)
    sender.send([super_frame(1, 0, 5000, 1448)])
    report(sender, sender.links[0], {1})
    sender.out.dispatch(sender.now)
    assert [sequence for *_, sequence in opened(sender.taken())] == [1]


def test_slots_are_free_when_everything_came() -> None:
    sender = Sender(2)
    sender.send([super_frame(1, 0, 60_000, 1448), ack(1, 1)])
    assert sender.out._slab.in_use == -(-(60_000 + 66) // CHUNK_MAX_BYTES) + 1
    for link in sender.links:
        report(sender, link, set())
    assert sender.out._slab.in_use == 0
    assert all(link.in_flight == 0 for link in sender.links)


def test_a_chunk_is_given_up_after_its_tries() -> None:
    sender = Sender(1)
    sender.send([super_frame(1, 0, 100, 1448)])
    link = sender.links[0]
    for _ in range(TRIES_MAX):
        assert report(sender, link, {link.send_lane.counter - 1}) == 1
        sender.out.dispatch(sender.now)
        assert sum(len(run) for run in sender.taken()) == 1
    report(sender, link, {link.send_lane.counter - 1})
    sender.out.dispatch(sender.now)
    assert sender.taken() == []
    assert sender.out._slab.in_use == 0
    assert link.resent_chunks == TRIES_MAX


@pytest.mark.parametrize(("age_s", "again"), [(0.9 * RESEND_WITHIN_S, 1), (1.1 * RESEND_WITHIN_S, 0)])
def test_what_nobody_waits_for_any_more_is_not_sent_again(age_s: float, again: int) -> None:
    sender = Sender(1)
    sender.send([super_frame(1, 0, 100, 1448)])
    sender.now += age_s
    report(sender, sender.links[0], {0})
    sender.out.dispatch(sender.now)
    assert sum(len(run) for run in sender.taken()) == again
    assert sender.out._slab.in_use == again


def test_what_was_under_way_by_a_dead_line_leaves_by_the_others() -> None:
    sender, receiver = Sender(2, rate_bps=50_000_000), Receiver()
    frames = [super_frame(1, i * 60_000, 60_000, 1448) for i in range(5)]
    runs = sender.send(frames)
    receiver.receive_each(one.data for run in runs for one in run if one.address == 0)
    dead = sender.links[1]
    sender.scheduler.set_lines(sender.links[:1])
    sender.out.lost(dead, dead.drain(), sender.now)
    while sender.out.waiting:
        sender.now += 0.001
        sender.out.dispatch(sender.now)
    again = sender.taken()
    assert {one.address for run in again for one in run} == {0}
    receiver.receive_each(one.data for run in again for one in run)
    assert receiver.tap.written == frames
    report(sender, sender.links[0], set())
    assert sender.out._slab.in_use == 0


@pytest.mark.parametrize("seed", range(4))
def test_whatever_is_lost_each_frame_arrives_once_or_its_chunk_was_tried_often(seed: int) -> None:
    """10 % loss on each of three lines: three in 10,000 chunks fail all their tries."""
    print(f"seed {seed}")
    rng = random.Random(seed)
    sender, receiver = Sender(3, rate_bps=50_000_000), Receiver()
    frames = [super_frame(1 + i % 4, i * 30_000, 30_000, 1448) for i in range(60)]
    sender.tap.frames.extend(frames)
    missing: dict[int, set[int]] = {link.number: set() for link in sender.links}
    while sender.tap.frames or sender.out.waiting or any(link.in_flight for link in sender.links):
        if sender.out.queued < 300_000:
            sender.out.on_readable(sender.now)
        sender.out.dispatch(sender.now)
        for run in sender.taken():
            for one in run:
                if rng.random() < 0.1:
                    missing[one.address].add(int.from_bytes(one.data[8:16], "big"))
                else:
                    receiver.receive([one.data])
        for link in sender.links:
            report(sender, link, missing[link.number])
        sender.now += 0.002
    receiver.now += HOLD_S
    receiver.reassembly.poll(receiver.now)
    assert sender.out._slab.in_use == 0
    lost = sender.out._lost.given_up
    assert len(set(frames) - set(receiver.tap.written)) <= lost <= 3
    assert len(set(receiver.tap.written)) == len(receiver.tap.written)


# -- more than one copy -----------------------------------------------------------------------------
def bonded(scheduler: Adaptive[Link]) -> Sender:
    sender = Sender(2)
    for link, delay_s in zip(sender.links, (0.010, 0.030), strict=True):
        link.capacity.delays._base_delay.add(delay_s, sender.now)
        link.capacity.window = 1e9
        link.capacity.carries.mean = 1e8
        link.capacity.report_s = 0.010
    scheduler.set_lines(sender.links)
    sender.out._scheduler = scheduler
    return sender


def test_express_leaves_by_two_lines_within_its_budget_and_arrives_once() -> None:
    sender, receiver = bonded(Adaptive()), Receiver()
    bulk = [super_frame(1, i * 60_000, 60_000, 1448) for i in range(2)]
    for frame in bulk:
        sender.tap.frames.append(frame)
        sender.out.on_readable(sender.now)
        sender.now += 0.01
    runs = sender.taken()
    calls = [datagram(1, i, 100, port=53) for i in range(50)]
    for frame in calls:
        sender.tap.frames.append(frame)
        sender.out.on_readable(sender.now)
        sender.now += 0.01
    sent = sender.taken()
    found = opened(sent)
    assert {stream for _, stream, _ in found} == {EXPRESS}
    first = [sequence for lane, _, sequence in found if lane == 0]
    copies = [sequence for lane, _, sequence in found if lane == 1]
    assert first == list(range(50))
    assert 0 < len(copies) < 50
    frame_overhead = sender.links[0].frame_overhead
    total = sum(len(one.data) + frame_overhead for run in [*runs, *sent] for one in run)
    assert 0.5 < len(copies) * (len(sent[0][0].data) + frame_overhead) / (COPY_SHARE * total) <= 1.0
    receiver.receive_each(one.data for run in sent for one in run)
    assert receiver.tap.written == calls
    for link in sender.links:
        report(sender, link, set())
    assert sender.out._slab.in_use == 0


def test_redundant_sends_each_chunk_by_every_line_and_the_first_copy_counts() -> None:
    sender, receiver = bonded(Redundant()), Receiver()
    frame = super_frame(1, 0, 20_000, 1448)
    sender.tap.frames.append(frame)
    sender.out.on_readable(sender.now)
    for _ in range(200):
        sender.now += 0.001
        sender.out.dispatch(sender.now)
    runs = sender.taken()
    sequences = [[one[2] for one in opened(runs) if one[0] == lane] for lane in (0, 1)]
    assert sequences[0] == sequences[1] == list(range(15))
    receiver.receive_each(one.data for run in runs for one in run if one.address == 1)
    assert receiver.tap.written == [frame]
    receiver.receive_each(one.data for run in runs for one in run if one.address == 0)
    assert receiver.tap.written == [frame]
    report(sender, sender.links[1], {0, 1, 2})
    report(sender, sender.links[0], set())
    assert sender.out._slab.in_use == 0
    assert not sender.out.waiting, "a mirrored chunk that is lost needs no resend"
