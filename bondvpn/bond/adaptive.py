"""The adaptive scheduler: late binding with skip-ahead. A chunk's line is chosen when it leaves, not before.

A line with room takes not the head of the queue but the chunk that arrives just in time by it. A chunk that
leaves now by line i arrives at A_i = L / r_i + D_i + q_i; until then the faster lines will have brought

    S_i = sum over the other lines j of r_j x max(0, A_i - A_j)

bytes, so line i takes the chunk S_i bytes into the queue, and idles when the queue is shorter: the others
bring it all sooner. It carries as much as taking the head does, and cuts the time that chunks are held at the
receiver from 20 to 40 ms to none in the median (design.md, 5). D_i is the line's base delay, on a scale that
all lines share; q_i the delay in its queue; L a full datagram.

A line has room while less is under way on it than its window (bond.capacity), its pacer lets it and its
socket takes it. Lines of a worse tier are asked only when the better ones have no room and the queue is full.
"""

from collections.abc import Callable
from math import inf
from typing import Generic

from bondvpn.bond.aim import QUEUE_AIM_S
from bondvpn.bond.aqm import QueueLimits
from bondvpn.bond.capacity import Phase
from bondvpn.bond.delivery import DATAGRAM_BYTES
from bondvpn.bond.equaliser import SPREAD_MAX_S, SPREAD_MIN_S
from bondvpn.bond.line import EXPRESS_DEBT_S, RUN_BYTES, TURN_S, Choice, L, Line

RESEND_WINDOW = 1.5  # a lost chunk may exceed the window by so much: everything behind it waits
RESEND_REPEATED_S = 0.020  # penalty of a line that has lost this chunk before
RESEND_REPEATED = 4  # times that with each further loss: a full buffer loses what follows too
QUEUE_FULL = 0.5  # of the queue's limit: from here on a worse tier helps
# The queue must exceed what the faster lines bring in a slow one's delay, or that one gets no chunk; only
# 40 ms on top of it cost cubic 3 % (design.md, 5). What is known at first is too little.
QUEUE_S = 0.1
QUEUE_TRIPS = 0.4  # of the longest line: of what is under way cubic takes back 0.3 (RFC 9438)
ORDER_S = 0.001  # the order by arrival and the paces hold so long: reports change them, each 2 to 10 ms
QUEUED_S = 0.1  # what waits for its pace rather goes by a line without a queue that is so much slower
BURST_S = 0.002  # of the pace; on a slow line a datagram
BURST_MIN_S = 0.001  # timers fire so late
# Of the queue aimed at: what is lowered for a shallow buffer must not be burst through. With 0.4 a sender of
# two lines of 50 Mbit/s takes 4 to 8 % more CPU (3 runs in turns on a slow host).
BURST_AIM = 0.6
BURST_AIM_SHALLOW = 1.0  # where the pace alone limits a line: what late wake-ups lose of it is lost
QUEUE_BURST_S = 0.3
QUEUE_BURST_TRIPS = 6  # of the longest line: in so many it doubles from 15 KB to 1 MB
QUEUE_STARTUP_BYTES = 200_000
TEACH_BYTES = 4 * DATAGRAM_BYTES  # under way in all: less is no flow that doubles, and needs no long line
# Of the window, what a run may exceed it by: each report frees a little, and a run of that little costs as
# many calls as a full one (8 flows over an unshaped line: 8 CPU seconds per GB, not 5).
EXCESS = 1 / 32
EXPRESS_BYTES = 300  # a call's 20 ms with all headers: 1 Mbit/s of 15 ms brings it before 5 of 40 does
COPY_SHARE = 0.02  # of what is sent may be second copies of express datagrams


