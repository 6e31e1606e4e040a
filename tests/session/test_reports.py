"""FEEDBACK in both directions: when a report leaves, and what is learned from one, genuine or not."""

import math
from itertools import pairwise
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tunnelends import INDEX, QuietLinks, StubSession, keypair

from bondvpn.bond.arrivals import (
    GAP_REPORT_S,
    REPORT_DATAGRAMS,
    REPORT_RTTS,
    REPORT_S,
    REPORT_SHARE,
    REPORT_SPARSE_S,
    REPORT_TRAIN,
    SPOKEN_FOR_MIN,
    SPOKEN_FOR_REPORTS,
)
from bondvpn.bond.capacity import Phase
from bondvpn.bond.delayscale import QUEUED_MAX_S
from bondvpn.noise.replay import WINDOW
from bondvpn.session.link import Link
from bondvpn.session.reports import (
    BETTER,
    HEARD_S,
    HEARD_STEADY_S,
    LANES_TOLD,
    SPACING_MAX_S,
    STEADY_REPORTS,
    STEADY_S,
    Learned,
    Learner,
    Reporter,
)
from bondvpn.stats import Drops
from bondvpn.wire import feedback
from bondvpn.wire.feedback import NO_DELAY, LaneReport
from bondvpn.wire.sealed import FEEDBACK, TIME_UNIT_S
from bondvpn.wire.transport import OVERHEAD, lane_index, split_index

FRAME = 1500
START = 1000.0


class Receiving:
    """One lane that receives, and its reporter."""

    def __init__(self, rate: float | None = None) -> None:
        """`rate`: bytes a second of the line that carries the reports, None: not known."""
        self.keypair = keypair(StubSession(), initiator=False)
        lane = self.keypair.receive_lane(0)
        assert lane is not None
        self.lane = lane
        self.reporter = Reporter()
        self.link = Link(0, "line", QuietLinks(), Drops())
        if rate is not None:
            self.link.set_send_rate(round(rate * 8))

    def come(self, first: int, count: int, now: float, *, srtt_s: float = 0.02, bulk: bool = True) -> None:
        """Datagrams with the counters from `first` on."""
        for counter in range(first, first + count):
            assert self.lane.window.accept(counter)
        self.lane.arrivals.came(first, count, count * FRAME, now)
        self.lane.arrivals.data(count, 0, now)
        self.reporter.noted(self.lane, srtt_s, now, bulk=bulk)

    def report(self, now: float) -> LaneReport:
        message = self.reporter.emit([self.keypair], self.link, now)
        assert message is not None
        reports = feedback.parse(message)
        assert reports is not None
        (report,) = reports
        return report


# -- by which link ----------------------------------------------------------------------------------
def heard(srtt_s: float, at: float) -> Link:
    link = Link(0, "line", QuietLinks(), Drops())
    link.liveness.rtt.add(srtt_s)
    link.last_received = at
    return link


def test_reports_stay_with_a_link_unless_another_is_much_quicker() -> None:
    reporter = Reporter()
    present, other, quick = heard(0.020, START), heard(0.020 * BETTER, START), heard(0.019 * BETTER, START)
    assert reporter.link([]) is None
    assert reporter.link([present]) is present
    assert reporter.link([present, other]) is present
    assert reporter.link([present, other, quick]) is quick
    assert reporter.link([present]) is present


def test_a_thin_link_carries_no_reports_however_quick_it_is() -> None:
    """At 2 % of 0.65 Mbit/s they would be 70 ms apart."""
    reporter = Reporter()
    thin, thick = heard(0.002, START), heard(0.045, START)
    assert reporter.link([thin, thick]) is thin, "while nothing is known"
    for link, bps in ((thin, 650_000), (thick, 85_000_000)):
        link.capacity.phase, link.capacity.carries.mean = Phase.STEADY, bps / 8
    assert reporter.link([thin, thick]) is thick


@pytest.mark.parametrize(("mbit", "chosen"), [(0.65, "thick"), (2.6, "thin")])
def test_the_datagram_that_a_report_may_wait_for_counts(mbit: float, chosen: str) -> None:
    """19 ms at 0.65 Mbit/s, 5 at 2.6."""
    reporter = Reporter()
    thin, thick = heard(0.030, START), heard(0.045, START)
    reporter._frame_bytes = 0
    links = {"thin": thin, "thick": thick}
    for link, rate in ((thin, mbit), (thick, 85.0)):
        link.capacity.phase, link.capacity.carries.mean = Phase.STEADY, rate * 1e6 / 8
    assert reporter.link([thin, thick]) is links[chosen]


