"""Liveness on a virtual clock: the table, the probes' pace, when silence is called and when it is not."""

import heapq
import random
import re
from collections.abc import Callable
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bondvpn.bond import liveness
from bondvpn.bond.liveness import (
    ALONE_S,
    ANSWERS_TO_RETURN,
    DEAD_AFTER_S,
    PROBE_BUSY_S,
    PROBE_DEAD_S,
    PROBES_LOST,
    TIMEOUT_FLOOR_S,
    TRANSITIONS,
    LinkEvent,
    LinkState,
    Liveness,
    RttEstimator,
)

STATES = {state.value: state for state in LinkState}
EVENTS = {event.value: event for event in LinkEvent}


# -- the table --------------------------------------------------------------------------------------
def documented() -> dict[tuple[LinkState, LinkEvent], LinkState]:
    """The table as the module's docstring draws it."""
    table = {}
    for line in (liveness.__doc__ or "").splitlines():
        row = re.match(r"\s+([A-Z]+|any)\s{2,}([a-z ]+?)\s{2,}([A-Z]+)", line)
        if row:
            states = LinkState if row[1] == "any" else [STATES[row[1].lower()]]
            for state in states:
                table[state, EVENTS[row[2]]] = STATES[row[3].lower()]
    return table


def test_the_table_is_the_one_in_the_docstring() -> None:
    missing = {(LinkState.STALLED, LinkEvent.MOVED), (LinkState.DEAD, LinkEvent.MOVED)} - set(documented())
    assert {row: to for row, to in TRANSITIONS.items() if row not in missing} == documented()


def in_state(state: LinkState) -> Liveness:
    ways = {
        LinkState.DOWN: [],
        LinkState.JOINING: [LinkEvent.PATH],
        LinkState.ACTIVE: [LinkEvent.PATH, LinkEvent.VALIDATED],
        LinkState.STALLED: [LinkEvent.PATH, LinkEvent.VALIDATED, LinkEvent.SILENT],
        LinkState.DEAD: [LinkEvent.PATH, LinkEvent.VALIDATED, LinkEvent.SILENT, LinkEvent.AGED],
    }
    made = Liveness()
    for event in ways[state]:
        assert made.happened(event, 0.0)
    assert made.state is state
    return made


@pytest.mark.parametrize("state", LinkState)
@pytest.mark.parametrize("event", LinkEvent)
def test_every_event_in_every_state_follows_the_table_or_changes_nothing(
    state: LinkState, event: LinkEvent
) -> None:
    link = in_state(state)
    to = TRANSITIONS.get((state, event), state)
    assert link.happened(event, 7.0) is (to is not state)
    assert link.state is to
    assert link.since == (0.0 if to is state else 7.0)


def test_another_path_forgets_probes_and_round_trips() -> None:
    for event in (LinkEvent.NO_PATH, LinkEvent.MOVED):
        link = in_state(LinkState.ACTIVE)
        link.answered(link.probe(1.0), 1.03)
        link.long_probes.sent(3, [7], 1.0)
        link.long_probes.answered(7, 1514, 1.1)
        stale = link.probe(2.0)
        link.happened(event, 2.01)
        assert link.long_probes.rate(0.03) == inf
        assert link.rtt.srtt_s == 0.0
        assert not link.answered(stale, 2.03)


# -- round trips ------------------------------------------------------------------------------------
def test_round_trips_are_smoothed_as_rfc_6298_says() -> None:
    rtt = RttEstimator()
    assert rtt.timeout_s == pytest.approx(TIMEOUT_FLOOR_S + 1.0)
    rtt.add(0.100)
    assert (rtt.srtt_s, rtt.var_s, rtt.min_s) == (0.100, 0.050, 0.100)
    rtt.add(0.060)
    assert rtt.var_s == pytest.approx(0.050 * 3 / 4 + 0.040 / 4)
    assert rtt.srtt_s == pytest.approx(0.100 * 7 / 8 + 0.060 / 8)
    assert rtt.min_s == 0.060
    assert rtt.timeout_s == pytest.approx(TIMEOUT_FLOOR_S + rtt.srtt_s + 4 * rtt.var_s)


def test_a_round_trip_through_the_queue_of_others_is_not_the_lines() -> None:
    rtt = RttEstimator()
    for one, empty in ((0.060, 0.060), (0.100, 0.065), (1.900, 0.060), (1.900, 0.060), (0.070, 0.070)):
        rtt.add(one)
        assert rtt.empty_s == pytest.approx(empty)


