"""Path MTU discovery on a virtual clock, over paths that drop what is too large and some of the rest."""

import heapq
from math import inf
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bondvpn.bond.pathmtu import (
    BASE_BYTES,
    CANDIDATES_BYTES,
    CONFIRM_INTERVAL_S,
    MAX_PROBES,
    RAISE_INTERVAL_S,
    TRY_INTERVAL_S,
    PathMtu,
)

# The interface's MTU, then 19 sizes by bisection, then the last one again: 1 + 5 + 1 sizes.
SEARCH_PROBES_MAX = 7 * MAX_PROBES


class Path:
    """Drives a PathMtu over a path of this MTU. Answers come `rtt` later; `loss` takes either way."""

    def __init__(
        self, mtu: int, interface: int = 1500, loss: float = 0.0, seed: int = 0, rtt: float = 0.04
    ) -> None:
        self.mtu, self.loss, self.rtt, self.chance = mtu, loss, rtt, Random(seed)
        self.now = 100.0
        self.link = PathMtu(interface, self.now)
        self.sent: list[tuple[float, int]] = []
        self.answers: list[tuple[float, int]] = []

    def step(self) -> None:
        """On to the next answer or deadline, whichever comes first."""
        due = self.link.next_deadline()
        if self.answers and self.answers[0][0] <= due:
            self.now, size = heapq.heappop(self.answers)
            self.link.acknowledge(size, self.now)
            return
        self.now = max(self.now, due)
        size_due = self.link.poll(self.now, self.rtt)
        if size_due is not None:
            self.sent.append((self.now, size_due))
            if size_due <= self.mtu and self.chance.random() >= self.loss:
                heapq.heappush(self.answers, (self.now + self.rtt, size_due))

    def search(self) -> int:
        """Run until the search is complete; the number of probes it took."""
        before = len(self.sent)
        while self.link.searching:
            self.step()
        return len(self.sent) - before

    def run(self, duration: float) -> None:
        end = self.now + duration
        while min([self.link.next_deadline(), *(at for at, _ in self.answers)]) <= end:
            self.step()
        self.now = end


def best(path_mtu: int, interface: int = 1500) -> int:
    sizes = {BASE_BYTES, interface, *CANDIDATES_BYTES}
    return max(size for size in sizes if size <= min(path_mtu, interface))


@pytest.mark.parametrize("path_mtu", range(1280, 1501))
def test_ends_at_the_largest_candidate_that_passes(path_mtu: int) -> None:
    path = Path(path_mtu)
    probes = path.search()
    assert path.link.current == best(path_mtu)
    assert probes <= SEARCH_PROBES_MAX
    assert path.now - 100 <= SEARCH_PROBES_MAX * TRY_INTERVAL_S


@given(
    st.integers(1280, 1500),
    st.sampled_from([1280, 1400, 1492, 1500, 1504, 9000]),
    st.floats(0, 0.3),
    st.integers(0, 2**32),
    st.sampled_from([0.0, 0.01, 0.24, 0.6, 1.5]),
)
@settings(deadline=None)
def test_under_loss_it_gets_there_and_never_above(
    path_mtu: int, interface: int, loss: float, seed: int, rtt: float
) -> None:
    """One search in 800 ends low at 30 % loss; that three do in a row is a chance of 1e-8."""
    path = Path(path_mtu, interface, loss, seed, rtt)
    reached = 0
    for _ in range(3):
        probes = path.search()
        assert path.link.current <= max(path_mtu, BASE_BYTES)
        assert probes <= 6 * SEARCH_PROBES_MAX
        reached = max(reached, path.link.current)
        path.run(RAISE_INTERVAL_S)
    assert reached == best(path_mtu, interface)


def test_loss_seldom_ends_a_search_low() -> None:
    chance = Random(8899)
    paths = [Path(chance.randint(1280, 1500), loss=0.3, seed=seed) for seed in range(1000)]
    probes = [path.search() for path in paths]
    low = sum(path.link.current < best(path.mtu) for path in paths)
    assert low <= 5
    assert max(probes) <= 3 * SEARCH_PROBES_MAX


def test_a_path_that_passes_the_interface_takes_one_probe() -> None:
    link = PathMtu(1500, 7.0)
    assert link.current == BASE_BYTES
    assert link.next_deadline() == 7.0
    assert link.poll(7.0) == 1500
    assert link.poll(7.0) is None
    assert link.next_deadline() == 7.0 + TRY_INTERVAL_S
    link.acknowledge(1500, 7.03)
    assert link.current == 1500
    assert link.poll(7.03) is None
    assert not link.searching
    assert link.next_deadline() == 7.03 + CONFIRM_INTERVAL_S


