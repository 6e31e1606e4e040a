"""FEEDBACK in both directions: telling the peer what came, and learning from what it tells.

Reporter: Inbound notes each run on its lane's `Arrivals`; a report leaves every max(10 ms, RTT / 8), at once
when a gap showed or a fast line brought much, and never more often than REPORT_SHARE of the line that carries
it allows. Learner: a report takes what came out of the lane's flight, gives back what is lost for good, and
feeds the link's `Capacity`.
"""

from collections.abc import Callable, Sequence
from math import inf
from typing import Any, NamedTuple

from bondvpn.bond.arrivals import (
    GAP_REPORT_S,
    REPORT_DATAGRAMS,
    REPORT_RTTS,
    REPORT_S,
    REPORT_SHARE,
    REPORT_SPARSE_S,
)
from bondvpn.bond.delayscale import QUEUED_MAX_S, DelayScale
from bondvpn.bond.delivery import DATAGRAM_BYTES
from bondvpn.bond.flight import REORDER_S, Piece
from bondvpn.session.keypair import Keypair, ReceiveLane, SendLane
from bondvpn.session.link import Link
from bondvpn.wire import feedback
from bondvpn.wire.feedback import LaneReport
from bondvpn.wire.sealed import TIME_UNIT_S, nearest
from bondvpn.wire.transport import ETHERNET_LEN, OVERHEAD, split_index

CLOCK_STEP = round(1 / TIME_UNIT_S)  # one that goes back so far is another clock, not an older report
HEARD_S = 0.12  # behind the line heard last: two busy probes lost or late
# The same of a line that was heard at least each STEADY_S for so many reports. The sender waits: when
# one of two lines was cut a flow stood still for 320 to 510 ms in 4 runs of 10, and since then in none of 8.
HEARD_STEADY_S, STEADY_S, STEADY_REPORTS = 0.05, 0.025, 8
BETTER = 0.7  # of the present line's round trip, for reports to change to another
LANES_TOLD = 4  # each REPORT_S; more take longer in proportion: one costs both ends 30 µs
SPACING_MAX_S = 0.1  # on the thinnest line too: without reports nobody knows what it carries
REPORT_FRAME_BYTES = 120  # on two lanes, before there was one
_MASK16, _MASK32 = 0xFFFF, 0xFFFFFFFF


