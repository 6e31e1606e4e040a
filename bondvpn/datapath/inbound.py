"""A frame's way in.

1. receive   up to 64 datagrams of one sender in one call (GRO), or as many as wait in calls of their own
2. open      one AEAD call per datagram, nonces by numpy, into rows that frames are made of
3. replay    the whole run at once, one by one where it is not in order
4. sort      DATA to its stream; anything else to the session
5. reorder   strictly, see `bond.reorder`
6. deliver   frames cut out of the streams, one `writev` each, see `reassembly`
"""

from collections.abc import Callable
from struct import Struct
from typing import Any, Protocol

import numpy as np
from cryptography.exceptions import InvalidTag

from bondvpn.datapath import LONE_S
from bondvpn.datapath.batch import Batch
from bondvpn.datapath.reassembly import Buffer, Offsets, Reassembly
from bondvpn.datapath.slab import SEALED_MAX_BYTES, Nonces, OpenSlab, RunViews, drain
from bondvpn.session.keypair import Keypair, LaneTable, ReceiveLane
from bondvpn.session.link import Path
from bondvpn.session.session import Session
from bondvpn.stats import Drop, Drops
from bondvpn.wire.sealed import DATA, DATA_HEADER, DATA_HEADER_LEN, EXPRESS
from bondvpn.wire.transport import HEADER, HEADER_LEN, OVERHEAD, TYPE_WORD

# Per wake-up, then the other sockets, the other direction and the timers have their turn: what one line is
# ahead of the others waits in the reorder buffer.
RECEIVES_PER_WAKEUP = 32
RECEIVE_BYTES_PER_WAKEUP = 128_000
RUN_MIN = 4  # shorter runs are cheaper one by one than by numpy
START_SHIFT = np.uint64(16)  # what follows is the send time
_DATA_START = Struct(">BBIHH").unpack_from


def _following(places: list[int]) -> int:
    """How many of them count up by one from the first."""
    first = places[0]
    if places == list(range(first, first + len(places))):  # 2 µs less than by arrays
        return len(places)
    return next(i for i, place in enumerate(places) if place != first + i)


class Receiver(Protocol):
    """A socket as seen from here: `(length, segment, address, local, waited_s)` a call."""

    def receive_into(self, buffers: list[Buffer]) -> tuple[int, int, Any, bytes, float] | None: ...


class ControlPlane(Protocol):
    """Who takes what is no data."""

    def handshake(self, datagram: bytes, path: Path, now: float) -> None: ...

    def confirm(self, keypair: Keypair, now: float) -> None: ...

    def reassembly_of(self, session: Session) -> Reassembly | None: ...

    def delivered(self, session: Session, now: float) -> None:
        """A frame of the session went to the TAP out of silence: the kernel may have answered it already."""


