"""The replay window against a model that remembers everything."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bondvpn.noise.replay import WINDOW, ReplayWindow

SIZE = 64


class Model:
    """Every counter ever accepted, in a set."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.seen: set[int] = set()

    @property
    def highest(self) -> int:
        return max(self.seen, default=-1)

    def accept(self, counter: int) -> bool:
        if counter in self.seen or counter <= self.highest - self.size:
            return False
        self.seen.add(counter)
        return True

    def accept_run(self, first: int, n: int) -> bool:
        if first <= self.highest:
            return False
        self.seen.update(range(first, first + n))
        return True


def near(highest: int, step: int) -> int:
    return max(0, highest + step)


steps = st.lists(
    st.tuples(
        st.one_of(st.integers(-SIZE - 3, 3), st.integers(-3 * SIZE, 3 * SIZE)),  # from the highest so far
        st.one_of(st.just(0), st.integers(1, 10), st.integers(SIZE - 2, 3 * SIZE)),  # 0: no run
    ),
    max_size=60,
)


@given(steps)
def test_window_equals_the_model(walk: list[tuple[int, int]]) -> None:
    window, model = ReplayWindow(SIZE), Model(SIZE)
    for step, n in walk:
        counter = near(model.highest, step)
        if n:
            assert window.accept_run(counter, n) == model.accept_run(counter, n)
        else:
            assert window.accept(counter) == model.accept(counter)
        assert (window.highest, window.received) == (model.highest, len(model.seen))
    for counter in range(near(model.highest, -2 * SIZE), model.highest + 2):
        assert window.accept(counter) == model.accept(counter)


@given(st.permutations(range(SIZE)))
def test_any_order_within_the_window_is_accepted_once(order: list[int]) -> None:
    window = ReplayWindow(SIZE)
    assert all(window.accept(counter) for counter in order)
    assert not any(window.accept(counter) for counter in order)
    assert (window.highest, window.received) == (SIZE - 1, SIZE)


def test_edge_of_the_default_window() -> None:
    window = ReplayWindow()
    assert WINDOW == 8192
    assert window.accept(WINDOW)
    assert window.accept(1)
    assert not window.accept(0)


def test_first_counter_may_be_any() -> None:
    assert ReplayWindow(SIZE).accept(0)
    assert ReplayWindow(SIZE).accept((1 << 64) - 1)
    assert ReplayWindow(SIZE).accept_run((1 << 64) - 5, 5)


def test_leap_forgets_what_the_window_held() -> None:
    window = ReplayWindow(SIZE)
    assert window.accept_run(0, SIZE)
    leap = 1 << 63
    assert window.accept(leap)
    assert all(window.accept(counter) for counter in range(leap - SIZE + 1, leap))
    assert not window.accept(leap - SIZE)


@pytest.mark.parametrize("first", [0, 5, 9])
def test_run_that_begins_in_the_past_marks_nothing(first: int) -> None:
    window = ReplayWindow(SIZE)
    assert window.accept(9)
    assert not window.accept_run(first, 10)
    assert (window.highest, window.received) == (9, 1)
    assert window.accept(10)


def test_loss_is_what_is_missing() -> None:
    window = ReplayWindow(SIZE)
    assert window.accept_run(0, 10)
    assert window.accept_run(13, 7)
    assert window.highest + 1 - window.received == 3
    assert window.accept(11)
    assert window.highest + 1 - window.received == 2


@pytest.mark.parametrize("size", [-8, 0, 3, 8191])
def test_size_must_be_a_power_of_two(size: int) -> None:
    with pytest.raises(ValueError, match="power of two"):
        ReplayWindow(size)


# -- what is missing --------------------------------------------------------------------------------
@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    counters=st.lists(st.integers(0, 200), min_size=1, max_size=150, unique=True),
    below=st.integers(1, 300),
    most=st.integers(1, 40),
)
def test_gaps_are_what_did_not_come_newest_first(counters: list[int], below: int, most: int) -> None:
    """Against a set, in a window that has gone round its ring."""
    window = ReplayWindow(64)
    start = 1000
    for counter in sorted(counters):
        window.accept(start + counter)
    highest = window.highest
    seen = {start + counter for counter in counters}
    reach = range(highest - min(below, 64) + 1, highest + 1)
    missing = [counter for counter in reversed(reach) if counter not in seen]
    gaps = window.gaps(below, most)
    told = [highest - back - i for back, count in gaps for i in range(count)]
    assert told == missing[: len(told)]
    assert len(gaps) <= most
    if len(gaps) < most:
        assert told == missing
    for (back, count), (following, _) in pairwise(gaps):
        assert back + count < following, "apart from each other"


def test_before_the_first_nothing_is_missing() -> None:
    assert ReplayWindow(64).gaps(100, 5) == []
