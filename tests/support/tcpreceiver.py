"""The receiving end of a simulated TCP connection.

An ACK per super-frame or second segment, quick ACKs at first, 40 ms delayed ACK, SACK and DSACK. Left out:
window autotuning, ACK compression, closing.
"""

from collections.abc import Callable
from typing import Any

from ranges import Ranges
from tcpframes import ACK, MSS_BYTES, STAMP_S, SYN, WORD, Segment, segment
from virtualloop import NEVER, Alarm, Clock

DELAYED_ACK_S = 0.040
QUICK_ACKS = 16


class TcpReceiver:
    """The other end. `delivered` counts segments in order, `silence_s` is the longest wait between two."""

    def __init__(
        self, clock: Clock, emit: Callable[[bytes], Any], *, from_server: bool, ports: tuple[int, int]
    ) -> None:
        self.clock = clock
        self.emit = emit
        self.from_server = from_server
        self.ports = ports
        self.expected = 0
        self.ahead = Ranges()
        self.duplicates = 0
        self.out_of_order = 0
        self.silence_s = 0.0
        self._advanced_at = NEVER
        self._recent: list[int] = []  # a point in each block, the latest first
        self._unacked = 0
        self._quick = QUICK_ACKS
        self._echo = 0
        self._alarm = Alarm(clock, self._acknowledge)

    @property
    def delivered(self) -> int:
        return self.expected

    def receive(self, one: Segment) -> None:
        if one.flags & SYN:
            self._echo = one.stamp
            stamps = (int(self.clock.now / STAMP_S), one.stamp)
            self.emit(segment(self.from_server, self.ports, -1, 0, stamps, flags=SYN | ACK))
            return
        if not one.payload:
            return
        base = self.expected * MSS_BYTES
        ahead = (one.sequence - base) % WORD
        first = (base + (ahead if ahead < WORD // 2 else ahead - WORD)) // MSS_BYTES
        self._data(first, first + -(-one.payload // MSS_BYTES), one.stamp)

    def _data(self, first: int, past: int, stamp: int) -> None:
        if past <= self.expected or self._have(first, past):
            self.duplicates += past - first
            self._acknowledge((first, past))
            return
        if first > self.expected:
            self.out_of_order += past - first
            self.ahead.add(first, past)
            self._recent = [first, *(point for point in self._recent if not first <= point < past)][:8]
            self._acknowledge()
            return
        self._echo = stamp
        gap = bool(self.ahead.lefts)
        self._advance(past)
        self._unacked += past - first
        if gap or self._unacked >= 2 or self._quick > 0:
            self._quick -= 1
            self._acknowledge()
        elif self._alarm.due == NEVER:
            self._alarm.set(self.clock.now + DELAYED_ACK_S)

    def _have(self, first: int, past: int) -> bool:
        block = self.ahead.around(first)
        return block is not None and past <= block[1]

    def _advance(self, past: int) -> None:
        now = self.clock.now
        self.silence_s = max(self.silence_s, now - self._advanced_at)
        self._advanced_at = now
        block = self.ahead.around(past - 1) or self.ahead.around(past)
        self.expected = max(past, block[1] if block is not None else 0)
        self.ahead.drop_below(self.expected)

    def _acknowledge(self, duplicate: tuple[int, int] | None = None) -> None:
        self._unacked = 0
        self._alarm.due = NEVER
        blocks: list[tuple[int, int]] = []
        if self.ahead.lefts:
            for point in self._recent:
                block = self.ahead.around(point)
                if block is not None and block not in blocks:
                    blocks.append(block)
                    if len(blocks) == 3:
                        break
        if duplicate is not None:
            blocks = [duplicate, *blocks[:2]]
        self.emit(
            segment(
                self.from_server,
                self.ports,
                0,
                self.expected * MSS_BYTES,
                (int(self.clock.now / STAMP_S), self._echo),
                blocks=[(left * MSS_BYTES, right * MSS_BYTES) for left, right in blocks],
            )
        )
