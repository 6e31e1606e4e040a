"""What is under way on a lane, against a model that knows each datagram by its counter."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bondvpn.bond.flight import REORDER, REORDER_S, Flight, Piece

SIZE = 1500


def runs_of(gone: set[int], highest: int, floor: int) -> list[tuple[int, int]]:
    """The counters of `gone` in (floor, highest] as a report's gaps."""
    gaps: list[tuple[int, int]] = []
    counter = highest
    while counter > floor:
        count = 0
        while counter - count > floor and counter - count in gone:
            count += 1
        if count:
            gaps.append((highest - counter, count))
        counter -= count or 1
    return gaps


def counters(pieces: list[Piece[int]]) -> list[int]:
    """A run's load is the counter of its first datagram."""
    return [piece.load + piece.start + i for piece in pieces for i in range(piece.n)]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32), loss=st.sampled_from([0.0, 0.02, 0.3, 0.9]))
def test_each_datagram_comes_or_is_lost_exactly_once(seed: int, loss: float) -> None:
    """In any runs, whatever is lost and however seldom reports come."""
    rng = random.Random(seed)
    flight: Flight[int] = Flight()
    gone: set[int] = set()
    came: list[int] = []
    lost: list[int] = []
    counter, now = 0, 5.0
    for _ in range(40):
        count = rng.randint(1, 64)
        flight.sent(counter, count, SIZE, counter, now)
        gone |= {counter + i for i in range(count) if rng.random() < loss}
        counter += count
        now += 0.001
        if rng.random() < 0.4:
            highest = max((c for c in range(counter) if c not in gone), default=-1)
            if highest < 0:
                continue
            outcome = flight.report(highest, runs_of(gone, highest, -1), highest + 1)
            assert outcome.came_count == len(counters(outcome.came))
            assert outcome.lost_count == len(counters(outcome.lost))
            came += counters(outcome.came)
            lost += counters(outcome.lost)
            left = set(range(counter)) - set(came) - set(lost)
            assert flight.in_flight == len(left) * SIZE
            for waits in left:  # a gap is judged as a whole, by its last
                assert waits > highest - REORDER or gone >= set(range(waits, highest - REORDER + 2))
    rest = counters(flight.drain())
    assert sorted(came + lost + rest) == list(range(counter))
    assert not set(came) & gone
    assert set(lost) <= gone
    assert flight.in_flight == 0
    assert flight.oldest == float("inf")


def test_one_is_lost_after_three_later_counters_and_not_before() -> None:
    flight: Flight[int] = Flight()
    flight.sent(0, 8, SIZE, 0, 1.0)
    assert counters(flight.report(3, [(2, 1)], 4).lost) == []  # 1 is missing, 2 and 3 came
    assert counters(flight.report(4, [(3, 1)], 5).lost) == [1]
    assert flight.in_flight == 3 * SIZE


def test_or_when_a_later_one_left_long_after_it() -> None:
    """A burst's end has no three later ones."""
    for later_s, lost in ((REORDER_S - 0.001, []), (REORDER_S + 0.001, [1])):
        flight: Flight[int] = Flight()
        flight.sent(0, 2, SIZE, 0, 1.0)
        flight.sent(2, 1, SIZE, 2, 1.0 + later_s)
        assert counters(flight.report(2, [(1, 1)], 3).lost) == lost


def test_what_a_report_no_longer_speaks_for_is_lost() -> None:
    flight: Flight[int] = Flight()
    flight.sent(0, 100, SIZE, 0, 1.0)
    outcome = flight.report(99, [], 40)
    assert counters(outcome.lost) == list(range(60))
    assert counters(outcome.came) == list(range(60, 100))


def test_it_says_when_the_newest_left() -> None:
    flight: Flight[int] = Flight()
    flight.sent(0, 4, SIZE, 0, 1.0)
    flight.sent(4, 4, SIZE, 4, 2.0)
    assert flight.report(5, [], 6).sent_at == 2.0
    assert flight.report(5, [], 6).sent_at is None, "told before"
    assert flight.oldest == 2.0


@pytest.mark.parametrize("highest", [0, 9])
def test_a_report_repeated_or_of_older_ones_says_nothing(highest: int) -> None:
    flight: Flight[int] = Flight()
    flight.sent(0, 10, SIZE, 0, 1.0)
    flight.report(9, [], 10)
    flight.sent(10, 10, SIZE, 10, 2.0)
    outcome = flight.report(highest, [], highest + 1)
    assert (outcome.came, outcome.lost, outcome.sent_at) == ([], [], None)
    assert flight.in_flight == 10 * SIZE


def test_the_oldest_run_is_forgotten_first() -> None:
    flight: Flight[int] = Flight()
    flight.sent(0, 3, SIZE, 0, 1.0)
    flight.sent(3, 2, SIZE, 3, 2.0)
    assert flight.forget() == Piece(0, 0, 3)
    assert flight.in_flight == 2 * SIZE
    assert flight.forget() == Piece(3, 0, 2)
    assert flight.forget() is None


def test_a_load_is_taken_once_and_its_run_stays_under_way() -> None:
    flight: Flight[int] = Flight()
    flight.sent(0, 3, SIZE, 0, 1.0)
    flight.sent(3, 2, SIZE, 3, 2.0)
    assert flight.oldest_load == 1.0
    assert flight.unload() == Piece(0, 0, 3)
    assert (flight.oldest, flight.oldest_load) == (1.0, 2.0)
    assert flight.unload() == Piece(3, 0, 2)
    assert flight.unload() is None
    assert flight.oldest_load == float("inf")
    assert flight.in_flight == 5 * SIZE
    assert flight.report(4, [], 5).came == [Piece(None, 0, 3), Piece(None, 0, 2)]
