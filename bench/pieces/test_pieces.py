"""pytest-benchmark of the hot path's pieces; each says how many datagrams a round of it handles.

Run by `python -m bench pieces`, which turns the times into costs per datagram. What stands in for the TAP
is a file in memory, read by one `preadv` as the TAP is by one `readv`; what stands in for the sockets takes
all and does nothing, so their share of the real path is missing here.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from frames import TCP_OVERHEAD_BYTES, super_frame
from pytest_benchmark.fixture import BenchmarkFixture
from tunnelends import Receiver, Sender

from bondvpn.bond.reorder import Reorder
from bondvpn.datapath.outbound import QUEUE_MAX_BYTES
from bondvpn.datapath.reassembly import Reassembly
from bondvpn.datapath.slab import CHUNK_MAX_BYTES, drain, run_frame_bytes
from bondvpn.noise.lanes import aead
from bondvpn.noise.replay import ReplayWindow
from bondvpn.session.link import Link, Path, Sent
from bondvpn.stats import Drops
from bondvpn.wire.capabilities import AES_256_GCM
from bondvpn.wire.sealed import NO_RECORD, SEQUENCE_MASK
from bondvpn.wire.transport import HEADER_LEN, NONCE_LEN, TAG_LEN

LINKS = (1, 2, 4, 8, 16)
DEPTHS = (1, 16, 64, 256, 1024, 4096)
AEAD_BYTES = (16, CHUNK_MAX_BYTES, 60_000)  # next to nothing, a datagram's, and as if a run were one
MSS = 1448
SEGMENTS = (run_frame_bytes(CHUNK_MAX_BYTES) - TCP_OVERHEAD_BYTES) // MSS  # of the largest super-frame
FRAME = super_frame(1, 0, SEGMENTS * MSS, MSS)
FRAME_CHUNKS = -(-(len(FRAME) + 2) // CHUNK_MAX_BYTES)
FRAMES = 16  # a round: what one wake-up reads
RUN = 44  # datagrams of one GSO call
WARM_UP, ROUNDS = 10, 100

grows_with_links = pytest.mark.parametrize("links", LINKS)
grows_with_depth = pytest.mark.parametrize("depth", DEPTHS)


class MemoryTap:
    """Gives FRAME as often as `left` says, and swallows what is written."""

    def __init__(self) -> None:
        self._fd = os.memfd_create("bondvpn-bench")
        os.write(self._fd, FRAME)
        self.left = 0

    def read_into(self, buffers: Sequence[memoryview]) -> int:
        if not self.left:
            return 0
        self.left -= 1
        return os.preadv(self._fd, buffers, 0)

    def write(self, _parts: Sequence[Any]) -> bool:
        return True

    def close(self) -> None:
        os.close(self._fd)


class Sinkhole:
    """A socket that takes every run."""

    ipv6 = False
    gso = True
    gso_fallbacks = 0
    last_error = ""

    def send_run(
        self, run: memoryview, _segment: int, _address: Any, _local: bytes = b""
    ) -> tuple[Sent, int]:
        return Sent.OK, len(run)


def rounds(
    benchmark: BenchmarkFixture,
    piece: str,
    at: dict[str, int],
    datagrams: int,
    target: Callable[..., object],
    setup: Callable[[], tuple[tuple[Any, ...], dict[str, Any]] | None] | None = None,
) -> None:
    """Measure `target`, which handles that many datagrams; `at` is what the piece grows with."""
    benchmark.extra_info |= {"piece": piece, "at": at, "datagrams": datagrams}
    benchmark.pedantic(target, setup=setup, rounds=ROUNDS, warmup_rounds=WARM_UP)


@pytest.fixture
def tap() -> Any:
    tap = MemoryTap()
    yield tap
    tap.close()


def sender_of(links: int, tap: MemoryTap) -> Sender:
    """A sender over that many links of unlimited speed, whose sockets are sinkholes."""
    sender = Sender(links)
    sender.out._tap = tap
    for link in sender.links:
        link.set_path(Path(Sinkhole(), link.number))  # type: ignore[arg-type]
    return sender


def block(links: Sequence[Link], blocked: bool) -> None:
    for link in links:
        link.blocked = blocked


def empty(sender: Sender) -> None:
    """All that waits leaves, and comes."""
    block(sender.links, False)
    sender.out.dispatch(sender.now)
    for link in sender.links:
        sender.out.came(link.drain())


# -- out ----------------------------------------------------------------------------------------------
@grows_with_links
def test_chunking(benchmark: BenchmarkFixture, tap: MemoryTap, links: int) -> None:
    """Read, classify, pack: super-frames into chunks, while no line has room."""
    sender = sender_of(links, tap)

    def setup() -> None:
        empty(sender)
        block(sender.links, True)
        tap.left = FRAMES

    rounds(
        benchmark,
        "chunking (read, classify, pack)",
        {"links": links},
        FRAMES * FRAME_CHUNKS,
        lambda: sender.out.on_readable(sender.now),
        setup,
    )
    assert tap.left == 0
    assert sender.out.queued >= FRAMES * len(FRAME)


@grows_with_links
def test_seal_runs(benchmark: BenchmarkFixture, tap: MemoryTap, links: int) -> None:
    """Dispatch and seal what waits."""
    sender = sender_of(links, tap)

    def setup() -> None:
        empty(sender)
        block(sender.links, True)
        tap.left = FRAMES
        sender.out.on_readable(sender.now)
        block(sender.links, False)

    rounds(
        benchmark,
        "dispatch and seal",
        {"links": links},
        FRAMES * FRAME_CHUNKS,
        lambda: sender.out.dispatch(sender.now),
        setup,
    )
    assert sender.out.queued == 0


@pytest.mark.parametrize("length", AEAD_BYTES)
def test_aead_alone(benchmark: BenchmarkFixture, length: int) -> None:
    """The calls that seal a run, with nothing around them: no tunnel in Python costs less."""
    seal = aead(AES_256_GCM, bytes(32)).encrypt_into
    sizes = NONCE_LEN, length, HEADER_LEN, length + TAG_LEN  # of nonce, data, associated data, output
    arguments = [[memoryview(bytearray(size))] * RUN for size in sizes]
    rounds(benchmark, "AEAD alone", {"bytes": length}, RUN, lambda: drain(map(seal, *arguments)))


@grows_with_links
def test_scheduler_decision(benchmark: BenchmarkFixture, links: int) -> None:
    """Which line takes the next run, and accounting for it."""
    sender = Sender(links, rate_bps=1_000_000_000)
    scheduler = sender.scheduler
    run_bytes = RUN * 1514
    now = [sender.now]

    def decide() -> None:
        for _ in range(FRAMES):
            now[0] += 1.0  # every line has room again
            choice = scheduler.next(now[0], run_bytes, QUEUE_MAX_BYTES)
            if choice is not None:
                scheduler.spent(choice[0], run_bytes)

    rounds(benchmark, "scheduler decision", {"links": links}, FRAMES * RUN, decide)
    assert all(link.served_s > 0 for link in sender.links)


# -- in -----------------------------------------------------------------------------------------------
class Opener(Receiver):
    """Inbound without what comes behind it."""

    deaf = True

    def reassembly_of(self, session: Any) -> Any:
        return None if self.deaf else super().reassembly_of(session)


@grows_with_links
@pytest.mark.parametrize("deaf", [True, False])
def test_open_runs(benchmark: BenchmarkFixture, links: int, deaf: bool) -> None:
    """A run of each link, opened, checked against replay and sorted; then with reassembly behind it."""
    receiver = Opener()
    receiver.deaf = deaf
    receiver.reassembly = Reassembly(MemoryTap(), receiver.drops, uso=True)
    sender = Sender(links)
    receiver.session.links = {i: Link(i, f"line{i}", sender.observer, receiver.drops) for i in range(links)}

    def setup() -> None:
        frames = [super_frame(1, i * len(FRAME), SEGMENTS * MSS, MSS) for i in range(links)]
        for run in sender.send(frames):
            receiver.socket.feed([one.data for one in run], ("192.0.2.7", 4000))

    def receive() -> None:
        while receiver.socket.calls:
            receiver.inbound.on_readable(receiver.socket, lambda: receiver.now)

    setup()
    datagrams = sum(-(-len(data) // segment) for data, segment, _ in receiver.socket.calls)
    piece = "open, replay, sort" if deaf else "open, replay, sort, reassemble"
    rounds(benchmark, piece, {"links": links}, datagrams, receive, setup)
    assert receiver.drops.as_dict() == {}
    assert all(link.last_received == receiver.now for link in receiver.session.links.values())


@grows_with_links
def test_replay_window(benchmark: BenchmarkFixture, links: int) -> None:
    """A run of each link's lane, in order."""
    windows = [ReplayWindow() for _ in range(links)]
    first = [0]

    def accept() -> None:
        for _ in range(FRAMES):
            for window in windows:
                window.accept_run(first[0], RUN)
            first[0] += RUN

    rounds(benchmark, "replay window, runs", {"links": links}, FRAMES * RUN * links, accept)
    assert all(window.received == first[0] for window in windows)


