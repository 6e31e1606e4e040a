"""The sending end of a simulated TCP connection, as near to Linux 6.x as bonding needs.

SYN, slow start, SACK scoreboard with RACK (RFC 8985: strict until reordering was seen, then a quarter of
min_rtt that DSACKs widen), PRR (RFC 6937), tail loss probe, retransmission timeout of at least 200 ms, undo
of needless reductions by timestamps (Eifel) and by DSACK, delivery rate samples, super-frames sized as
tcp_tso_autosize does.

Left out: closing, Nagle, window autotuning (the window is WINDOW_BYTES from the start), F-RTO beyond what the
timestamps tell, ECN. A super-frame dropped by the TAP's queue is lost without the sender being told, as in
Linux.
"""

from collections import OrderedDict
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

from congestion import ALGORITHMS, INITIAL_WINDOW, Sample
from ranges import Ranges
from tcpframes import ACK, DATA_HEAD_BYTES, MSS_BYTES, STAMP_S, SYN, WORD, Segment, segment
from virtualloop import NEVER, Alarm, Clock

WINDOW_BYTES = 3_000_000  # half of tcp_rmem's 6 MB is payload
RTO_MIN_S, RTO_INITIAL_S = 0.2, 1.0
DUPLICATE_ACKS = 3
REO_WND_PERSIST = 16  # recoveries
GSO_SHIFT_S = 1 / 1024  # of the pacing rate in one super-frame


class Flight:
    """One segment on its way."""

    __slots__ = ("app_limited", "delivered", "delivered_at", "first_sent", "resent", "sacked", "sent")


def _is_dsack(blocks: list[tuple[int, int]], ack: int) -> bool:
    """RFC 2883: the first block is below the ACK, or within the second."""
    if not blocks:
        return False
    left, right = blocks[0]
    return right <= ack or (len(blocks) > 1 and blocks[1][0] <= left and right <= blocks[1][1])