class Reporter:
    """When to report what came by the lanes of a session, by which link, and the report."""

    def __init__(self) -> None:
        self.due = inf
        """When the next report should leave."""
        self._last = -inf
        self._told = 0  # lanes of which the last one told
        self._spacing = 0.0  # that the line which carries the reports asks for
        self._frame_bytes = REPORT_FRAME_BYTES  # of the last one
        self._link: Link | None = None  # that carries the reports
        self._left_by: Link | None = None  # the last one
        self._heard_at = 0.0  # when that link was last heard, and in how many reports' time steadily
        self._steady = 0

    def noted(self, lane: ReceiveLane, srtt_s: float, now: float, *, bulk: bool) -> None:
        """Something that asks for a report came by `lane`; `bulk`: more than express and probes."""
        arrivals = lane.arrivals
        if arrivals.gap or (bulk and arrivals.train):
            due = self._last + max(GAP_REPORT_S, self._spacing)
        elif arrivals.news >= REPORT_DATAGRAMS:
            due = self._last + self._spacing
        else:
            least = REPORT_S * max(1.0, self._told / LANES_TOLD) if bulk else REPORT_SPARSE_S
            due = max(self._last, now - least) + max(least, srtt_s / REPORT_RTTS, self._spacing)
        self.due = min(self.due, due)

    def link(self, active: list[Link]) -> Link | None:
        """The quickest of the active links that were heard lately, but not another each time: the peer's
        round trips would change with it. One that just died would take all reports with it; a thin one would
        bring them quickly and seldom, so what they are apart by it counts too."""
        self._note_heard()
        newest = max((link.last_received for link in active), default=0.0)
        heard = [link for link in active if newest - link.last_received < self._silence_s(link)]
        best = min(heard, key=self._behind, default=None)
        present = self._link
        if best is None or present not in heard or self._behind(best) < BETTER * self._behind(present):
            self._link, self._steady = best, 0
        return self._link

    def _note_heard(self) -> None:
        """How steadily the link that carries the reports is heard."""
        link = self._link
        if link is not None and link.last_received > self._heard_at:
            often = link.last_received - self._heard_at < STEADY_S
            self._heard_at, self._steady = link.last_received, self._steady + 1 if often else 0

    def _silence_s(self, link: Link) -> float:
        """How long the others may have been heard without it."""
        return HEARD_STEADY_S if link is self._link and self._steady >= STEADY_REPORTS else HEARD_S

    def _behind(self, link: Link) -> float:
        """Twice how old the peer's knowledge would get: a round trip, twice what reports are apart, and the
        datagram that one may wait for (19 ms at 0.65 Mbit/s: with that line's reports 85 Mbit/s beside it
        brought 0.85 of Σ, not 0.97; simulated)."""
        known = link.capacity.known_rate
        datagram_s = DATAGRAM_BYTES / known if known else 0.0
        return link.srtt_s + 2 * self._spacing_of(link) + datagram_s

    def _spacing_of(self, link: Link) -> float:
        known = link.capacity.known_rate
        return min(self._frame_bytes / (REPORT_SHARE * known), SPACING_MAX_S) if known else 0.0

    def emit(self, keypairs: Sequence[Keypair], link: Link, now: float) -> bytes | None:
        """The FEEDBACK message to send by `link` now; None if there is no news."""
        self.due = inf
        self._last = now
        if link is not self._left_by:
            self._left_by = link
            _retell(keypairs)
        reports = []
        size = 1
        for keypair in keypairs:
            for lane in keypair.receive_lanes:
                if not lane.arrivals.worth_telling:
                    continue
                if size > feedback.REPORT_MAX_BYTES - feedback.LANE_REPORT_MAX_LEN:
                    self.due = now  # the rest in a message of its own
                    break
                report = _report(lane, now)
                size += feedback.LANE_REPORT_LEN + 4 * len(report.gaps)
                reports.append(report)
        self._told = len(reports)
        if not reports:
            return None
        self._frame_bytes = size + OVERHEAD + link.frame_overhead
        self._spacing = self._spacing_of(link)
        return feedback.emit(reports)


def _retell(keypairs: Sequence[Keypair]) -> None:
    """Another line carries the reports, mostly because the one before fell silent, and the last ones with it:
    to the peer all that they spoke of would be lost (up to a fifth of 400 datagrams on a line that dropped
    none, and with bbr, beside LTE that stood still now and then, 0.86 of Σ)."""
    for keypair in keypairs:
        for lane in keypair.receive_lanes:
            lane.arrivals.retell()


def _report(lane: ReceiveLane, now: float) -> LaneReport:
    arrivals, window = lane.arrivals, lane.window
    delay, spoken_for = arrivals.take(window.highest)
    spoken_for = min(spoken_for, window.highest + 1, feedback.SPOKEN_FOR_MAX)
    gaps = window.gaps(spoken_for, feedback.GAPS_MAX)
    if len(gaps) == feedback.GAPS_MAX:
        spoken_for = gaps[-1][0] + gaps[-1][1]
    return LaneReport(
        lane=lane.index,
        highest=window.highest & _MASK32,
        frame_bytes=arrivals.frame_bytes & _MASK32,
        arrived=int(arrivals.at / TIME_UNIT_S) & _MASK32,
        delay=feedback.NO_DELAY if delay is None else min(delay, feedback.NO_DELAY - 1),
        held=min(int((now - arrivals.at) / TIME_UNIT_S), _MASK16),
        spoken_for=spoken_for,
        gaps=tuple(gaps),
    )


class Learned(NamedTuple):
    """What a FEEDBACK message said of the datagrams under way."""

    came: list[Piece[Any]]
    lost: list[tuple[Link, Piece[Any]]]


