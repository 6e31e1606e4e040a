"""What one line carries, learned from the reports on it: how much may be under way, how fast, how late.

Theory. The window is what keeps the line full and the modem's queue short:

    window = R x (base RTT + max(half a report interval + q*, a report interval)) x correction

R is the largest rate delivered in one of the last round trips (linerate.py), q* the queue aimed at in the
modem (aim.py); the *smallest* queue delay of the last round trip moves the correction (correction.py). (A
loop on the minimum over 100 ms limit-cycles, one on the last sample stops growing for good under jitter;
design.md, 5.) A line that was not limited by its window teaches nothing about its rate.

    phase      next       when
    STARTUP    STEADY     the queue delay stays above 1.5 q* for ROUND_MIN_S and STARTUP_TOLD reports; or the
                          rate does not grow any more, or a round lost much (startup.py)
    STEADY     CONTENDED  the queue stays high whatever we do (sharing.py): perhaps somebody else fills it
    CONTENDED  STEADY     the queue is short again, or known to be ours or nobody's (contention.py)

STARTUP doubles the window each round; what it overshoots by and loses is not held against the line. A queue
that proves to be none, for the route has become longer, is the new base.

The queue is what exceeds the smallest delay of the last BASE_KEEP_S (delays.py). One that is kept for so long
would become part of that, so a line whose queue was never short for DRAIN_AFTER_S is drained for a round.

A line whose buffer is shallower than the queue aimed at (losses.py) has the aim and the window lowered, and
near the window that lost growth is slow for a while. From there on its pace follows R alone: by windows it
would get a burst with each report, of which such a buffer holds a part, and idle until the next. Other loss
means nothing here, nor what STARTUP loses.

A short queue is no reason to shrink: R x span is the least that brings R, so whatever the model leaves out
would make the window shrink R and R the window. It grows only while it (or the pacer) holds something back.
"""

from enum import Enum
from math import inf

from bondvpn.bond import pace
from bondvpn.bond.aim import QUEUE_AIM_DATAGRAMS, QUEUE_HIGH, QueueAim
from bondvpn.bond.contention import Round, Verdict
from bondvpn.bond.correction import DRAIN, Correction
from bondvpn.bond.delays import IDLE_S, RTT_START_S, Delays
from bondvpn.bond.delivery import DATAGRAM_BYTES
from bondvpn.bond.linerate import RATE_WINDOW_S, LineRate
from bondvpn.bond.losses import Losses
from bondvpn.bond.sharing import Sharing
from bondvpn.bond.startup import ROUND_MIN_S, ROUND_STARTUP_S, STARTUP_WINDOW_MAX, Startup, full_for_s, lossy
from bondvpn.bond.trains import Trains, overflows

WINDOW_MIN_BYTES = 4 * DATAGRAM_BYTES  # what shows a loss by later ones
WINDOW_START_BYTES = 10 * DATAGRAM_BYTES  # RFC 6928
RTT_MIN_S = 0.001  # in guessing the rate from it
REPORT_WEIGHT_MAX = 1 / 8  # nothing came meanwhile, perhaps because nothing was sent
REPORT_MEAN_S = 0.200  # an interval weighs by its length: the long ones are what the window must cover
STEP_MAX = 1.3
YOUNG_S = 1.0  # after STARTUP: a bbr that began then has found its rate, and what it sent too much has left
HELD = 0.75  # of the window under way, and what the pacer holds back is what the line lacks
SHALLOW_REPORTS = 2.0  # intervals that the window then covers: it is not to hold back what the pace lets go
# Under way beyond what a line itself holds; the other end's socket takes twice as much (linux.udp). What
# waits there is no queue by the kernel's time stamps and no limit to growth: 8 flows over one line without a
# shape had up to 23 MB under way, lost 6 to 16 % there and carried 2.2 Gbit/s, not 2.7 (bench gigabit-many).
SOCKET_BYTES = 2 << 20
DRAIN_AFTER_S = 4.0  # without a short queue: well before the base delay would be forgotten


class Phase(Enum):
    """See the table above."""

    STARTUP = "startup"
    STEADY = "steady"
    CONTENDED = "contended"