@pytest.mark.parametrize("behind_s", [0.9 * HEARD_S, 1.1 * HEARD_S])
def test_reports_leave_a_link_that_is_not_heard_any_more(behind_s: float) -> None:
    reporter = Reporter()
    quick, slow = heard(0.010, START), heard(0.100, START)
    assert reporter.link([quick, slow]) is quick
    slow.last_received += behind_s
    assert reporter.link([quick, slow]) is (quick if behind_s < HEARD_S else slow)
    quick.last_received = slow.last_received
    assert reporter.link([quick, slow]) is quick


@pytest.mark.parametrize(("apart_s", "waits_s"), [(STEADY_S / 2, HEARD_STEADY_S), (2 * STEADY_S, HEARD_S)])
def test_reports_leave_a_link_the_sooner_the_more_steadily_it_was_heard(
    apart_s: float, waits_s: float
) -> None:
    """Between the probes of a line that carries nothing else there are 75 ms."""
    reporter = Reporter()
    quick, slow = heard(0.010, START), heard(0.100, START)
    for _ in range(STEADY_REPORTS + 2):  # by which it is chosen and first heard
        quick.last_received += apart_s
        slow.last_received += apart_s
        assert reporter.link([quick, slow]) is quick
    slow.last_received += 0.9 * waits_s
    assert reporter.link([quick, slow]) is quick
    slow.last_received += 0.2 * waits_s
    assert reporter.link([quick, slow]) is slow


# -- when -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("srtt_s", "bulk", "apart"),
    [
        (0.02, True, REPORT_S),
        (0.4, True, 0.4 / REPORT_RTTS),
        (0.02, False, REPORT_SPARSE_S),
        (0.8, False, 0.8 / REPORT_RTTS),
    ],
)
def test_reports_are_an_eighth_of_the_round_trip_apart_but_not_less_than(
    srtt_s: float, bulk: bool, apart: float
) -> None:
    end = Receiving()
    assert end.reporter.due == inf
    end.come(0, 1, START, srtt_s=srtt_s, bulk=bulk)
    end.report(end.reporter.due)
    assert end.reporter.due == inf
    last = START + 1
    end.come(1, 1, last, srtt_s=srtt_s, bulk=bulk)
    end.report(last)
    end.come(2, 1, last + 0.001, srtt_s=srtt_s, bulk=bulk)
    assert end.reporter.due == pytest.approx(last + apart)


def test_after_a_pause_the_first_report_is_as_late_as_any() -> None:
    """What comes in the meantime is told with it."""
    end = Receiving()
    end.come(0, 1, START)
    assert START <= end.reporter.due <= START + REPORT_S
    due = end.reporter.due
    end.come(1, 1, START + 0.002)
    assert end.reporter.due == due


def test_a_gap_is_told_at_once_but_not_each_by_itself() -> None:
    end = Receiving()
    end.come(0, 1, START)
    end.report(START)
    end.come(2, 1, START + 0.0001)
    assert end.reporter.due == pytest.approx(START + GAP_REPORT_S)
    report = end.report(START + GAP_REPORT_S)
    assert report.gaps == ((1, 1),)
    end.come(4, 1, START + 1)
    assert end.reporter.due <= START + 1


def test_a_fast_line_is_reported_on_before_the_time() -> None:
    end = Receiving()
    end.come(0, 1, START)
    end.report(START)
    end.come(1, REPORT_DATAGRAMS, START + 0.0001)
    assert end.reporter.due <= START + 0.0001


def test_a_new_lane_is_told_of_after_each_train() -> None:
    end = Receiving()
    end.come(0, 1, START)
    end.report(START)
    end.come(1, REPORT_TRAIN - 1, START + 0.0001)
    assert end.reporter.due == pytest.approx(START + REPORT_S)
    end.come(REPORT_TRAIN, 1, START + 0.0002)
    assert end.reporter.due == pytest.approx(START + GAP_REPORT_S)


@pytest.mark.parametrize("lanes", [1, LANES_TOLD, 2 * LANES_TOLD])
def test_many_lanes_are_told_of_less_often(lanes: int) -> None:
    one = Receiving()
    for counter in range(2):
        for number in range(lanes):
            lane = one.keypair.receive_lane(number)
            assert lane is not None
            assert lane.window.accept(counter)
            lane.arrivals.came(counter, 1, FRAME, START)
            lane.arrivals.data(1, 0, START)
            one.reporter.noted(lane, 0.0, START, bulk=True)
        if not counter:
            assert one.reporter.emit([one.keypair], one.link, START) is not None
    assert one.reporter.due == pytest.approx(START + REPORT_S * max(1, lanes / LANES_TOLD))