@given(st.lists(st.floats(0.001, 5.0), min_size=1, max_size=50))
def test_the_smoothed_round_trip_lies_between_the_extremes(samples: list[float]) -> None:
    rtt = RttEstimator()
    for sample in samples:
        rtt.add(sample)
    assert min(samples) - 1e-9 <= rtt.srtt_s <= max(samples) + 1e-9
    assert rtt.min_s == min(samples)


# -- probes -----------------------------------------------------------------------------------------
def test_an_answer_acknowledges_the_probes_before_it_and_counts_once() -> None:
    link = in_state(LinkState.ACTIVE)
    first, second, third = (link.probe(at) for at in (1.0, 1.1, 1.2))
    assert link.answered(second, 1.25)
    assert not link.answered(second, 1.26)
    assert not link.answered(first, 1.27)
    assert not link.answered(12345, 1.28)
    assert link.answered(third, 1.29)
    assert link.last_answer == 1.29


@pytest.mark.parametrize("state", [LinkState.DOWN, LinkState.JOINING])
def test_nothing_is_probed_before_its_path_is_proven(state: LinkState) -> None:
    assert in_state(state).due(busy=True) == float("inf")
    assert not in_state(state).ready(1e9, busy=True)


def test_the_pace_of_probes() -> None:
    link = in_state(LinkState.ACTIVE)
    link.answered(link.probe(10.0), 10.02)
    assert link.due(busy=True) == pytest.approx(10.0 + PROBE_BUSY_S)
    assert link.due(busy=False) == pytest.approx(10.0 + link.idle_s)
    for state, pace in ((LinkState.STALLED, PROBE_BUSY_S), (LinkState.DEAD, PROBE_DEAD_S)):
        silent = in_state(state)
        silent.probe(10.0)
        assert silent.due(busy=False) == pytest.approx(10.0 + pace)


def test_an_idle_link_of_any_round_trip_stays_at_the_idle_pace() -> None:
    for rtt in (0.02, 0.3, 0.9):
        sim = Simulation(rtt=rtt, busy=False)
        sim.run(100)
        assert 95 <= sim.probes <= 135


def test_a_late_answer_quickens_an_idle_link() -> None:
    link = in_state(LinkState.ACTIVE)
    for at in range(20):
        link.answered(link.probe(float(at)), at + 0.02)
    link.probe(20.0)
    due = link.due(busy=False)
    assert due < 20.2
    link.probe(due)
    assert link.due(busy=False) == pytest.approx(due + PROBE_BUSY_S)


def test_a_dead_link_keeps_no_endless_list() -> None:
    link = in_state(LinkState.DEAD)
    for at in range(5000):
        link.probe(float(at))
    assert len(link._unanswered) <= 256


# -- what silence means -----------------------------------------------------------------------------
class Simulation:
    """One link probed on a virtual clock, judged at each probe and each answer, and every 10 ms besides."""

    def __init__(self, *, rtt: float, busy: bool = True, alone: bool = False, seed: int = 1) -> None:
        self.link = in_state(LinkState.ACTIVE)
        self.now = 0.0
        self.rtt, self.busy, self.alone = rtt, busy, alone
        self.rng = random.Random(seed)
        self.lost: Callable[[], bool] = lambda: False
        self.jitter = 0.0
        self.probes = 0
        self.changes: list[tuple[float, LinkEvent]] = []
        self._answers: list[tuple[float, int]] = []
        self._judge_s = 0.010

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        look = self.now
        while self.now < end:
            if self.link.ready(self.now, busy=self.busy):
                self.probes += 1
                number = self.link.probe(self.now)
                if not self.lost():
                    delay = self.rtt + self.rng.random() * self.jitter
                    heapq.heappush(self._answers, (self.now + delay, number))
            while self._answers and self._answers[0][0] <= self.now:
                self.link.answered(heapq.heappop(self._answers)[1], self.now)
            others = -1e9 if self.alone else self.now
            event = self.link.judge(self.now, others, needed=self.alone)
            if event is not None:
                self.link.happened(event, self.now)
                self.changes.append((self.now, event))
            look = self.now + self._judge_s
            arrival = self._answers[0][0] if self._answers else end
            self.now = max(min(look, arrival, self.link.due(busy=self.busy)), self.now + 1e-6)


@pytest.mark.parametrize("rtt", [0.01, 0.03, 0.09, 0.1, 0.15, 0.235, 0.3, 0.6])
@pytest.mark.parametrize("lost_in_a_row", range(1, PROBES_LOST))
def test_fewer_lost_probes_than_stated_mean_nothing(rtt: float, lost_in_a_row: int) -> None:
    """At any round trip, and whenever one looks."""
    sim = Simulation(rtt=rtt)
    count = iter(range(10**9))
    sim.lost = lambda: next(count) % 20 < lost_in_a_row
    sim.run(120)
    assert sim.changes == []