class Capacity:
    """One line in its sending direction. Sizes: bytes as Ethernet frames; rates: bytes a second."""

    def __init__(self, cap_bps: int | None = None) -> None:
        """`cap_bps`: the line's configured speed in bit/s; None: unknown."""
        self.phase = Phase.STARTUP
        self.window = float(WINDOW_START_BYTES)
        self.delays = Delays()
        cap = cap_bps / 8 if cap_bps else inf
        self.carries = LineRate(cap, _first_rate(RTT_START_S), self.delays)
        self.losses = Losses()
        self.report_s = 0.0
        """Between reports, smoothed."""
        self._aim = QueueAim()
        self._correction = Correction()
        self._limited_at = -inf
        self._limited = False  # in this round
        self._held = False  # by the pacer, in this round
        self._round_at = -inf
        self._reported_at = -inf
        self._told_of_at = -inf  # when the newest datagram left of which a report has come
        self._settled_at = inf  # when what STARTUP sent has been reported
        self._startup = Startup()
        self._trains = Trains()
        self._thin = inf  # bytes a second, as probes say before anything is known
        self._round_came = self._round_lost = 0
        self._sharing = Sharing()
        self._bounded = False  # by the other end's socket: the window says nothing of the line

    # -- what the scheduler asks ----------------------------------------------------------------
    @property
    def rate(self) -> float:
        """What the line carries, as far as is known."""
        return self.carries.mean

    @property
    def loss(self) -> float:
        """Share of the datagrams that is lost however small the window."""
        return self.losses.share

    @property
    def queue_aim_s(self) -> float:
        """q*: the queue aimed at in the modem."""
        return self._aim.queue_s(self._datagram_s, self.delays.jitter_s)

    @property
    def shallow(self) -> bool:
        """Whether the buffer is known not to hold that: the pace limits the line then, not the window."""
        return self._aim.shallow(self._reported_at)

    @property
    def _deep_queue_s(self) -> float:
        return self._aim.deep_queue_s(self._datagram_s, self.delays.jitter_s)

    @property
    def _datagram_s(self) -> float:
        return self._aim.datagram_s(self.rate)

    @property
    def pace(self) -> float:
        """Bytes a second that may leave."""
        return min(self._unbounded_pace, self.carries.cap)

    @property
    def _unbounded_pace(self) -> float:
        window, rtt_s = self.window, self.delays.srtt_s
        if self.phase is Phase.STARTUP:
            return pace.startup(window, rtt_s, self._at_most)
        if self._bounded:
            return pace.at_once(window, rtt_s)
        rate = max(self.carries.largest(self._reported_at), self.rate)
        if self.shallow and not self._contended:
            return pace.shallow(rate, careful=self.losses.near(window, self._reported_at))
        evenly = pace.evenly(window, self._span(max(rtt_s - self.delays.base_rtt_s, 0.0)), rtt_s, self.rate)
        return min(evenly, pace.PACE_FULL * rate) if self._full else evenly

    @property
    def _full(self) -> bool:
        if self._contended or self.shallow:
            return False
        return pace.full(self.delays.queue_s, self.queue_aim_s, self._datagram_s)

    @property
    def known_rate(self) -> float:
        """What the line carries; 0 while that is a guess: nothing has filled it yet, and it is not thin."""
        guessed = self.phase is Phase.STARTUP and self.carries.cap == inf and not self.told_thin
        return 0.0 if guessed else self.rate

    @property
    def told_thin(self) -> bool:
        """Whether probes say what it carries."""
        return self._thin != inf

    @property
    def young(self) -> bool:
        """In STARTUP, or not long out of it: what the flow inside began with is still under way."""
        return self.phase is Phase.STARTUP or self._reported_at < self._settled_at + YOUNG_S

    def paced(self, in_flight: int) -> None:
        """Something wanted to leave before its time: once much is under way, a limit too."""
        self.losses.pressed = True
        if self.phase is Phase.STARTUP:
            self._limited = self._limited or in_flight > self.window / 2
        else:
            self._held = self._held or (in_flight > HELD * self.window and not self._full)

    def refused(self, now: float) -> None:
        """Something wanted to leave and the window was full."""
        self.losses.pressed = True
        self._limited = True
        self._limited_at = now

    def queue_now_s(self, in_flight: int, now: float) -> float:
        """The delay in the line's queue for what leaves now: as it was told, and what left since less what
        the line has carried since. Reports are late by a round trip; by them alone a line has too much, then
        nothing, in turns (16 + 10 Mbit/s, with LTE's gaps, cubic: 0.92 of Σ, not 0.96; simulated)."""
        queue, since = self.delays.queue_s, now - self._told_of_at
        if not in_flight:
            return max(0.0, queue - since)
        startup = self.phase is Phase.STARTUP
        rate = self._at_most if startup else self.rate
        # Whether a line of which nothing is heard carries anything is not known either.
        foretold = max(0.0, queue + in_flight / rate - min(since, self.delays.srtt_s + self.report_s))
        return max(queue, foretold) if startup else foretold

    def idle_queue(self, queue_s: float, now: float) -> None:
        """A probe's round trip says so. Of a line on which nothing is reported that is all there is to know:
        what begins now must not wait behind what others have put there."""
        if now - self._reported_at > IDLE_S:
            self.delays.queue_s, self._told_of_at = queue_s, now

    def resume(self, now: float) -> None:
        """The line carries again after a silence: half of what it did, until reports say more. What they said
        while it was silent, late as they were, is forgotten."""
        self.carries.forget()
        if self.phase is Phase.STARTUP:
            self.window = max(self.window / 2, WINDOW_START_BYTES)
        else:
            self.window = max(self._target(self.rate) / 2, WINDOW_MIN_BYTES)
            self.carries.brought(self.rate, now)
        self.delays.resume()
        self._sharing.over()
        if self._contended:
            self.phase = Phase.STEADY
        self.losses.forget()

    # -- what reports teach ---------------------------------------------------------------------
    def on_rtt(self, rtt_s: float, now: float, left_at: float = -inf) -> None:
        """A round-trip time without what the receiver waited before its report, on a datagram that left
        then."""
        self._told_of_at = max(self._told_of_at, left_at)
        if not self.delays.timed:
            self.carries.at_least(_first_rate(rtt_s))
        self.delays.on_trip(rtt_s, now, contended=self._contended)

    def begin_thin(self, rate: float) -> None:
        """Probes say that the idle line carries no more (longprobes.py); infinite: they do not, or not any
        more."""
        if self.phase is not Phase.STARTUP or self.window > WINDOW_START_BYTES or rate == self._thin:
            return
        self._thin = rate
        base = self.delays.base_rtt_s
        self.carries.guess(rate if rate < inf else _first_rate(base))
        self.window = min(max(rate * (base + self.queue_aim_s), WINDOW_MIN_BYTES), float(WINDOW_START_BYTES))

    def reports_moved(self, now: float) -> None:
        """Reports come by another line from now on: it has a share in each round trip."""
        if not self._contended:
            self.delays.reports_moved(now)

    def on_report(
        self, frame_bytes: int, arrived_s: float, delay_s: float | None, came: int, lost: int, now: float
    ) -> None:
        """`frame_bytes` came in all up to `arrived_s` by the receiver's clock, with `delay_s` as the smallest
        one-way delay since the last report; of `came` and `lost` datagrams it newly says so."""
        if now - self._reported_at < 1.0:
            took = now - self._reported_at
            self.report_s += (took - self.report_s) * min(REPORT_WEIGHT_MAX, took / REPORT_MEAN_S)
        self._reported_at = now
        self.carries.arrived(frame_bytes, arrived_s, self.report_s)
        if delay_s is not None:
            self.delays.on_delay(delay_s, self._datagram_s, now, contended=self._contended)
            if self.phase is Phase.STARTUP:
                rate = self._trains.came(frame_bytes, arrived_s)
                self._note_train(rate, delay_s, full=overflows(came, lost), now=now)
        self._note_rate(now)
        self._round_came += came
        self._round_lost += lost
        self._note_loss(came, lost, now)
        if self.phase is Phase.STARTUP:
            self._settle_if_full(now)
        starts = self.phase is Phase.STARTUP
        if starts and self._trains.too_short:
            return
        if now - self._round_at >= max(self.delays.base_rtt_s, ROUND_STARTUP_S if starts else ROUND_MIN_S):
            self._round(now)
            self._round_at = now
            self._limited = self._held = False
            self._round_came = self._round_lost = 0

    @property
    def _at_most(self) -> float:
        """What a line in STARTUP carries, by probes and by what has come; infinite: it is not thin."""
        return max(self._thin, self.carries.largest(self._reported_at))

    @property
    def _contended(self) -> bool:
        return self.phase is Phase.CONTENDED

    @property
    def _trip_s(self) -> float:
        """Over the empty line, to the report."""
        return self.delays.base_rtt_s + self.report_s

    def _note_rate(self, now: float) -> None:
        lately = self.carries.lately
        if lately:
            self._aim.note(self.rate, now)
            self.carries.follow(lately, limited=now - self._limited_at < max(0.020, 2 * self.report_s))
            if self.phase is Phase.STARTUP and self.told_thin:
                self.carries.at_least(self._thin)  # it has not been filled yet

    def _note_loss(self, came: int, lost: int, now: float) -> None:
        sample = self.losses.sample(came, lost)
        if sample is None or now < self._settled_at:
            return  # STARTUP overshoots by its nature
        steady, least = self.phase is Phase.STEADY, self._correction.smallest_lossy
        cut = self.losses.judge(sample, self.window, now, steady=steady, least=least)
        if cut is not None:
            self._aim.lower()
            self._correction.cut(cut)
            # What came lately may have been all that wanted to leave.
            largest = max(self.carries.largest(now), self.rate)
            self.window = min(self.window, self._target(largest) * self._correction.value)

    # -- once a round ---------------------------------------------------------------------------
    def _round(self, now: float) -> None:
        span = max(self.delays.base_rtt_s, ROUND_MIN_S)
        told = self.delays.least_queue(span, now)
        queue = told or 0.0
        largest = self._largest_with_this(now)
        if self.phase is Phase.STARTUP:
            self._begin(queue, largest, now)
        else:
            alone = self.phase is Phase.STEADY
            if told is not None:
                self._who_else(queue, largest, now)
            if alone and self.phase is Phase.STEADY:
                self._steady(queue, largest, now)
        self._aim.end_round()
        self._bound(max(largest, self.rate))

    def _bound(self, rate: float) -> None:
        """The window is at most what the line and the other end's socket hold, as far as is known."""
        times = STARTUP_WINDOW_MAX if self.phase is Phase.STARTUP else 1.0
        most = times * rate * self.delays.base_rtt_s + SOCKET_BYTES
        self._bounded = self.window > most
        self.window = min(max(self.window, WINDOW_MIN_BYTES), most)

    def _largest_with_this(self, now: float) -> float:
        """R: the largest delivered rate of the last rounds, with this one."""
        largest = self.carries.largest(now)
        delivered = self.carries.delivered
        if delivered:
            self._sharing.carried(delivered, now)
        if delivered and (self._limited or delivered > largest):
            self.carries.brought(delivered, now)
            largest = max(largest, delivered)
        return largest

    def _target(self, rate: float) -> float:
        # Just before a report all that came since the last one counts as under way: with less than that the
        # line is idle between two reports, R shrinks the window and the window R.
        return rate * self._span(self.queue_aim_s)

    def _span(self, queue_s: float) -> float:
        """What a window takes from the first datagram to the report on the last."""
        if self.shallow:
            return self.delays.base_rtt_s + SHALLOW_REPORTS * self.report_s + queue_s
        return self.delays.base_rtt_s + max(self.report_s / 2 + queue_s, self.report_s)

    def _note_train(self, rate: float, delay_s: float, *, full: bool, now: float) -> None:
        """What came since the queue was last empty came so fast; `full`: the buffer lost some of it."""
        waited = self.delays.queued(delay_s, DATAGRAM_BYTES / rate if rate else 0.0)
        if not (waited or full) or not self._ours(now):
            self._trains.over()
        elif waited:
            self._trains.waited(rate)
        else:
            self._trains.overflowed(rate)

    def _settle_if_full(self, now: float) -> None:
        """End STARTUP when the line is full, with all it carries: what it brought since then. A round has
        less, for slow start comes in bursts: by that cubic had 0.70 of Σ over 98 and 42 Mbit/s of 140 and 320
        ms, not 0.97 (simulated)."""
        full_s = full_for_s(self.delays.queues, QUEUE_HIGH * self.queue_aim_s, ROUND_MIN_S, now)
        if full_s and self._ours(now):
            self.carries.brought(self.carries.over(full_s), now)
            self._settle(self._largest_with_this(now), now)

    def _begin(self, queue: float, largest: float, now: float) -> None:
        """A round of STARTUP."""
        aim = self.queue_aim_s
        full = queue >= QUEUE_HIGH * aim and self._ours(now)
        much_lost = lossy(self._round_came, self._round_lost)
        ends = full or much_lost
        if not (self._limited or ends or self._startup.used(self.window, largest, self.delays.base_rtt_s)):
            return
        if self._startup.over(largest, now, limited=self._limited, ends=ends):
            if much_lost and not full:
                if self.delays.most_queue <= QUEUE_HIGH * self._deep_queue_s:
                    self._aim.begin_lowered()
                # Over a round a burst that overflows 3 ms at 53 Mbit/s brings 6 (simulated).
                largest = max(largest, self._trains.fastest)
                self.carries.brought(largest, now)
            self._settle(largest, now)
        elif queue < aim:
            self.window = self._startup.widened(self.window, largest, self._trip_s, self._thin)

    def _ours(self, now: float) -> bool:
        """Whether a queue in STARTUP is our own doing."""
        trip = self._trip_s
        used = Startup.used(WINDOW_START_BYTES, self.carries.delivered, self.delays.base_rtt_s)
        pressed = used or now - self._limited_at < 2 * trip
        return self._startup.ours(self.delays.short_at, trip, now, pressed=pressed)

    def _settle(self, largest: float, now: float) -> None:
        """STARTUP is over."""
        self.phase = Phase.STEADY
        self.delays.short_at = now
        self._sharing.begins(now)
        rate = largest or self.rate
        self.carries.at_least(rate)
        self._settled_at = now + self._trip_s + self.window / rate
        self.window = max(self._target(rate), WINDOW_START_BYTES)

    def _steady(self, queue: float, largest: float, now: float) -> None:
        if not largest:
            return
        if not self._used:
            self.delays.short_at = now  # none of the queue is ours
            return
        aim = self.queue_aim_s
        if queue > QUEUE_HIGH * self._deep_queue_s:
            self._aim.deep(now)
        drained = self._correction.drained
        held = self._limited or self._held
        careful = self.losses.near(self.window, now)
        self._correction.note_round(queue, aim, held=held, careful=careful, shallow=self.shallow)
        if now - self.delays.short_at > DRAIN_AFTER_S:
            self.delays.short_at = now
            self.window = DRAIN * largest * self.delays.base_rtt_s
            self._correction.drains()
            return
        target = self._target(largest) * self._correction.value
        if target < self.window:
            if (self._limited and queue >= aim) or queue > 2 * aim or drained:
                self.window += (target - self.window) / 2
        elif held or drained:
            self.window = target if drained else min(target, self.window * STEP_MAX)

    @property
    def _used(self) -> bool:
        """Whether the round says anything of the window. That of a few ACKs does not: their samples, late by
        the line's jitter, made four datagrams of it, and the next flow began with those (design.md, 5)."""
        said = self._limited or self._held or self._correction.drained
        return said or Startup.used(self.window, self.carries.delivered, self.delays.base_rtt_s)

    def _who_else(self, queue: float, largest: float, now: float) -> None:
        """Is the queue ours alone?"""
        seen = self._seen(queue)
        if self.phase is Phase.STEADY:
            small = self._correction.smallest
            verdict = self._sharing.alone(seen, self.window, largest, self.losses.share, now, small=small)
            if verdict is Verdict.OTHERS:
                self.phase = Phase.CONTENDED
        else:
            verdict, self.window = self._sharing.beside(seen, now)
            if verdict is not None:
                self.phase = Phase.STEADY
                self._correction.reset()
        if verdict is Verdict.ROUTE:
            self._longer_route(now)
        elif verdict is Verdict.SHORT:
            self.delays.short(queue)

    def _seen(self, queue: float) -> Round:
        """As if a datagram took what it does at the line's best: beside others we have a share of the rate,
        but each leaves at all of it."""
        datagram_s = self._datagram_s
        least = min(datagram_s, self._sharing.datagram_s)
        aim = self.queue_aim_s
        if aim <= QUEUE_AIM_DATAGRAMS * datagram_s:
            aim = self._aim.slow_queue_s(least)
        return Round(
            queue=queue + datagram_s - least,
            aim=aim,
            rate=self.carries.over(max(self.delays.srtt_s, RATE_WINDOW_S)),
            came=self._round_came,
            lost=self._round_lost,
            used=self._limited or self._held,
            trip_s=self.delays.srtt_s + self.report_s,
            empty_trip_s=self._trip_s,
        )

    def _longer_route(self, now: float) -> None:
        self.delays.longer_route(self._sharing.queue_s, now)
        self._correction.reset()
        if self._sharing.best < inf:
            self.carries.brought(self._sharing.best, now)  # what made the line idle was a mistake


def _first_rate(rtt_s: float) -> float:
    """Bytes a second of a line of that round-trip time, as a guess: a first window in each."""
    return WINDOW_START_BYTES / max(rtt_s, RTT_MIN_S)