@pytest.mark.parametrize("rate", [12_500, 125_000, 1_250_000])
def test_reports_take_a_small_share_of_the_line_that_carries_them(rate: int) -> None:
    end = Receiving(rate)
    now = START
    sent = counter = 0
    while now < START + 20:
        end.come(counter, 2, now)
        counter += 3  # a gap each time
        if now >= end.reporter.due:
            message = end.reporter.emit([end.keypair], end.link, now)
            assert message is not None
            sent += len(message) + OVERHEAD + end.link.frame_overhead
        now += 0.001
    least = 20 / SPACING_MAX_S * 600  # the thinnest line is reported by as well
    assert sent <= max(1.1 * REPORT_SHARE * 20 * rate, least)


def test_nothing_came_nothing_is_told() -> None:
    end = Receiving()
    assert end.reporter.emit([end.keypair], end.link, START) is None
    end.come(0, 1, START)
    end.report(START)
    assert end.reporter.emit([end.keypair], end.link, START + 1) is None


def test_more_gaps_than_a_report_holds_shorten_what_it_speaks_for() -> None:
    """Nothing that is missing may be taken for having come."""
    end = Receiving()
    for counter in range(0, 400, 2):
        end.come(counter, 1, START)
    report = end.report(START)
    assert len(report.gaps) == feedback.GAPS_MAX
    back, count = report.gaps[-1]
    assert report.spoken_for == back + count


def test_a_report_is_repeated_by_the_next_ones() -> None:
    end = Receiving()
    end.come(0, 10, START)
    end.come(11, 1, START)
    assert end.report(START).gaps == ((1, 1),)
    end.come(12, 200, START + 0.1)
    report = end.report(START + 0.1)
    assert report.gaps == ((201, 1),)


def test_reports_by_another_link_say_again_what_the_silent_one_carried() -> None:
    end = Receiving()
    for i in range(20):
        end.come(100 * i, 100, START + i * REPORT_S)
        assert end.report(START + i * REPORT_S).spoken_for <= 100 * (SPOKEN_FOR_REPORTS + 1)
    end.link = Link(1, "other", QuietLinks(), Drops())
    for i in range(SPOKEN_FOR_REPORTS):  # each of the first ones may be lost
        end.come(2000 + i, 1, START + 1 + i)
        assert end.report(START + 1 + i).spoken_for == 2001 + i
    end.come(2004, 1, START + 9)
    assert end.report(START + 9).spoken_for == SPOKEN_FOR_MIN


def test_no_report_speaks_for_what_the_replay_window_has_forgotten() -> None:
    """What it does not know would have come."""
    end = Receiving()
    end.come(0, 1, START)
    end.come(2, WINDOW, START)
    report = end.report(START)
    assert report.gaps == ()
    assert report.highest - report.spoken_for >= 1


def test_what_does_not_fit_one_message_is_told_by_the_next_at_once() -> None:
    """A report must fit the smallest path MTU, however many lanes have gaps."""
    end = Receiving()
    for number in range(6):
        lane = end.keypair.receive_lane(number)
        assert lane is not None
        for counter in range(0, 400, 2):
            lane.window.accept(counter)
            lane.arrivals.came(counter, 1, FRAME, START)
        lane.arrivals.data(200, 0, START)
    told: list[int] = []
    while (message := end.reporter.emit([end.keypair], end.link, START)) is not None:
        assert len(message) <= feedback.REPORT_MAX_BYTES
        reports = feedback.parse(message)
        assert reports
        told += [split_index(report.lane)[1] for report in reports]
        assert end.reporter.due == (START if len(told) < 6 else inf)
    assert sorted(told) == list(range(6))


# -- what is learned --------------------------------------------------------------------------------
class Sending:
    """One lane that sends, and what is learned from reports on it."""

    def __init__(self) -> None:
        self.keypair = keypair(StubSession(), initiator=True)
        self.lane = self.keypair.send_lane(0)
        self.link = Link(0, "line", QuietLinks(), Drops())
        self.link.send_lane = self.lane
        self.links = {0: self.link}
        self.learner = Learner()
        self.now = START

    def send(self, count: int, load: str = "") -> None:
        self.lane.flight.sent(self.lane.counter, count, FRAME, load, self.now)
        self.lane.counter += count

    def take(self, *reports: LaneReport, by: int = 0) -> Learned | None:
        return self.learner.receive(
            feedback.emit(list(reports)), self.keypair.sending, self.links, by, self.now
        )