class Inbound:
    """Receives for all tunnels of the process: the lane in each datagram says whose it is."""

    def __init__(self, table: LaneTable, control: ControlPlane, drops: Drops) -> None:
        self._table = table
        self._control = control
        self._drops = drops
        self._batch = Batch()
        self._view = self._batch.view
        self._runs: dict[int, RunViews] = {}
        self._slab = OpenSlab()
        self._nonces = Nonces(OpenSlab.ROWS)
        self._order = np.arange(OpenSlab.ROWS, dtype=np.uint64)
        self._came_at = 0.0  # when a datagram was received
        self._at = 0.0  # when the kernel had it: what waits for us has left the line's queue
        self._lone = False  # nothing had come for LONE_S: it is delivered before anything else
        self._touched: set[Reassembly] = set()  # those that may hold views into the slab

    # -- 1. receive -----------------------------------------------------------------------------
    def on_readable(self, socket: Receiver, clock: Callable[[], float], *, polled: bool = False) -> int:
        """Drain a socket, but bounded; how many bytes came. Each call is stamped: one stamp for all would
        make the smallest delay too small. `polled`: it was not looked at for a while, so what comes need not
        come out of silence."""
        batch = self._batch
        left = RECEIVE_BYTES_PER_WAKEUP
        for _ in range(RECEIVES_PER_WAKEUP):
            received = socket.receive_into(batch.room())
            if received is None:
                break
            length, segment, address, local, waited_s = received
            if not length:
                self._drops.count(Drop.SHORT)
                continue
            left -= length
            now = clock()
            if not batch.follows(length, segment, address, local, now - waited_s):
                self._open(socket, now)
                batch.begin(length, segment, address, local, now - waited_s)
                self._lone = now - self._came_at > LONE_S and not polled
            self._came_at = now
            if left < 0 or self._lone:
                break
        self._open(socket, self._came_at)
        self._flush()
        return RECEIVE_BYTES_PER_WAKEUP - left

    def _open(self, socket: Receiver, now: float) -> None:
        """Open what has come, if anything has."""
        batch = self._batch
        length, segment = batch.length, batch.segment
        if not length:
            return
        path = Path(socket, batch.address, batch.local)  # type: ignore[arg-type]  # one object, two views of it
        if length < segment * RUN_MIN or not self._run(length, segment, path, now):
            for number, start in enumerate(range(0, length, segment)):
                self._at = batch.came_at(number)
                self._single(start, min(start + segment, length), path, now)
        batch.end()

    def _flush(self) -> None:
        for reassembly in self._touched:
            reassembly.flush()

    # -- one by one -----------------------------------------------------------------------------
    def _single(self, start: int, end: int, path: Path, now: float) -> None:
        """One datagram: control, small traffic, and whatever is not quite in order."""
        size = end - start
        view = self._view
        if size <= OVERHEAD:
            self._drops.count(Drop.SHORT)
            return
        word, index, counter = HEADER.unpack_from(view, start)
        if word != TYPE_WORD:
            self._control.handshake(bytes(view[start:end]), path, now)
            return
        lane = self._table.lanes.get(index) or self._table.find(index)
        if lane is None:
            self._drops.count(Drop.LANE)
            return
        sealed_len = size - OVERHEAD
        if sealed_len > SEALED_MAX_BYTES:
            self._drops.count(Drop.SHORT)
            return
        row_number = self._reserve(1)
        row = self._slab.rows[row_number][:sealed_len]
        header = view[start : start + HEADER_LEN]
        try:
            lane.decrypt_into(b"\0\0\0\0" + header[8:], view[start + HEADER_LEN : end], header, row)
        except InvalidTag:
            self._drops.count(Drop.AUTH)
            return
        if not self._fresh(lane, counter, now):
            return
        if row[0] != DATA:
            self._arrived(lane, counter, 1, size, path, now)
            lane.session.on_control(lane, bytes(row), path, now)
            return
        if sealed_len <= DATA_HEADER_LEN:
            self._arrived(lane, counter, 1, size, path, now)
            self._drops.count(Drop.SEALED)
            return
        _, stream, sequence, sent, enqueued, offset = DATA_HEADER.unpack_from(row)
        self._slab.next = row_number + 1
        chunks, clock = [row[DATA_HEADER_LEN:]], (sent, enqueued)
        if stream == EXPRESS:
            self._deliver(lane, stream, sequence, chunks, [offset], clock, now)
            if self._lone:
                self._flush()
                self._control.delivered(lane.session, now)
        self._arrived(lane, counter, 1, size, path, now)
        self._note(lane, 1, sent, stream != EXPRESS, now)
        if stream != EXPRESS:
            self._deliver(lane, stream, sequence, chunks, [offset], clock, now)

    def _fresh(self, lane: ReceiveLane, counter: int, now: float) -> bool:
        """Authentic: now it may change state."""
        if not lane.window.accept(counter):
            self._drops.count(Drop.REPLAY)
            return False
        return self._usable(lane, 1, now)

    def _usable(self, lane: ReceiveLane, count: int, now: float) -> bool:
        keypair = lane.keypair
        if keypair.expired(now):
            self._drops.count(Drop.EXPIRED, count)
            return False
        if not keypair.confirmed:
            self._control.confirm(keypair, now)
        return True

    # -- a run of equals ------------------------------------------------------------------------
    def _run(self, length: int, segment: int, path: Path, now: float) -> bool:
        """A run of one lane in order, the last perhaps shorter; False, and nothing done, if it is not."""
        word, index, first = HEADER.unpack_from(self._view)
        lane = self._table.lanes.get(index)
        sealed_len = segment - OVERHEAD
        if word != TYPE_WORD or lane is None or not DATA_HEADER_LEN < sealed_len <= SEALED_MAX_BYTES:
            return False
        full = length // segment
        rest = length - full * segment
        if 0 < rest <= OVERHEAD + DATA_HEADER_LEN:
            return False
        count = full + 1 if rest else full
        row = self._reserve(count)
        rows = self._slab.sealed(sealed_len)[row : row + count]
        # The counters it ought to have: with others it does not open, so nobody need read them (3 µs a run).
        self._nonces.counters[:count] = self._order[:count] + np.uint64(first)
        views = self._runs.get(segment) or self._make_run(segment)
        try:
            drain(map(lane.decrypt_into, self._nonces.views, views.bodies[:full], views.headers, rows))
            if rest:
                rows[full] = rows[full][: rest - OVERHEAD]
                last = self._view[length - rest : length]
                header, body = last[:HEADER_LEN], last[HEADER_LEN:]
                lane.decrypt_into(self._nonces.views[full], body, header, rows[full])
        except InvalidTag:
            return False  # out of order, of two lanes or forged: one by one then, nothing has happened yet
        if not lane.window.accept_run(first, count):
            return False
        if self._usable(lane, count, now):
            self._at = self._batch.last_came_at
            self._arrived(lane, first, count, length, path, now)
            self._sort(lane, row, rows, path, now)
        return True

    def _make_run(self, segment: int) -> RunViews:
        if len(self._runs) >= 8:
            self._runs.clear()
        views = self._runs[segment] = RunViews(self._view, segment)
        return views

    def _reserve(self, count: int) -> int:
        """The first of `count` free rows."""
        if self._slab.reserve(count):
            for reassembly in self._touched:
                reassembly.persist()
            self._touched.clear()
        return self._slab.next

    # -- 4. sort --------------------------------------------------------------------------------
    def _sort(self, lane: ReceiveLane, row: int, rows: list[memoryview], path: Path, now: float) -> None:
        """What was opened into `rows`, from number `row` on. A stream's neighbours stay together."""
        count = len(rows)
        self._slab.next = end = row + count
        chunks = self._slab.chunks(len(rows[0]))[row:end]
        if len(rows[-1]) != len(rows[0]):
            chunks[-1] = rows[-1][DATA_HEADER_LEN:]
        offsets = self._slab.offsets[row:end]
        starts = (self._slab.starts[row:end] >> START_SHIFT).tolist()  # kind, stream, sequence as one integer
        begin = 0
        while begin < count:
            until = begin + _following(starts[begin:] if begin else starts)
            kind, stream, sequence, sent, enqueued = _DATA_START(self._slab.rows[row + begin])
            if kind == DATA:
                self._at = self._batch.came_at(begin)
                self._note(lane, until - begin, sent, stream != EXPRESS, now)
                run, its_offsets = chunks[begin:until], offsets[begin:until]
                self._deliver(lane, stream, sequence, run, its_offsets, (sent, enqueued), now)
            else:
                for control in rows[begin:until]:
                    lane.session.on_control(lane, bytes(control), path, now)
            begin = until

    def _arrived(self, lane: ReceiveLane, first: int, count: int, size: int, path: Path, now: float) -> None:
        """Account for authentic datagrams; follow the peer's address if they are the newest."""
        link = lane.session.links.get(lane.number)
        if link is None:
            return
        link.received(size, count, path, now)
        lane.arrivals.came(first, count, size + count * link.frame_overhead, self._at)
        if link.path != path and first + count - 1 == lane.window.highest:
            lane.session.moved(link, path, size, now)

    def _note(self, lane: ReceiveLane, count: int, sent: int, bulk: bool, now: float) -> None:
        """DATA came, whose sender wants to hear of it."""
        lane.arrivals.data(count, sent, self._at)
        session = lane.session
        link = session.links.get(lane.number)
        if link is None:
            return
        session.equaliser.note(lane.number, sent, link.liveness.rtt, self._at)
        session.reporter.noted(lane, link.srtt_s, now, bulk=bulk)

    def _deliver(
        self,
        lane: ReceiveLane,
        stream: int,
        sequence: int,
        chunks: list[memoryview],
        offsets: Offsets,
        clock: tuple[int, int],
        now: float,
    ) -> None:
        """`clock`: when the first of them left and when it was enqueued, by the sender's clock."""
        reassembly = self._control.reassembly_of(lane.session)
        if reassembly is not None:
            self._touched.add(reassembly)
            if stream == EXPRESS:
                reassembly.receive_express(sequence, chunks, offsets)
                return
            equaliser = lane.session.equaliser
            reassembly.patience_s = max(lane.session.patience_s, equaliser.spread_s)
            reassembly.receive_run(stream, sequence, chunks, offsets, now, equaliser.release(clock[1], now))