@grows_with_links
def test_replay_window_one_by_one(benchmark: BenchmarkFixture, links: int) -> None:
    windows = [ReplayWindow() for _ in range(links)]
    first = [0]

    def accept() -> None:
        for counter in range(first[0], first[0] + RUN):
            for window in windows:
                window.accept(counter)
        first[0] += RUN

    rounds(benchmark, "replay window, one by one", {"links": links}, RUN * links, accept)
    assert all(window.received == first[0] for window in windows)


def chunks_of_a_frame() -> list[memoryview]:
    record = memoryview(len(FRAME).to_bytes(2, "big") + FRAME)
    padded = memoryview(bytes(record) + bytes(-len(record) % CHUNK_MAX_BYTES))
    return [padded[at : at + CHUNK_MAX_BYTES] for at in range(0, len(padded), CHUNK_MAX_BYTES)]


@grows_with_links
def test_reassembly(benchmark: BenchmarkFixture, links: int) -> None:
    """Runs that `links` lines brought in turns: in order, but the first line's comes last of each turn."""
    drops = Drops()
    reassembly = Reassembly(MemoryTap(), drops, uso=True)
    chunks = chunks_of_a_frame()
    offsets = [0] + [NO_RECORD] * (len(chunks) - 1)
    count = len(chunks)
    sequence = [0]

    def receive() -> None:
        base = sequence[0]
        for turn in [*range(1, links), 0]:
            reassembly.receive_run(1, base + turn * count & SEQUENCE_MASK, chunks, offsets, 0.0, 0.0)
        sequence[0] = base + links * count

    rounds(benchmark, "reassembly, one line late", {"links": links}, links * count, receive)
    assert drops.as_dict() == {}
    assert reassembly.frames == sequence[0] // count > 0