class Adaptive(Generic[L]):
    """A `line.Scheduler`."""

    def __init__(self) -> None:
        self.lines: list[L] = []
        self._ordered: list[tuple[L, float]] = []
        self._express: list[L] | None = None  # soonest first for a small datagram, once asked for
        self._ordered_at = -inf
        self._asked_at = -inf  # for a line with room in its window
        self._best_tier = 0
        self._learning: list[L] = []
        self._least_delay = inf
        self._sent = 0
        self._copied = 0

    def set_lines(self, lines: list[L]) -> None:
        self.lines = list(lines)
        self._ordered_at = -inf

    @property
    def rate_bps(self) -> float | None:
        return sum(line.capacity.rate for line in self.lines) * 8 if self.lines else None

    @property
    def configured_bps(self) -> float | None:
        return None

    @property
    def spread(self) -> list[L]:
        best = min((line.tier for line in self.lines), default=0)
        return [line for line in self.lines if line.tier == best]

    @property
    def queue_limits(self) -> QueueLimits:
        rate = sum(line.capacity.rate for line in self.lines)
        longest = max((line.capacity.delays.base_rtt_s for line in self.lines), default=0.0)
        burst = rate * max(QUEUE_BURST_S, QUEUE_BURST_TRIPS * longest)
        if any(line.capacity.young for line in self.lines):
            burst = max(burst, QUEUE_STARTUP_BYTES)
            return QueueLimits(burst, burst, rate, longest)
        arrivals = self._arrivals([line.capacity.delays.queue_s for line in self.lines])
        last = max(arrivals, default=0.0)
        ahead = sum(line.capacity.rate * (last - at) for line, at in zip(self.lines, arrivals, strict=True))
        standing = rate * max(QUEUE_S, QUEUE_TRIPS * longest) + ahead
        return QueueLimits(standing, max(burst, standing), rate, longest)

    def next(self, now: float, waiting: int, limit: int) -> Choice[L] | None:
        self._asked_at = now
        lines = self.lines
        order = self._order(now)
        if len(lines) == 1:
            line = lines[0]
            return Choice(line, self._budget(line), 0) if self._room(line, now) else None
        if waiting and self._learning and (choice := self._teach(now, waiting)) is not None:
            return choice
        for line, skip in order:
            if line.tier > self._best_tier and waiting < QUEUE_FULL * limit:
                continue
            if not self._room(line, now):
                continue
            budget = self._budget(line)
            if skip < waiting:
                return Choice(line, budget, int(skip))
            if waiting and self._learns_free(line, now):
                return Choice(line, budget, max(waiting - budget, 0))
        return None

    def _teach(self, now: float, waiting: int) -> Choice[L] | None:
        """A line that is still in STARTUP gets the newest chunks before the others have any, up to its share
        of what is under way: so all double together with the flow inside, and the long line is not the last
        (measured: the first second of bbr over 16, 50 and 30 Mbit/s brings 0.66 of its final rate, not 0.51).
        """
        under_way = sum(line.in_flight for line in self.lines)
        if under_way < TEACH_BYTES:
            return None
        share = under_way / len(self.lines)
        for line in self._learning:
            if line.in_flight <= share and self._room(line, now):
                budget = self._budget(line)
                return Choice(line, budget, max(waiting - budget, 0))
        return None

    def _order(self, now: float) -> list[tuple[L, float]]:
        """The lines, soonest arrival first, each with the bytes that the faster ones bring until then. As
        long as that holds their paces do too, which are set here."""
        if now - self._ordered_at > ORDER_S:
            self._ordered_at = now
            lines = self.lines
            for line in lines:
                _set_pace(line)
            arrivals = self.arrivals(now)
            self._best_tier = min((line.tier for line in lines), default=0)
            soonest = [(arrival, lines[i]) for arrival, i in sorted((at, i) for i, at in enumerate(arrivals))]
            self._ordered = _with_skips(soonest)
            self._express = None
            delays = [each.capacity.delays.base_delay_s for each in self.spread]
            self._least_delay = min((delay for delay in delays if delay is not None), default=inf)
            self._learning = [
                line
                for _, line in reversed(soonest)
                if line.tier == self._best_tier and self._learns_free(line, now)
            ]
        return self._ordered

    def _learns_free(self, line: L, now: float) -> bool:
        """Whether the newest chunk may go by this line although others would bring it sooner: nothing is
        known of it yet, not that it is thin either, and the other end holds all chunks as long as the slowest
        line takes (bond.equaliser)."""
        capacity = line.capacity
        known = capacity.phase is not Phase.STARTUP or capacity.told_thin
        if known or _queue_s(line, now) > capacity.queue_aim_s:
            return False
        own = capacity.delays.base_delay_s
        return own is not None and SPREAD_MIN_S < own - self._least_delay <= SPREAD_MAX_S

    def arrivals(self, now: float) -> list[float]:
        """For each line, when a datagram that leaves now arrives, on the scale that all lines share."""
        return self._arrivals([_queue_s(line, now) for line in self.lines])

    def _arrivals(self, queues: list[float]) -> list[float]:
        """With such delays in the lines' queues."""
        capacities = [line.capacity for line in self.lines]
        delays = [capacity.delays.base_delay_s for capacity in capacities]
        unknown = max((delay for delay in delays if delay is not None), default=0.0)
        return [
            (unknown if delay is None else delay) + queue + DATAGRAM_BYTES / capacity.rate
            for capacity, delay, queue in zip(capacities, delays, queues, strict=True)
        ]

    def soonest(self, now: float, avoid: L | None = None, tries: int = 1) -> L | None:
        avoided_s = RESEND_REPEATED_S * RESEND_REPEATED ** (tries - 1)
        return self._soonest(
            now,
            lambda line: line.in_flight <= RESEND_WINDOW * line.capacity.window,
            lambda line: avoided_s if line is avoid else 0.0,
        )

    def patient(self, now: float) -> L | None:
        for first, _ in self._order(now)[:1]:
            if not first.blocked and _takes_one(first) and _queue_s(first, now) <= QUEUE_AIM_S:
                first.pacer.refill(now)
                if first.pacer.room():
                    return first  # without a look at the others: each ACK of a fast download asks
        return self._soonest(
            now, _takes_one, lambda line: QUEUED_S if _queue_s(line, now) > QUEUE_AIM_S else 0.0
        )

    def _soonest(
        self, now: float, has_room: Callable[[L], bool], penalty_s: Callable[[L], float]
    ) -> L | None:
        """Of the lines whose windows have room, the one that brings a datagram the soonest, what the pacer
        makes it wait for and a penalty included; None when that has to wait."""
        self._asked_at = now
        self._order(now)
        best, soonest = None, inf
        for line, arrival in zip(self.lines, self.arrivals(now), strict=True):
            if line.blocked or not has_room(line):
                continue
            line.pacer.refill(now)
            due = arrival + max(0.0, -line.pacer.tokens) / line.capacity.pace + penalty_s(line)
            if due < soonest:
                best, soonest = line, due
        return best if best is not None and best.pacer.room() else None

    def express(self, now: float, but: L | None = None) -> L | None:
        self._order(now)
        if self._express is None:
            self._express = self._soonest_small(now)
        for line in self._express:
            if line.blocked or line is but:
                continue
            line.pacer.refill(now)
            if line.pacer.tokens > -line.capacity.pace * EXPRESS_DEBT_S - DATAGRAM_BYTES:
                return line
        return None

    def _soonest_small(self, now: float) -> list[L]:
        """The lines, the one that brings a datagram of EXPRESS_BYTES first in front."""
        less, lines = DATAGRAM_BYTES - EXPRESS_BYTES, self.lines
        arrivals = enumerate(self.arrivals(now))
        return [lines[i] for _, i in sorted((at - less / lines[i].capacity.rate, i) for i, at in arrivals)]

    def copies(self, nbytes: int) -> bool:
        if len(self.lines) < 2 or self._copied + nbytes > COPY_SHARE * self._sent:
            return False
        self._copied += nbytes
        return True

    def mirrors(self, line: L) -> list[L]:
        return []

    def spent(self, line: L, nbytes: int) -> None:
        line.pacer.spend(nbytes)
        self._sent += nbytes

    def deadline(self, now: float) -> float | None:
        # What its pace would have allowed when it was last asked waits for a window, and only a report tells.
        times = [
            due
            for line in self.lines
            if not line.blocked
            and not line.pacer.room()
            and line.in_flight < RESEND_WINDOW * line.capacity.window
            and (due := line.pacer.next_time()) > self._asked_at
        ]
        return max(now, min(times)) if times else None

    def _room(self, line: L, now: float) -> bool:
        if line.blocked:
            return False
        if not _takes_one(line):
            line.capacity.refused(now)
            return False
        line.pacer.refill(now)
        if line.pacer.room():
            return True
        line.capacity.paced(line.in_flight)
        return False

    @staticmethod
    def _budget(line: L) -> int:
        capacity = line.capacity
        turn = max(capacity.rate * TURN_S, DATAGRAM_BYTES)
        room = max(capacity.window - line.in_flight, capacity.window * EXCESS)
        return int(min(line.pacer.run_bytes(), room, turn, RUN_BYTES))