class TcpSender:
    """Sends without end, or `limit` segments. `emit(frame)` hands a frame to the host's device."""

    def __init__(
        self,
        clock: Clock,
        emit: Callable[[bytes], Any],
        *,
        from_server: bool,
        ports: tuple[int, int],
        cc: str,
        gso_bytes: Callable[[], int] = lambda: 65_000,
        limit: int | None = None,
        random: Callable[[int], int] = lambda bound: bound // 2,
    ) -> None:
        self.clock = clock
        self.emit = emit
        self.from_server = from_server
        self.ports = ports
        self.gso_bytes = gso_bytes
        self.limit = limit if limit is not None else 1 << 60
        self.random = random
        self.una = self.next_segment = 0
        self.window = WINDOW_BYTES // MSS_BYTES
        self.cwnd, self.ssthresh = INITIAL_WINDOW, NEVER
        self.srtt = self.rttvar = 0.0
        self.min_rtt = NEVER
        self.state = "closed"  # then open, recovery, loss
        self.segments: dict[int, Flight] = {}  # sent, neither acknowledged nor forgotten
        self.flying: OrderedDict[int, Flight] = OrderedDict()  # neither sacked nor lost, by time sent
        self.lost: list[int] = []  # a heap, may hold some that are no longer
        self.is_lost: set[int] = set()
        self.resent: set[int] = set()  # and not delivered yet
        self.sacked = Ranges()
        self.sacked_count = 0
        self.highest_sacked = 0
        self.delivered = 0
        self.delivered_at = self.first_sent = 0.0
        self.app_limited = 0  # until so much is delivered, rate samples say little of the path
        self.recovery_point = 0
        self.retransmitted = self.timeouts = self.recoveries = self.undone = self.probes = 0
        self.done_at: float | None = None
        # RACK
        self.rack_sent, self.rack_end, self.rack_rtt = 0.0, 0, 0.0
        self.reordering_seen = False
        self.reo_steps, self.reo_persist, self.reo_delivered = 1, 0, 0
        # PRR
        self.prr_delivered = self.prr_out = 0
        self.prior_cwnd = 0.0
        # undo
        self.undo_cwnd = self.undo_ssthresh = 0.0
        self.undo_left = -1  # retransmissions of this episode that no DSACK came for; -1: nothing to undo
        self.retransmit_stamp = 0
        self.backoff = 1
        self.probing = False
        self.last_in_flight = 0
        self.limited = False  # by its window, in the last round
        self.echo = 0
        self._syn_at = 0.0
        self._next_send = 0.0
        self._rto_alarm = Alarm(clock, self._on_timer)
        self._rack_alarm = Alarm(clock, self._on_rack)
        self._pace_alarm = Alarm(clock, self._send)
        self.cc = ALGORITHMS[cc](self)

    # -- opening --------------------------------------------------------------------------------
    def start(self) -> None:
        self._syn_at = self.clock.now
        self.emit(segment(self.from_server, self.ports, -1, 0, (self._stamp(), 0), flags=SYN))
        self._rto_alarm.set(self.clock.now + RTO_INITIAL_S * self.backoff)

    @property
    def in_flight(self) -> int:
        return len(self.flying)

    def _stamp(self) -> int:
        return int(self.clock.now / STAMP_S)

    def receive(self, one: Segment) -> None:
        now = self.clock.now
        self.echo = one.stamp
        if self.state == "closed":
            if one.flags & SYN:
                self.state = "open"
                self.backoff = 1
                self._rtt(now - self._syn_at)
                sample = Sample()
                sample.rtt = now - self._syn_at
                self.delivered_at = self.first_sent = now
                self.cc.sampled(sample, now)
                self.emit(segment(self.from_server, self.ports, 0, 0, (self._stamp(), self.echo)))
                self._rto_alarm.set(NEVER)
                self._send()
            return
        if not one.flags & SYN:
            self._acknowledged(one, now)

    # -- acknowledgements -----------------------------------------------------------------------
    def _number(self, sequence: int) -> int:
        """Segment number of a 32-bit sequence number near `una`."""
        base = self.una * MSS_BYTES
        ahead = (sequence - base) % WORD
        return (base + (ahead if ahead < WORD // 2 else ahead - WORD)) // MSS_BYTES

    def _acknowledged(self, one: Segment, now: float) -> None:
        ack = self._number(one.ack)
        sample = Sample()
        sample.prior_in_flight = len(self.flying)
        delivered_before = self.delivered
        self._best: Flight | None = None
        self._rtt_from: Flight | None = None
        ack = min(ack, self.next_segment)
        advanced = ack > self.una
        blocks = [(self._number(left), self._number(right)) for left, right in one.blocks]
        duplicate = _is_dsack(blocks, ack)
        if duplicate:
            blocks.pop(0)
        if advanced:
            self._advance(ack, now)
        self._selected(blocks, now)
        if self._rtt_from is not None:
            sample.rtt = now - self._rtt_from.sent
            self._rtt(sample.rtt)
        elif advanced and one.echo:  # of what was sent again the timestamps tell (tcp_ack_update_rtt)
            sample.rtt = now - one.echo * STAMP_S
            self._rtt(sample.rtt)
        sample.acked = self.delivered - delivered_before
        self._rate(sample, now)
        if duplicate:
            self._duplicate()
        self._undo_by_stamp(one.echo, advanced)
        if self.state != "open" and self.una >= self.recovery_point:
            self._recovered()
        lost_before = len(self.is_lost)
        self._detect(now)
        sample.losses = max(0, len(self.is_lost) - lost_before)
        if self.is_lost and self.state == "open":
            self._enter_recovery()
        self._control(sample, now)
        if advanced or sample.acked:
            self._arm(now)
        if self.una >= self.limit and self.done_at is None:
            self.done_at = now
        self._send()

    def _advance(self, ack: int, now: float) -> None:
        """Cumulatively acknowledged."""
        for number in range(self.una, ack):
            flight = self.segments.pop(number)
            if flight.sacked:
                self.sacked_count -= 1
            else:
                self._delivered(number, flight, now)
        self.una = ack
        self.sacked.drop_below(ack)
        self.backoff = 1

    def _selected(self, blocks: list[tuple[int, int]], now: float) -> None:
        """Selectively acknowledged."""
        for left, right in blocks:
            for first, past in self.sacked.add(max(left, self.una), min(right, self.next_segment)):
                for number in range(first, past):
                    flight = self.segments[number]
                    flight.sacked = True
                    self.sacked_count += 1
                    self._delivered(number, flight, now)

    def _delivered(self, number: int, flight: Flight, now: float) -> None:
        """The receiver has it, by ACK or by SACK."""
        self.delivered += 1
        self.delivered_at = now
        self.flying.pop(number, None)
        self.is_lost.discard(number)
        self.resent.discard(number)
        if not flight.resent:
            if number < self.highest_sacked:
                self.reordering_seen = True
            if self._rtt_from is None or flight.sent >= self._rtt_from.sent:
                self._rtt_from = flight
        if self._best is None or flight.sent >= self._best.sent:
            self._best = flight
        if number >= self.highest_sacked:
            self.highest_sacked = number + 1
        rtt = now - flight.sent
        if not (flight.resent and rtt < self.min_rtt) and (flight.sent, number) > (
            self.rack_sent,
            self.rack_end,
        ):
            self.rack_sent, self.rack_end, self.rack_rtt = flight.sent, number, rtt

    def _rate(self, sample: Sample, now: float) -> None:
        """Delivery rate as tcp_rate.c samples it."""
        if self.delivered > self.app_limited:
            self.app_limited = 0
        best = self._best
        if best is None:
            return
        sample.app_limited = best.app_limited
        self.first_sent = best.sent
        sample.prior_delivered = best.delivered
        sample.delivered = self.delivered - best.delivered
        sample.interval = max(best.sent - best.first_sent, now - best.delivered_at)
        if sample.interval < self.min_rtt:
            sample.interval = -1.0

    def _rtt(self, rtt: float) -> None:
        self.min_rtt = min(self.min_rtt, rtt)  # Linux forgets after 300 s
        if not self.srtt:
            self.srtt, self.rttvar = rtt, rtt / 2
            return
        self.rttvar += (abs(self.srtt - rtt) - self.rttvar) / 4
        self.srtt += (rtt - self.srtt) / 8

    @property
    def rto(self) -> float:
        if not self.srtt:
            return RTO_INITIAL_S
        return self.srtt + max(4 * self.rttvar, RTO_MIN_S)

    # -- RACK -----------------------------------------------------------------------------------
    def _reorder_window(self) -> float:
        if not self.reordering_seen and (self.state != "open" or self.sacked_count >= DUPLICATE_ACKS):
            return 0.0
        return float(min(self.min_rtt / 4 * self.reo_steps, self.srtt))

    def _detect(self, now: float) -> None:
        """Mark what RACK takes for lost."""
        if not self.rack_sent:
            return
        patience = self.rack_rtt + self._reorder_window()
        due = NEVER
        while self.flying:
            number, flight = next(iter(self.flying.items()))
            if (flight.sent, number) >= (self.rack_sent, self.rack_end):
                break
            if flight.sent + patience - now > 0:
                due = flight.sent + patience
                break
            self._mark_lost(number)
        self._rack_alarm.set(due)

    def _mark_lost(self, number: int) -> None:
        del self.flying[number]
        self.is_lost.add(number)
        heappush(self.lost, number)

    def _on_rack(self) -> None:
        self._detect(self.clock.now)
        if self.is_lost and self.state == "open":
            self._enter_recovery()
        self._send()

    def _duplicate(self) -> None:
        """A DSACK: the receiver had it already."""
        if self.delivered > self.reo_delivered:  # once a round trip
            self.reo_delivered = self.delivered + len(self.flying)
            self.reo_steps = min(self.reo_steps + 1, 255)
            self.reo_persist = REO_WND_PERSIST
        self.reordering_seen = True
        if self.undo_left > 0:
            self.undo_left -= 1
            if not self.undo_left:
                self._undo()

    # -- states ---------------------------------------------------------------------------------
    def _remember(self) -> None:
        self.undo_cwnd, self.undo_ssthresh = self.cwnd, self.ssthresh
        self.undo_left = len(self.resent)
        if not self.resent:
            self.retransmit_stamp = 0  # else what the last episode sent again would look like an original
        self.recovery_point = self.next_segment

    def _enter_recovery(self) -> None:
        self._remember()
        self.recoveries += 1
        self.prior_cwnd = self.cwnd
        self.ssthresh = self.cc.ssthresh()
        self.state = "recovery"
        self.prr_delivered = self.prr_out = 0

    def _recovered(self) -> None:
        if self.state == "recovery" and not self.cc.paced:
            self.cwnd = self.ssthresh
        self.state = "open"
        if self.reo_persist > 0:
            self.reo_persist -= 1
            if not self.reo_persist:
                self.reo_steps = 1

    def _undo_by_stamp(self, echo: int, advanced: bool) -> None:
        """Eifel: the ACK answers an original that was taken for lost."""
        if not advanced or self.state == "open" or not echo < self.retransmit_stamp:
            return
        if self.una >= self.recovery_point or not self.resent:
            self.reordering_seen = True
            self._undo()
            self.state = "open"
            for number in sorted(self.is_lost, reverse=True):
                self.flying[number] = self.segments[number]
                self.flying.move_to_end(number, last=False)
            self.is_lost.clear()
            self.lost.clear()

    def _undo(self) -> None:
        self.undone += 1
        self.cwnd = max(self.cwnd, self.undo_cwnd)
        self.ssthresh = max(self.ssthresh, self.undo_ssthresh)
        self.undo_left = -1
        self.retransmit_stamp = 0
        self.cc.restored()

    def _on_timer(self) -> None:
        if self.state == "closed":
            self.backoff *= 2
            self.start()
        elif self.probing:
            self._probe_tail()
        elif self.segments:
            self._timed_out()

    def _timed_out(self) -> None:
        self.timeouts += 1
        self.backoff *= 2
        if self.state != "loss":
            self._remember()
            self.ssthresh = self.cc.ssthresh()
            self.state = "loss"
        self.cc.lost_all()
        for number in list(self.flying):
            self._mark_lost(number)
        self.cwnd = 1.0
        self.recovery_point = self.next_segment
        self._arm(self.clock.now)
        self._send()

    def _probe_tail(self) -> None:
        """RFC 8985, 7: something new, or the last segment again."""
        self.probes += 1
        self.probing = False
        self._rto_alarm.set(self.clock.now + self.rto * self.backoff)
        if self.next_segment < self.limit and self.next_segment < self.una + self.window:
            self._transmit(self.next_segment, 1, self.clock.now)
            self.next_segment += 1
        elif self.flying:
            self._transmit(max(self.flying), 1, self.clock.now)

    def _arm(self, now: float) -> None:
        if not self.segments:
            self._rto_alarm.set(NEVER)
            return
        self.probing = self.state == "open" and not self.is_lost and not self.sacked_count
        timeout = self.rto * self.backoff
        if self.probing:
            timeout = min(timeout, 2 * self.srtt + (RTO_MIN_S if len(self.segments) == 1 else 0.002))
        self._rto_alarm.set(now + timeout)

    # -- the window -----------------------------------------------------------------------------
    def _control(self, sample: Sample, now: float) -> None:
        if self.state == "recovery" and not self.cc.paced:
            self._reduce(sample)
        elif (
            sample.acked
            and not self.cc.paced
            and (self.limited or (self.cwnd < self.ssthresh and self.cwnd < 2 * self.last_in_flight))
        ):
            self.cc.acked(sample, now)
        self.cc.sampled(sample, now)

    def _reduce(self, sample: Sample) -> None:
        """Proportional rate reduction (RFC 6937)."""
        self.prr_delivered += sample.acked
        pipe = len(self.flying)
        delta = self.ssthresh - pipe
        if delta < 0:
            target = -(-self.ssthresh * self.prr_delivered // max(self.prior_cwnd, 1))
            send = target - self.prr_out
        else:
            send = max(self.prr_delivered - self.prr_out, sample.acked)
            if sample.acked and not sample.losses:
                send += 1
            send = min(delta, send)
        send = max(send, 0 if self.prr_out else 1)
        self.cwnd = pipe + send

    # -- out ------------------------------------------------------------------------------------
    def burst_segments(self) -> int:
        """tcp_tso_autosize: about a millisecond of the pacing rate, at least two."""
        size = min(self.cc.pacing_rate() * GSO_SHIFT_S, (self.gso_bytes() - DATA_HEAD_BYTES) / MSS_BYTES)
        return max(int(size), min(2, max(1, self.gso_bytes() // MSS_BYTES)))

    def _send(self) -> None:
        now = self.clock.now
        burst = self.burst_segments()
        paced = self.cc.paced
        while True:
            room = int(self.cwnd) - len(self.flying)
            if room <= 0:
                self.limited = True
                break
            if paced and now < self._next_send:
                self._pace_alarm.set(self._next_send)
                break
            count = self._resend(min(room, burst), now)
            if not count:
                left = min(self.limit, self.una + self.window) - self.next_segment
                count = min(room, burst, left)
                if count <= 0:
                    self.limited = room <= 0
                    break
                if count < burst and count < left and self.flying and count < max(int(self.cwnd / 3), 1):
                    self.limited = True  # tcp_tso_should_defer: more room comes with the next ACK
                    break
                self._transmit(self.next_segment, count, now)
                self.next_segment += count
            if paced:
                self._next_send = max(now, self._next_send) + count / self.cc.pacing_rate()
        self.last_in_flight = max(len(self.flying), 1)

    def _resend(self, most: int, now: float) -> int:
        """The next lost segments, as many as neighbour each other; how many."""
        lost = self.lost
        while lost and lost[0] not in self.is_lost:
            heappop(lost)
        if not lost:
            return 0
        first = heappop(lost)
        count = 1
        while count < most and lost and lost[0] == first + count and lost[0] in self.is_lost:
            heappop(lost)
            count += 1
        if not self.retransmit_stamp:
            self.retransmit_stamp = self._stamp()
        if self.undo_left >= 0:
            self.undo_left += count
        self._transmit(first, count, now)
        return count

    def _transmit(self, first: int, count: int, now: float) -> None:
        if not self.flying:
            self.first_sent = self.delivered_at = now
        idle = not self.segments
        for number in range(first, first + count):
            flight = self.segments.get(number)
            if flight is None:
                flight = self.segments[number] = Flight()
                flight.resent = flight.sacked = False
            else:
                flight.resent = True
                self.retransmitted += 1
                self.resent.add(number)
                self.is_lost.discard(number)
            flight.sent = now
            flight.first_sent = self.first_sent
            flight.delivered, flight.delivered_at = self.delivered, self.delivered_at
            flight.app_limited = self.app_limited > 0
            self.flying[number] = flight
            self.flying.move_to_end(number)
        if self.state == "recovery":
            self.prr_out += count
        self.emit(
            segment(
                self.from_server,
                self.ports,
                first * MSS_BYTES,
                0,
                (self._stamp(), self.echo),
                payload=count * MSS_BYTES,
                flags=ACK,
            )
        )
        if idle:
            self._arm(now)