class Learner:
    """Reads FEEDBACK messages for one session."""

    def __init__(self) -> None:
        self._scale = DelayScale()
        self._by = -1  # the number of the link by which the last one came

    def receive(
        self,
        sealed: bytes,
        lane_of: Callable[[int], SendLane | None],
        links: dict[int, Link],
        by: int,
        now: float,
    ) -> Learned | None:
        """What the message says; None if it is malformed or speaks of what was never sent."""
        reports = feedback.parse(sealed)
        if reports is None:
            return None
        known = []
        for report in reports:
            lane = lane_of(report.lane)
            link = links.get(split_index(report.lane)[1])
            if lane is None or link is None:
                continue  # of keys that are gone
            behind = lane.counter - 1 - report.highest & _MASK32
            highest = lane.counter - 1 - behind
            if highest < 0:
                return None  # before anything is taken out of a flight: who else would give it back?
            known.append((report, lane, link, highest))
        if by != self._by:
            self._by = by
            for link in links.values():
                link.capacity.reports_moved(now)
        came: list[Piece[Any]] = []
        lost: list[tuple[Link, Piece[Any]]] = []
        for report, lane, link, highest in known:
            outcome = lane.flight.report(highest, report.gaps, report.spoken_for)
            came += outcome.came
            lost += [(link, piece) for piece in outcome.lost]
            rtt_s = None
            if outcome.sent_at is not None:
                old = link.old_lane
                if old is not None and old is not lane and old.flight.oldest < outcome.sent_at - REORDER_S:
                    lost += [(link, piece) for piece in old.flight.drain()]
                rtt_s = max(now - outcome.sent_at - report.held * TIME_UNIT_S, 0.0)
                link.capacity.on_rtt(rtt_s, now, outcome.sent_at)
            delay = None
            if report.delay != feedback.NO_DELAY:
                delay = self._delay_of(link, links.get(by), report.delay, rtt_s, now)
            self._learn(link, lane, report, delay, outcome.came_count, outcome.lost_count, now)
            came_bytes, lost_bytes = outcome.came_largest - ETHERNET_LEN, outcome.lost_largest - ETHERNET_LEN
            link.path_mtu.reported(came_bytes, lost_bytes, outcome.lost_count, now)
            if outcome.came_count:
                link.progressed = now
                link.fit_probes(len(links))
        return Learned(came, lost)

    def _learn(
        self,
        link: Link,
        lane: SendLane,
        report: LaneReport,
        delay: float | None,
        came: int,
        lost: int,
        now: float,
    ) -> None:
        link.lost_datagrams += lost
        brought = nearest(report.frame_bytes - lane.reported_bytes, 32)
        if brought < 0:
            return  # a later report has overtaken this one
        link.reported_bytes += brought
        lane.reported_bytes = report.frame_bytes
        if link.peer_clock is None:
            link.peer_clock = report.arrived
        passed = nearest(report.arrived - link.peer_clock, 32)
        if passed > 0 or passed < -CLOCK_STEP:
            link.peer_clock = report.arrived
            link.reported_at += max(passed, 0)
        link.capacity.on_report(link.reported_bytes, link.reported_at * TIME_UNIT_S, delay, came, lost, now)

    def _delay_of(
        self, link: Link, reporter: Link | None, told: int, rtt_s: float | None, now: float
    ) -> float | None:
        """A one-way delay in seconds. Where the round trip says that it may be more than 16 bits hold, that
        is what counts. A probe's delay comes without one, and before the answer when reports come by a
        quicker link: it is not told at all while a probe has been under way for so long."""
        base, empty_s = link.capacity.delays.base_delay_s, _empty_trip_s(link, reporter)
        queued = None
        if rtt_s is not None:
            queued = rtt_s - empty_s
            if queued > QUEUED_MAX_S and base is not None:
                return base + queued
        elif link.liveness.waits_s(now) - empty_s > QUEUED_MAX_S:
            return None
        delay = self._scale.place(told, link.number, link.liveness.rtt, now, queued)
        return None if delay is None else delay * TIME_UNIT_S


def _empty_trip_s(link: Link, reporter: Link | None) -> float:
    """The shortest round trip that goes by one link and returns by the other: the shortest of late, or half
    of what probes took on each, for somebody's queue may have stood ever since reports come by that one."""
    probed = [each.liveness.rtt.min_s for each in (link, reporter) if each and each.liveness.rtt.min_s]
    lately = link.capacity.delays.base_rtt_s
    return min(lately, sum(probed) / len(probed)) if probed else lately