def test_three_tries_and_the_interval_follows_the_rtt() -> None:
    link = PathMtu(1500, 0.0)
    times, now = [], 0.0
    while (size := link.poll(now, 0.4)) == 1500:
        times.append(now)
        now = link.next_deadline()
    assert times == pytest.approx([0.0, 0.8, 1.6])
    assert size in CANDIDATES_BYTES


def test_an_answer_later_than_all_tries_counts() -> None:
    link, now = PathMtu(1500, 0.0), 0.0
    while link.poll(now) == 1500:
        now = link.next_deadline()
    link.acknowledge(1500, now + 0.01)
    assert link.current == 1500
    assert link.poll(now + 0.01) is None
    assert not link.searching


def test_answers_to_nothing_asked_are_ignored() -> None:
    link = PathMtu(1500, 0.0)
    assert link.poll(0.0) == 1500
    for size in (1499, 9000, 1492, 1000):
        link.acknowledge(size, 0.1)
    assert link.current == BASE_BYTES
    link.acknowledge(1500, 0.1)
    link.lost_confidence(1.0)
    link.acknowledge(1500, 1.1)  # to a probe of before
    assert link.current == BASE_BYTES


def test_small_interfaces_have_nothing_to_probe() -> None:
    for mtu in (576, 1280):
        link = PathMtu(mtu, 0.0)
        assert link.current == mtu
        assert link.poll(0.0) is None
        assert link.next_deadline() == inf
        assert not link.searching


def test_current_size_is_confirmed() -> None:
    path = Path(1452)
    path.search()
    begin = len(path.sent)
    path.run(10 * CONFIRM_INTERVAL_S)
    assert {size for _, size in path.sent[begin:]} == {1452}
    assert 9 <= len(path.sent) - begin <= 10


def test_data_saves_the_confirmation() -> None:
    path = Path(1500)
    path.search()
    begin = len(path.sent)
    for _ in range(50):
        path.run(CONFIRM_INTERVAL_S - 1)
        path.link.acknowledge(1500, path.now)
    assert len(path.sent) == begin


def test_a_path_that_narrows_is_noticed_and_searched_again() -> None:
    path = Path(1500)
    path.search()
    path.mtu = 1430
    path.run(CONFIRM_INTERVAL_S + (MAX_PROBES + SEARCH_PROBES_MAX) * TRY_INTERVAL_S)
    assert path.link.current == 1428


def test_a_path_that_widens_is_used_after_the_raise_interval() -> None:
    path = Path(1430)
    path.search()
    path.mtu = 1500
    path.run(RAISE_INTERVAL_S - 10)
    assert path.link.current == 1428
    path.run(20)
    assert path.link.current == 1500
    assert path.link.next_deadline() < path.now + CONFIRM_INTERVAL_S


def test_a_raise_that_finds_nothing_changes_nothing() -> None:
    path = Path(1430)
    path.search()
    begin = len(path.sent)
    path.run(RAISE_INTERVAL_S + 30)
    assert path.link.current == 1428
    assert 1500 in {size for _, size in path.sent[begin:]}
    assert len([size for _, size in path.sent[begin:] if size != 1428]) <= SEARCH_PROBES_MAX


def test_lost_confidence_falls_back_at_once() -> None:
    path = Path(1492)
    path.search()
    assert path.link.current == 1492
    path.mtu = 1400
    path.link.lost_confidence(path.now)
    assert path.link.current == BASE_BYTES
    assert path.link.next_deadline() <= path.now
    path.search()
    assert path.link.current == 1400


def test_a_doubt_is_settled_by_a_probe() -> None:
    """Of the size that is in use, at once: when it passes nothing changes, else the search begins anew."""
    path = Path(1492)
    path.search()
    path.link.doubted(path.now)
    assert path.link.poll(path.now) == 1492
    path.link.acknowledge(1492, path.now)
    assert path.link.current == 1492
    assert path.link.next_deadline() > path.now + 1
    path.mtu = 1400
    path.link.doubted(path.now)
    assert path.link.current == 1492
    path.run(1.0)
    path.search()
    assert path.link.current == 1400


def test_lost_data_of_more_than_base_is_a_doubt_once_nothing_so_large_comes() -> None:
    path = Path(1492)
    path.search()
    for _ in range(MAX_PROBES - 1):
        path.link.reported(0, 1492, 1, path.now)
    path.link.reported(1490, 1492, 9, path.now)  # plain loss: others of that size came
    for _ in range(MAX_PROBES - 1):
        path.link.reported(BASE_BYTES, 1492, 1, path.now)
        path.link.reported(0, BASE_BYTES, 9, path.now)
        path.link.reported(BASE_BYTES, 0, 0, path.now)
    assert path.link.next_deadline() > path.now + 1
    path.link.reported(0, 1492, 1, path.now)
    assert path.link.poll(path.now) == 1492
    path.mtu = 1400
    path.link.doubted(path.now)
    begin = len(path.sent)
    path.run(1.0)
    path.search()
    assert path.link.current == 1400
    above = [size for _, size in path.sent[begin:] if size >= 1492]
    assert len(above) <= MAX_PROBES, "what just failed was asked for again"