def report_of(highest: int, **rest: int | tuple[tuple[int, int], ...]) -> LaneReport:
    fields: dict[str, int | tuple[tuple[int, int], ...]] = {
        "frame_bytes": (highest + 1) * FRAME & 0xFFFFFFFF,
        "arrived": 1,
        "delay": NO_DELAY,
        "held": 0,
        "spoken_for": min(highest + 1, 4096),
        "gaps": (),
        **rest,
    }
    return LaneReport(lane=lane_index(INDEX, 0), highest=highest & 0xFFFFFFFF, **fields)  # type: ignore[arg-type]


def test_what_came_and_what_was_lost_are_told_apart() -> None:
    end = Sending()
    end.send(10, "first")
    end.send(10, "second")
    learned = end.take(report_of(19, gaps=((6, 2),)))
    assert learned is not None
    assert [(piece.load, piece.start, piece.n) for _, piece in learned.lost] == [("second", 2, 2)]
    assert sum(piece.n for piece in learned.came) == 18
    assert end.link.in_flight == 0
    assert end.link.lost_datagrams == 2
    assert end.link.progressed == end.now


def test_counters_beyond_32_bits_are_meant() -> None:
    end = Sending()
    end.lane.counter = 2**32 - 3
    end.send(10, "over")
    learned = end.take(report_of(2**32 + 6, spoken_for=64, frame_bytes=1))
    assert learned is not None
    assert learned.came == [("over", 0, 10)]


@pytest.mark.parametrize("highest", [10, 4000, 2**31, 2**32 - 1])
def test_a_report_of_what_was_never_sent_is_refused_and_takes_nothing(highest: int) -> None:
    end = Sending()
    end.send(10)
    assert end.take(report_of(9), report_of(highest, frame_bytes=0)) is None
    assert end.link.in_flight == 10 * FRAME, "what a report before it said would be nobody's"
    learned = end.take(report_of(9))
    assert learned is not None
    assert sum(piece.n for piece in learned.came) == 10


def test_reports_on_lanes_that_are_not_known_are_passed_over() -> None:
    end = Sending()
    end.send(10)
    strangers = [report_of(9)._replace(lane=index) for index in (lane_index(INDEX, 1), lane_index(7, 0))]
    learned = end.take(*strangers, report_of(9))
    assert learned is not None
    assert sum(piece.n for piece in learned.came) == 10


def test_bytes_are_counted_over_their_wrap() -> None:
    end = Sending()
    end.send(10)
    end.link.reported_bytes = end.lane.reported_bytes = 2**32 - 1000
    end.take(report_of(9, frame_bytes=2000))
    assert end.link.reported_bytes == 2**32 + 2000
    assert end.lane.reported_bytes == 2000


def test_a_report_that_was_overtaken_changes_no_sums() -> None:
    end = Sending()
    end.send(20)
    end.take(report_of(19, arrived=5000))
    before = end.link.reported_bytes, end.link.reported_at
    learned = end.take(report_of(9, arrived=4000))
    assert learned == Learned([], [])
    assert (end.link.reported_bytes, end.link.reported_at) == before


@pytest.mark.parametrize("clock", [0, 1, 2**31 - 1, 2**31 + 5, 2**32 - 40_000])
def test_the_peers_clock_may_stand_anywhere(clock: int) -> None:
    """It is its uptime: after 9.5 hours the first report is nearer to 0 from below."""
    end = Sending()
    times = []
    for i in range(5):
        end.send(10)
        end.now += 0.25
        end.take(report_of(10 * i + 9, arrived=clock + i * 15_625 & 0xFFFFFFFF))
        times.append(end.link.reported_at)
    assert [after - before for before, after in pairwise(times)] == [15_625] * 4


def test_a_peer_that_starts_anew_has_another_clock() -> None:
    end = Sending()
    for i, arrived in enumerate([3_000_000, 3_001_000, 500, 1500]):
        end.send(10)
        end.take(report_of(10 * i + 9, arrived=arrived))
    assert end.link.reported_at == 2000


def test_the_round_trip_leaves_out_what_the_report_waited() -> None:
    end = Sending()
    end.send(10)
    end.now += 0.050
    end.take(report_of(9, held=round(0.020 / TIME_UNIT_S)))
    assert end.link.capacity.delays.srtt_s == pytest.approx(0.030, abs=1e-4)


