"""Congestion control of the simulated senders: reno, cubic, bbr. Windows in segments, times in seconds.

After Linux 6.x (net/ipv4/tcp_cubic.c, tcp_bbr.c) and RFC 9438. Left out: cubic's idle epochs (the senders
always have something to send), bbr's long-term sampling against policers, ECN.
"""

from collections import deque
from typing import Any, Protocol

INITIAL_WINDOW = 10.0
NEVER = float("inf")


class Sample:
    """What one ACK told: see tcp_rate.c."""

    __slots__ = (
        "acked",
        "app_limited",
        "delivered",
        "interval",
        "losses",
        "prior_delivered",
        "prior_in_flight",
        "rtt",
    )

    def __init__(self) -> None:
        self.acked = self.delivered = self.losses = self.prior_in_flight = self.prior_delivered = 0
        self.app_limited = False
        self.interval = -1.0
        self.rtt: float | None = None


class Sender(Protocol):
    """What the algorithms see of a connection."""

    cwnd: float
    ssthresh: float
    srtt: float
    delivered: int

    @property
    def in_flight(self) -> int: ...


class Reno:
    """RFC 5681 with Linux' appropriate byte counting."""

    name = "reno"
    paced = False
    beta = 0.5

    def __init__(self, sender: Any) -> None:
        self.tcp = sender

    def ssthresh(self) -> float:
        return max(self.tcp.cwnd * self.beta, 2.0)

    def acked(self, sample: Sample, now: float) -> None:
        """New data was acknowledged outside recovery, and the window was in use."""
        tcp, acked = self.tcp, float(sample.acked)
        if tcp.cwnd < tcp.ssthresh:
            grown = min(tcp.cwnd + acked, max(tcp.ssthresh, tcp.cwnd))
            acked -= grown - tcp.cwnd
            tcp.cwnd = grown
        if acked > 0:
            self.avoid(acked, now)

    def avoid(self, acked: float, now: float) -> None:
        self.tcp.cwnd += acked / self.tcp.cwnd

    def sampled(self, sample: Sample, now: float) -> None:
        """Every ACK."""

    def lost_all(self) -> None:
        """A retransmission timeout."""

    def restored(self) -> None:
        """A window reduction was undone."""

    def pacing_rate(self) -> float:
        """Segments per second, only for sizing super-frames here."""
        tcp = self.tcp
        factor = 2.0 if tcp.cwnd < tcp.ssthresh / 2 else 1.2
        return factor * tcp.cwnd / tcp.srtt if tcp.srtt else 1e9


class Cubic(Reno):
    """RFC 9438 with HyStart (both exits) as in Linux."""

    name = "cubic"
    beta = 717 / 1024
    c = 0.41  # bic_scale 41
    low_window = 16
    train_gap_s = 0.002
    delay_min_s, delay_max_s = 0.004, 0.016
    delay_samples = 8

    def __init__(self, sender: Any) -> None:
        super().__init__(sender)
        self.lost_all()

    def lost_all(self) -> None:
        self.last_max = 0.0
        self.delay_min = 0.0
        self.found = False
        self.reset_epoch()
        self._round(0.0)

    def reset_epoch(self) -> None:
        self.epoch = 0.0
        self.count_acked = 0.0

    def ssthresh(self) -> float:
        self.reset_epoch()
        cwnd = self.tcp.cwnd
        self.last_max = cwnd * (1 + self.beta) / 2 if cwnd < self.last_max else cwnd
        return max(cwnd * self.beta, 2.0)

    def restored(self) -> None:
        self.last_max = max(self.last_max, self.tcp.cwnd)

    def avoid(self, acked: float, now: float) -> None:
        tcp = self.tcp
        cwnd = tcp.cwnd
        self.count_acked += acked
        if not self.epoch:
            self.epoch = now
            self.count_acked = acked
            self.friendly = cwnd
            if self.last_max <= cwnd:
                self.k, self.origin = 0.0, cwnd
            else:
                self.k, self.origin = ((self.last_max - cwnd) / self.c) ** (1 / 3), self.last_max
        target = self.origin + self.c * (now + self.delay_min - self.epoch - self.k) ** 3
        count = cwnd / (target - cwnd) if target > cwnd else 100 * cwnd
        if self.last_max == 0 and count > 20:
            count = 20.0
        per = cwnd * (1 + self.beta) / (3 * (1 - self.beta))  # acks per segment of a reno-like window
        grown, self.count_acked = divmod(self.count_acked, per)
        self.friendly += grown
        if self.friendly > cwnd:
            count = min(count, cwnd / (self.friendly - cwnd))
        tcp.cwnd += acked / max(count, 2.0)

    # -- HyStart --------------------------------------------------------------------------------
    def _round(self, now: float) -> None:
        self.round_start = self.last_ack = now
        self.round_end = self.tcp.next_segment
        self.current = NEVER
        self.samples = 0

    def sampled(self, sample: Sample, now: float) -> None:
        rtt = sample.rtt
        if rtt is None:
            return
        tcp = self.tcp
        if self.delay_min == 0 or rtt < self.delay_min:
            self.delay_min = rtt
        if self.found or tcp.cwnd >= tcp.ssthresh or tcp.cwnd < self.low_window:
            return
        if tcp.una > self.round_end:
            self._round(now)
        if now - self.last_ack <= self.train_gap_s:
            self.last_ack = now
            gap = min(0.001, 65_536 / 1448 / self.pacing_rate())
            if now - self.round_start > (self.delay_min + gap) / 2:
                self._exit()
                return
        self.current = min(self.current, rtt)
        if self.samples < self.delay_samples:
            self.samples += 1
        elif self.current > self.delay_min + min(max(self.delay_min / 8, self.delay_min_s), self.delay_max_s):
            self._exit()

    def _exit(self) -> None:
        self.found = True
        self.tcp.ssthresh = self.tcp.cwnd