@grows_with_depth
def test_reorder(benchmark: BenchmarkFixture, depth: int) -> None:
    """`depth` chunks are held behind a gap, then it closes and they leave in order."""
    reorder: Reorder[int] = Reorder()

    def hold_and_release() -> None:
        first = reorder.expected
        for place in range(first + 1, first + depth + 1):
            reorder.hold(place, 0, 0.0, 0.0)
        reorder.hold(first, 0, 0.0, 0.0)
        while reorder.pop(0.0) is not None:
            pass

    rounds(benchmark, "reorder, held and released", {"depth": depth}, depth + 1, hold_and_release)
    assert not reorder.held
    assert reorder.expected > depth
    assert reorder.expected % (depth + 1) == reorder.late == 0


@grows_with_depth
def test_the_deadline_behind_a_gap(benchmark: BenchmarkFixture, depth: int) -> None:
    """What each wake-up asks while chunks are held: must not grow with how many."""
    reorder: Reorder[int] = Reorder()
    for place in range(1, depth + 1):
        reorder.hold(place, 0, 1.0, 1.0)

    def ask() -> None:
        for _ in range(RUN):
            reorder.deadline(0.0)

    rounds(benchmark, "reorder, deadline asked", {"depth": depth}, RUN, ask)
    assert reorder.deadline(0.0) > 1.0
