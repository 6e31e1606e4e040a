"""Chunks to datagrams: headers and nonces by numpy, one AEAD call per datagram."""

from struct import Struct

import numpy as np

from bondvpn.datapath.slab import RUN_MAX, ChunkSlab, Extent, SealSlab, drain
from bondvpn.session.keypair import SendLane
from bondvpn.wire.sealed import DATA_HEADER_LEN, TIME_OFFSET, time_of
from bondvpn.wire.transport import HEADER, HEADER_LEN, NONCE_LEN, OVERHEAD, TYPE_WORD

_TIME = Struct(">H")


class Sealer:
    """Seals the chunks of one slab; `out` may be shared by all tunnels of the process."""

    def __init__(self, slab: ChunkSlab, out: SealSlab) -> None:
        self._slab = slab
        self._out = out
        self._order = np.arange(RUN_MAX, dtype=np.uint64)

    def seal(self, lane: SendLane, extent: Extent, now: float) -> tuple[memoryview, int]:
        """The datagrams of the extent's chunks (at most what one GSO call carries), with the lane's next
        counters, and the size of all but the last. Good until the next call."""
        out, first, count = self._out, extent.start, extent.count
        out.set_segment(extent.capacity + DATA_HEADER_LEN + OVERHEAD)
        short = extent.last if extent.last < extent.capacity else 0
        full = count - 1 if short else count
        counter = lane.counter
        lane.counter = counter + count
        time = time_of(now)
        if count == 1:
            end = self._one(lane, counter, first, short or extent.capacity, time)
        else:
            end = self._run(lane, counter, extent, full, short, time)
        return out.view[:end], out.segment if full else end

    def _one(self, lane: SendLane, counter: int, slot: int, length: int, time: int) -> int:
        """One chunk of `length` bytes; the datagram's bytes. For a lone ACK 2.6 µs less than a run of one."""
        view, header = self._out.view, self._out.headers[0]
        end = DATA_HEADER_LEN + length
        row = self._slab.rows[slot][:end]
        _TIME.pack_into(row, TIME_OFFSET, time)
        HEADER.pack_into(view, 0, TYPE_WORD, lane.index, counter)
        lane.encrypt_into(counter.to_bytes(NONCE_LEN, "big"), row, header, view[HEADER_LEN : end + OVERHEAD])
        return end + OVERHEAD

    def _run(self, lane: SendLane, counter: int, extent: Extent, full: int, short: int, time: int) -> int:
        """`full` whole chunks and, if not 0, one of `short` bytes; the datagrams' bytes."""
        slab, out, first = self._slab, self._out, extent.start
        count = full + 1 if short else full
        counters = self._order[:count] + np.uint64(counter)
        out.counters[:count] = counters
        out.nonces.counters[:count] = counters
        out.prefixes[:count] = lane.prefix
        slab.times[first : first + count] = time
        rows = slab.sealed[first : first + full]
        if extent.capacity != slab.capacity:  # filled before the path MTU changed
            rows = [row[: DATA_HEADER_LEN + extent.capacity] for row in slab.rows[first : first + full]]
        drain(map(lane.encrypt_into, out.nonces.views, rows, out.headers, out.bodies))
        end = full * out.segment
        if short:
            sealed = DATA_HEADER_LEN + short
            start, end = end, end + sealed + OVERHEAD
            lane.encrypt_into(
                out.nonces.views[full],
                slab.rows[first + full][:sealed],
                out.view[start : start + HEADER_LEN],
                out.view[start + HEADER_LEN : end],
            )
        return end