def test_a_single_report_of_many_lost_is_enough() -> None:
    """Nothing more may be sent there, since other lines are preferred."""
    path = Path(1492)
    path.search()
    path.link.reported(0, 1492, MAX_PROBES, path.now)
    assert path.link.poll(path.now) == 1492


def test_lost_confidence_at_base_does_not_restart_the_search() -> None:
    link = PathMtu(1500, 0.0)
    for _ in range(MAX_PROBES):
        assert link.poll(link.next_deadline()) == 1500
    link.lost_confidence(0.6)
    assert link.poll(link.next_deadline()) in CANDIDATES_BYTES[:-1]


def test_interface_change_searches_anew() -> None:
    path = Path(1500)
    path.search()
    path.link.interface_changed(1500, path.now)
    assert path.link.current == 1500
    path.link.interface_changed(1400, path.now)
    assert path.link.current == BASE_BYTES
    path.search()
    assert path.link.current == 1400


def test_a_hint_is_probed_next_and_saves_the_search() -> None:
    link = PathMtu(1500, 0.0)
    assert link.poll(0.0) == 1500
    link.packet_too_big(1443, 0.0)
    now = 0.0
    while (size := link.poll(now)) in (None, 1500):
        now = link.next_deadline()
    assert size == 1443
    link.acknowledge(1443, now)
    assert link.current == 1443


def test_a_true_hint_narrows_quickly() -> None:
    path = Path(1500)
    path.search()
    path.run(5)
    path.mtu = 1443
    path.link.packet_too_big(1443, path.now)
    path.run((MAX_PROBES + 1) * TRY_INTERVAL_S)
    assert path.link.current == 1443
    path.search()
    assert path.link.current == 1443


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 3), st.integers(0, 70_000)), max_size=40), st.integers(1280, 1500))
def test_forged_hints_take_nothing_but_a_few_probes(hints: list[tuple[float, int]], path_mtu: int) -> None:
    path = Path(path_mtu)
    path.search()
    settled, begin, start = path.link.current, len(path.sent), path.now
    for gap, mtu in hints:
        path.run(gap)
        path.link.packet_too_big(mtu, path.now)
        assert path.link.current == settled
    path.run(1)
    assert path.link.current == settled
    assert len(path.sent) - begin <= (path.now - start) / TRY_INTERVAL_S + 1


def test_a_storm_of_hints_costs_four_probes_a_second() -> None:
    path = Path(1500)
    path.search()
    begin = len(path.sent)
    for _ in range(2000):
        path.link.packet_too_big(1400, path.now)
        path.run(0.001)
    assert 6 <= len(path.sent) - begin <= 9


def test_a_hint_found_false_is_forgotten() -> None:
    path = Path(1500)
    path.search()
    path.link.packet_too_big(1443, path.now)
    path.run(1)
    path.link.lost_confidence(path.now)
    assert path.link.poll(path.now) == 1500


@pytest.mark.parametrize("mtu", [0, 576, BASE_BYTES, 1500, 9000])
def test_hints_of_no_use_cost_nothing(mtu: int) -> None:
    path = Path(1500)
    path.search()
    begin = len(path.sent)
    path.link.packet_too_big(mtu, path.now)
    path.run(CONFIRM_INTERVAL_S - 1)
    assert len(path.sent) == begin


def test_base_is_never_probed() -> None:
    path = Path(1500)
    path.search()
    path.run(10)
    path.mtu = 1290
    path.link.lost_confidence(path.now)
    path.run(100)
    path.link.acknowledge(BASE_BYTES, path.now)
    path.run(100)
    assert path.link.current == BASE_BYTES
    assert not path.link.searching
    assert BASE_BYTES not in {size for _, size in path.sent}


@settings(deadline=None)
@given(st.integers(1280, 1500), st.integers(0, 70_000))
def test_a_wrong_hint_during_the_search_does_not_mislead_it(path_mtu: int, hint: int) -> None:
    path = Path(path_mtu)
    path.step()
    path.link.packet_too_big(hint, path.now)
    probes = path.search()
    assert best(path_mtu) <= path.link.current <= path_mtu
    assert probes <= SEARCH_PROBES_MAX + 2 * MAX_PROBES