@pytest.mark.parametrize("rtt", [0.02, 0.2])
def test_random_loss_kills_no_more_often_than_three_in_a_row_are_lost(rtt: float) -> None:
    """10 % of 20,000 probes: 20 times expected; at 1 % it would be once in 10^6."""
    sim = Simulation(rtt=rtt, seed=5)
    sim.lost = lambda: sim.rng.random() < 0.1
    sim.run(20_000 * PROBE_BUSY_S)
    silences = [at for at, event in sim.changes if event is LinkEvent.SILENT]
    assert 1 <= len(silences) <= 40


def test_an_hour_at_one_percent_of_loss_kill_nothing() -> None:
    sim = Simulation(rtt=0.04, seed=2)
    sim._judge_s = PROBE_BUSY_S
    sim.lost = lambda: sim.rng.random() < 0.01
    sim.run(3600)
    assert sim.changes == []


@pytest.mark.parametrize("rtt", [0.01, 0.05, 0.2, 0.6])
@pytest.mark.parametrize("phase", [0.0, 0.02, 0.04, 0.06])
def test_silence_is_called_within_its_bound(rtt: float, phase: float) -> None:
    """After the death: a pace until the first lost probe, two more, and the timeout of the third."""
    sim = Simulation(rtt=rtt)
    sim.run(20 + phase)
    sim.lost = lambda: True
    died = sim.now
    bound = PROBES_LOST * PROBE_BUSY_S + sim.link.rtt.timeout_s
    sim.run(bound + 0.011)
    assert [event for _, event in sim.changes] == [LinkEvent.SILENT]
    assert sim.changes[0][0] - died >= (PROBES_LOST - 1) * PROBE_BUSY_S


def test_alone_it_takes_alone_s() -> None:
    sim = Simulation(rtt=0.02, alone=True)
    sim.run(20)
    sim.lost = lambda: True
    died = sim.now
    sim.run(2)
    assert sim.changes[0][1] is LinkEvent.SILENT
    assert ALONE_S <= sim.changes[0][0] - died <= ALONE_S + PROBES_LOST * PROBE_BUSY_S + 0.02


def test_silence_ages_to_death() -> None:
    sim = Simulation(rtt=0.02)
    sim.run(5)
    sim.lost = lambda: True
    sim.run(6)
    silent, dead = sim.changes
    assert (silent[1], dead[1]) == (LinkEvent.SILENT, LinkEvent.AGED)
    assert dead[0] - silent[0] == pytest.approx(DEAD_AFTER_S, abs=0.02)


@pytest.mark.parametrize("rtt", [0.005, 0.02, 0.05, 0.2, 0.6])
@pytest.mark.parametrize("away_s", [1.0, 3.0, 60.0])
def test_a_link_returns_after_three_answers(rtt: float, away_s: float) -> None:
    """Stalled or dead, whatever its round trip."""
    sim = Simulation(rtt=rtt)
    sim.run(5)
    sim.lost = lambda: True
    sim.run(2 * rtt + away_s + 1)
    sim.lost = lambda: False
    back, probes = sim.now, sim.probes
    sim.run(ANSWERS_TO_RETURN * PROBE_DEAD_S + rtt + 0.02)
    assert sim.changes[-1][1] is LinkEvent.ANSWERING
    assert sim.link.state is LinkState.ACTIVE
    assert sim.changes[-1][0] - back >= (ANSWERS_TO_RETURN - 1) * PROBE_BUSY_S + rtt - 0.001
    assert sim.probes - probes >= ANSWERS_TO_RETURN


@pytest.mark.parametrize(("needed", "state"), [(True, LinkState.ACTIVE), (False, LinkState.STALLED)])
def test_one_answer_is_enough_when_there_is_no_other_link(needed: bool, state: LinkState) -> None:
    """However often it flapped before."""
    link = in_state(LinkState.ACTIVE)
    for at in range(3):
        link.happened(LinkEvent.SILENT, float(at))
        if at < 2:
            link.happened(LinkEvent.ANSWERING, at + 0.5)
    assert link.answered(link.probe(3.0), 3.02)
    event = link.judge(3.02, 3.02, needed=needed)
    if event is not None:
        link.happened(event, 3.02)
    assert link.state is state


def test_answers_that_are_not_in_a_row_bring_nothing_back() -> None:
    sim = Simulation(rtt=0.02)
    sim.run(5)
    count = iter(range(10**9))
    sim.lost = lambda: True
    sim.run(5)
    sim.lost = lambda: next(count) % 4 >= ANSWERS_TO_RETURN - 1
    sim.run(60)
    assert sim.link.state is LinkState.DEAD