class WindowedMax:
    """Largest value of the last `width` ticks."""

    def __init__(self, width: int) -> None:
        self.width = width
        self.kept: deque[tuple[int, float]] = deque()

    def add(self, tick: int, value: float) -> None:
        kept = self.kept
        while kept and kept[-1][1] <= value:
            kept.pop()
        kept.append((tick, value))
        while kept[0][0] <= tick - self.width:
            kept.popleft()

    @property
    def best(self) -> float:
        return self.kept[0][1] if self.kept else 0.0


class Bbr:
    """bbr version 1."""

    name = "bbr"
    paced = True
    high_gain = 2885 / 1000
    cycle = (1.25, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
    margin = 0.99
    min_rtt_s, probe_rtt_s = 10.0, 0.2
    min_window = 4.0
    extra_acked_max_s = 0.1

    def __init__(self, sender: Any) -> None:
        self.tcp = sender
        self.mode = "startup"
        self.pacing_gain = self.cwnd_gain = self.high_gain
        self.bandwidth = WindowedMax(10)  # segments per second, over rounds
        self.min_rtt = NEVER
        self.min_rtt_at = 0.0
        self.rounds = 0
        self.next_round = 0
        self.round_started = False
        self.full_bandwidth = 0.0
        self.full_count = 0
        self.cycle_index = 0
        self.cycle_at = 0.0
        self.probe_rtt_done = 0.0
        self.probe_rtt_round = False
        self.idle = False
        self.prior_cwnd = 0.0
        self.conserving = False
        self.previous = "open"  # the connection's state at the last ACK
        self.rate = 0.0
        self.extra = [0.0, 0.0]
        self.extra_rounds = 0
        self.extra_slot = 0
        self.epoch_at = 0.0
        self.epoch_acked = 0.0

    def ssthresh(self) -> float:
        self._save_cwnd()
        return self.tcp.ssthresh

    def acked(self, sample: Sample, now: float) -> None:
        """The model decides, in `sampled`."""

    def restored(self) -> None:
        self.full_bandwidth, self.full_count = 0.0, 0

    def lost_all(self) -> None:
        self.full_bandwidth = 0.0
        self.round_started = True
        self._save_cwnd()

    def _save_cwnd(self) -> None:
        cwnd = self.tcp.cwnd
        if self.tcp.state == "open" and self.mode != "probe_rtt":
            self.prior_cwnd = cwnd
        else:
            self.prior_cwnd = max(self.prior_cwnd, cwnd)

    def pacing_rate(self) -> float:
        if not self.rate:
            rtt = self.tcp.srtt or 0.001
            self.rate = self.high_gain * self.tcp.cwnd / rtt * self.margin
            if not self.tcp.srtt:
                rate, self.rate = self.rate, 0.0
                return rate
        return self.rate

    def _window(self, gain: float) -> float:
        if self.min_rtt == NEVER:
            return INITIAL_WINDOW
        window = gain * self.bandwidth.best * self.min_rtt
        window += 3 * self.tcp.burst_segments()
        window = float((int(window) + 2) & ~1)
        if self.mode == "probe_bw" and self.cycle_index == 0:
            window += 2
        return window

    @property
    def full(self) -> bool:
        return self.full_count >= 3

    def sampled(self, sample: Sample, now: float) -> None:
        self._update_bandwidth(sample)
        self._update_aggregation(sample, now)
        self._update_cycle(sample, now)
        self._check_full(sample)
        self._check_drain(now)
        self._update_min_rtt(sample, now)
        rate = self.bandwidth.best * self.pacing_gain * self.margin
        if rate and (self.full or rate > self.pacing_rate()):
            self.rate = rate
        self._set_cwnd(sample)

    def _update_bandwidth(self, sample: Sample) -> None:
        self.round_started = False
        if sample.interval <= 0 or sample.delivered <= 0:
            return
        if sample.prior_delivered >= self.next_round:
            self.next_round = self.tcp.delivered
            self.rounds += 1
            self.round_started = True
            self.conserving = False
        rate = sample.delivered / sample.interval
        if not sample.app_limited or rate >= self.bandwidth.best:
            self.bandwidth.add(self.rounds, rate)

    def _update_aggregation(self, sample: Sample, now: float) -> None:
        if not sample.acked or sample.interval <= 0 or sample.delivered <= 0:
            return
        if self.round_started:
            self.extra_rounds += 1
            if self.extra_rounds >= 5:
                self.extra_rounds = 0
                self.extra_slot ^= 1
                self.extra[self.extra_slot] = 0.0
        expected = self.bandwidth.best * (now - self.epoch_at)
        if self.epoch_acked <= expected:
            self.epoch_acked, self.epoch_at, expected = 0.0, now, 0.0
        self.epoch_acked += sample.acked
        extra = min(self.epoch_acked - expected, self.tcp.cwnd)
        self.extra[self.extra_slot] = max(self.extra[self.extra_slot], extra)

    def _update_cycle(self, sample: Sample, now: float) -> None:
        if self.mode != "probe_bw":
            return
        full_length = now - self.cycle_at > self.min_rtt
        if self.pacing_gain > 1:
            done = full_length and (sample.losses or sample.prior_in_flight >= self._window(self.pacing_gain))
        elif self.pacing_gain < 1:
            done = full_length or sample.prior_in_flight <= self._window(1.0)
        else:
            done = full_length
        if done:
            self._next_phase(now)

    def _next_phase(self, now: float) -> None:
        self.cycle_index = (self.cycle_index + 1) % 8
        self.cycle_at = now
        self.pacing_gain = self.cycle[self.cycle_index]

    def _check_full(self, sample: Sample) -> None:
        if self.full or not self.round_started:
            return
        if self.bandwidth.best >= self.full_bandwidth * 1.25:
            self.full_bandwidth, self.full_count = self.bandwidth.best, 0
            return
        self.full_count += 1

    def _check_drain(self, now: float) -> None:
        if self.mode == "startup" and self.full:
            self.mode = "drain"
            self.pacing_gain, self.cwnd_gain = 1 / self.high_gain, self.high_gain
            self.tcp.ssthresh = self._window(1.0)
        if self.mode == "drain" and self.tcp.in_flight <= self._window(1.0):
            self._probe_bandwidth(now)

    def _probe_bandwidth(self, now: float) -> None:
        self.mode = "probe_bw"
        self.cwnd_gain = 2.0
        self.cycle_index = 7 - self.tcp.random(7)
        self._next_phase(now)

    def _update_min_rtt(self, sample: Sample, now: float) -> None:
        expired = now > self.min_rtt_at + self.min_rtt_s
        if sample.rtt is not None and (sample.rtt <= self.min_rtt or expired):
            self.min_rtt, self.min_rtt_at = sample.rtt, now
        if expired and self.mode != "probe_rtt" and self.full:
            self.mode = "probe_rtt"
            self.pacing_gain = self.cwnd_gain = 1.0
            self._save_cwnd()
            self.probe_rtt_done = 0.0
        if self.mode != "probe_rtt":
            return
        self.tcp.app_limited = self.tcp.delivered + self.tcp.in_flight or 1
        if not self.probe_rtt_done and self.tcp.in_flight <= self.min_window:
            self.probe_rtt_done = now + self.probe_rtt_s
            self.probe_rtt_round = False
            self.next_round = self.tcp.delivered
        elif self.probe_rtt_done:
            self.probe_rtt_round = self.probe_rtt_round or self.round_started
            if self.probe_rtt_round and now > self.probe_rtt_done:
                self.min_rtt_at = now
                self.tcp.cwnd = max(self.tcp.cwnd, self.prior_cwnd)
                self._probe_bandwidth(now)

    def _set_cwnd(self, sample: Sample) -> None:
        tcp = self.tcp
        if sample.acked:
            cwnd = tcp.cwnd
            if sample.losses:
                cwnd = max(cwnd - sample.losses, 1.0)
            recovering = tcp.state == "recovery"
            if recovering and self.previous != "recovery":
                self.conserving = True
                self.next_round = tcp.delivered
                cwnd = tcp.in_flight + sample.acked
            elif self.previous != "open" and tcp.state == "open":
                cwnd = max(cwnd, self.prior_cwnd)
                self.conserving = False
            self.previous = tcp.state
            if self.conserving:
                cwnd = max(cwnd, tcp.in_flight + sample.acked)
            else:
                target = self._window(self.cwnd_gain)
                if self.full:
                    target += min(max(self.extra), self.bandwidth.best * self.extra_acked_max_s)
                    cwnd = min(cwnd + sample.acked, target)
                elif cwnd < target or tcp.delivered < INITIAL_WINDOW:
                    cwnd += sample.acked
                cwnd = max(cwnd, self.min_window)
            tcp.cwnd = cwnd
        if self.mode == "probe_rtt":
            tcp.cwnd = min(tcp.cwnd, self.min_window)


ALGORITHMS = {"reno": Reno, "cubic": Cubic, "bbr": Bbr}