def _with_skips(soonest: list[tuple[float, L]]) -> list[tuple[L, float]]:
    """For lines by arrival, soonest first: each with the bytes that the faster ones bring until then, those
    of a worse tier left out. From one arrival to the next it grows by what all before bring in between, so
    eight lines take eight steps, not 64: 2 to 8 % of an end's time at 400 Mbit/s."""
    skips = [0.0] * len(soonest)
    for tier in {line.tier for _, line in soonest}:
        skip = rate = 0.0
        before = soonest[0][0]
        for i, (arrival, line) in enumerate(soonest):
            if line.tier <= tier:
                skip += rate * (arrival - before)
                before = arrival
                rate += line.capacity.rate
                if line.tier == tier:
                    skips[i] = skip
    return [(line, skip) for (_, line), skip in zip(soonest, skips, strict=True)]


def _queue_s(line: Line, now: float) -> float:
    return line.capacity.queue_now_s(line.in_flight, now)


def _set_pace(line: Line) -> None:
    """As its capacity is known now."""
    capacity = line.capacity
    shallow = capacity.shallow
    share = BURST_AIM_SHALLOW if shallow else BURST_AIM
    burst = max(BURST_MIN_S, min(BURST_S, share * capacity.queue_aim_s))
    line.pacer.set_rate(capacity.pace, burst, gather=not shallow)


def _takes_one(line: Line) -> bool:
    """Whether its window takes a datagram more."""
    return line.in_flight + DATAGRAM_BYTES <= line.capacity.window


class Backup(Adaptive[L]):
    """One line at a time: the first of the best tier that is there."""

    def set_lines(self, lines: list[L]) -> None:
        super().set_lines(sorted(lines, key=lambda line: (line.tier, line.number))[:1])


class Redundant(Adaptive[L]):
    """Every run by every line that has room: the first copy counts. As fast as the fastest."""

    def next(self, now: float, waiting: int, limit: int) -> Choice[L] | None:
        self._asked_at = now
        for line, _ in self._order(now):
            if self._room(line, now):
                return Choice(line, self._budget(line), 0)
        return None

    @property
    def spread(self) -> list[L]:
        return []  # the first copy is the one that counts

    def mirrors(self, line: L) -> list[L]:
        return [other for other in self.lines if other is not line and self._room(other, self._asked_at)]