def test_delays_are_followed_over_their_wrap() -> None:
    """All lanes share the scale, and one-way delays between clocks that were never compared wrap anywhere."""
    end = Sending()
    bases = []
    for i, delay in enumerate([65_530, 65_534, 3, 65_530]):
        end.send(10)
        end.now += 6
        end.take(report_of(10 * i + 9, arrived=1 + i * 100, delay=delay))
        bases.append(end.link.capacity.delays._last_delay)
    assert [round((base or 0) / TIME_UNIT_S) for base in bases] == [65_530, 65_534, 65_539, 65_530]


@pytest.mark.parametrize("queue_s", [0.2, 0.6, 0.75])
def test_a_queue_of_more_than_half_a_clocks_turn_is_a_queue(queue_s: float) -> None:
    end = Sending()
    queue = round(queue_s / TIME_UNIT_S)
    for i, delay in enumerate([65_000, 65_000 + queue, 65_000]):
        end.send(10)
        end.now += 0.050
        end.take(report_of(10 * i + 9, arrived=1 + i * 3000, delay=delay % 65_536))
        delays = end.link.capacity.delays
        assert delays.base_delay_s == pytest.approx(65_000 * TIME_UNIT_S)
        assert delays._last_delay == pytest.approx((65_000 + (i == 1) * queue) * TIME_UNIT_S)


def test_a_queue_of_more_than_a_clocks_turn_is_told_by_the_round_trip() -> None:
    end = Sending()
    for i, (queue_s, within) in enumerate([(0.0, 1e-4), (0.9, 0.2), (0.0, 1e-4)]):
        end.send(10)
        end.now += 0.050 + queue_s
        delay = 65_000 + round(queue_s / TIME_UNIT_S)
        end.take(report_of(10 * i + 9, arrived=1 + i * 3000, delay=delay % 65_536))
        delays = end.link.capacity.delays
        assert delays.base_delay_s == pytest.approx(65_000 * TIME_UNIT_S)
        assert delays._last_delay == pytest.approx(65_000 * TIME_UNIT_S + queue_s, abs=within)


def test_a_queue_that_reports_by_a_quicker_link_tell_of_is_no_shorter_for_that() -> None:
    """86 Mbit/s of 325 ms, filled by others: 0.80 s of their queue, reported by a line of 39 ms, were taken
    for less than none, a flow that began later for a full line, and 0.3 of the sum was what it had."""
    end = Sending()
    end.links[1] = Link(1, "quick", QuietLinks(), Drops())
    trips = (0.325, 0.039)
    for link, trip_s in zip(end.links.values(), trips, strict=True):
        link.liveness.rtt.add(trip_s)
    for i, (by, queue_s) in enumerate([(0, 0.0), (1, 0.50), (1, 0.56), (1, 0.804)]):
        end.now += 2.0
        end.send(10)
        end.now += trips[0] / 2 + queue_s + trips[by] / 2
        delay = 10_180 + round(queue_s / TIME_UNIT_S)
        end.take(report_of(10 * i + 9, arrived=1 + i * 3000, delay=delay % 65_536), by=by)
        delays = end.link.capacity.delays
        assert delays.base_delay_s == pytest.approx(10_180 * TIME_UNIT_S)
        assert delays._last_delay == pytest.approx(10_180 * TIME_UNIT_S + queue_s, abs=1e-3)


@pytest.mark.parametrize("queue_s", [0.5, 0.81, 1.0])
def test_a_probe_that_is_told_of_before_its_answer_makes_no_base(queue_s: float) -> None:
    """The answer before said 0.69 s of queue; the next probe, a second later, waits for more."""
    end = Sending()
    end.links[1] = Link(1, "quick", QuietLinks(), Drops())
    for each, trips in ((end.link, (0.325, 0.325 + 0.69)), (end.links[1], (0.039, 0.039))):
        for trip_s in trips:
            each.liveness.rtt.add(trip_s)
    end.send(1)
    end.now += 0.182
    end.take(report_of(0, delay=10_180), by=1)
    base = 10_180 * TIME_UNIT_S
    end.now += 1.0
    end.link.liveness.probe(end.now)
    end.now += 0.182 + queue_s
    end.take(report_of(0, arrived=3000, delay=(10_180 + round(queue_s / TIME_UNIT_S)) % 65_536), by=1)
    delays = end.link.capacity.delays
    assert delays.base_delay_s == pytest.approx(base)
    told = base + queue_s if queue_s < QUEUED_MAX_S else base
    assert delays._last_delay == pytest.approx(told, abs=1e-3)


def test_what_the_old_keys_have_under_way_is_lost_when_later_data_came() -> None:
    end = Sending()
    end.send(10, "old")
    new = keypair(StubSession(), initiator=True).send_lane(1)
    end.link.rekey(new)
    end.now += 0.1
    new.flight.sent(0, 10, FRAME, "new", end.now)
    new.counter = 10
    lanes = {new.index: new, end.lane.index: end.lane}
    end.now += 0.02
    message = feedback.emit([report_of(9)._replace(lane=new.index)])
    learned = end.learner.receive(message, lanes.get, {1: end.link}, 1, end.now)
    assert learned is not None
    assert [piece.load for _, piece in learned.lost] == ["old"]


def test_reports_by_another_link_begin_new_round_trips() -> None:
    end = Sending()
    end.send(10, "")
    assert end.take(report_of(4)) is not None
    first = end.link.capacity.delays.base_rtt_s
    for by in (0, 1):
        end.now += 0.5
        assert end.take(report_of(5 + by), by=by) is not None
        assert (end.link.capacity.delays.base_rtt_s == first) is (by == 0)


def test_nothing_is_lost_because_the_link_that_carried_the_reports_fell_silent() -> None:
    """With 0.4 s of LTE's silence a steady line that dropped nothing was said to lose a fifth."""
    there, here = Receiving(), Sending()
    for i in range(12):
        here.send(20)
        there.come(20 * i, 20, START + i * REPORT_S)
        report = there.report(START + i * REPORT_S)
        if i < 2:
            assert here.take(report) is not None
    there.link = Link(1, "other", QuietLinks(), Drops())
    here.send(20)
    there.come(240, 20, START + 1)
    learned = here.take(there.report(START + 1), by=1)
    assert learned is not None
    assert learned.lost == []
    assert sum(piece.n for piece in learned.came) == 11 * 20
    assert here.link.in_flight == 0


# -- hostile ----------------------------------------------------------------------------------------
u16, u32 = st.integers(0, 2**16 - 1), st.integers(0, 2**32 - 1)
near = st.integers(0, 80)


@st.composite
def hostile_reports(draw: st.DrawFn) -> list[LaneReport]:
    """Well-formed, with anything in it; counters often near what was sent."""
    made = []
    for _ in range(draw(st.integers(1, 4))):
        gaps, below = [], 0
        for apart, count in draw(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 40)), max_size=20)):
            gaps.append((below + apart, count))
            below += apart + count - 1
        spoken_for = draw(st.one_of(st.integers(below + 1, below + 100), st.just(65_535)))
        lane = draw(st.sampled_from([lane_index(INDEX, 0), lane_index(INDEX, 0), lane_index(INDEX, 3), 0]))
        highest = draw(st.one_of(near, near, u32))
        made.append(
            LaneReport(lane, highest, draw(u32), draw(u32), draw(u16), draw(u16), spoken_for, tuple(gaps))
        )
    return made


@settings(max_examples=150, deadline=None, derandomize=True)
@given(batches=st.lists(hostile_reports(), min_size=1, max_size=6), junk=st.binary(max_size=60))
def test_no_report_makes_anything_come_twice_or_figures_senseless(
    batches: list[list[LaneReport]], junk: bytes
) -> None:
    end = Sending()
    total = 0
    spoken_of: list[tuple[int, int]] = []
    for reports in batches:
        end.send(12, str(total))
        total += 12
        end.now += 0.03
        learned = end.take(*reports)
        if learned is not None:
            pieces = learned.came + [piece for _, piece in learned.lost]
            spoken_of += [
                (int(piece.load), i) for piece in pieces for i in range(piece.start, piece.start + piece.n)
            ]
        capacity, delays = end.link.capacity, end.link.capacity.delays
        for figure in (capacity.window, capacity.rate, capacity.pace, delays.srtt_s, delays.queue_s):
            assert math.isfinite(figure)
            assert figure >= 0
        assert capacity.rate > 0
        assert capacity.window > 0
    assert len(spoken_of) == len(set(spoken_of))
    assert end.link.in_flight == (total - len(spoken_of)) * FRAME
    end.learner.receive(bytes((FEEDBACK,)) + junk, end.keypair.sending, {0: end.link}, 0, end.now)
