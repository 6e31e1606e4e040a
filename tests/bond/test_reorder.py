"""Reorder against a model: what a receiver that may wait HOLD_S, and no longer, delivers."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bondvpn.bond.reorder import HELD_MAX, HOLD_S, WALK_MAX, Reorder
from bondvpn.wire.sealed import SEQUENCE_MASK

WRAP = SEQUENCE_MASK + 1


class Receiver:
    """Uses a Reorder as `datapath.reassembly` does: in-order chunks pass by, others are held."""

    def __init__(self, start: int = 0, extra_s: float = 0.0) -> None:
        self.reorder: Reorder[int] = Reorder()
        self.reorder.expected = start
        self.out: list[int] = []
        self.missing: list[int] = []
        self.extra_s = extra_s

    def receive(self, place: int, now: float = 0.0, later_s: float = 0.0) -> bool:
        """`later_s`: for how long the chunk is not due yet."""
        reorder = self.reorder
        assert reorder.place(place & SEQUENCE_MASK) == place
        if place != reorder.expected or later_s:
            held = reorder.hold(place, place, now, now + later_s)
            self._release(now)
            return held
        self.out.append(place)
        reorder.expected += 1
        self._release(now)
        return True

    @property
    def deadline(self) -> float:
        return self.reorder.deadline(self.extra_s)

    def poll(self, now: float) -> None:
        while self.deadline <= now:
            if missing := self.reorder.skip():
                self.missing.append(missing)
            self._release(now)

    def _release(self, now: float) -> None:
        while (chunk := self.reorder.pop(now)) is not None:
            self.out.append(chunk)


@settings(deadline=None, derandomize=True)
@given(st.permutations(range(40)), st.sampled_from([0, WRAP - 20, 3 * WRAP - 1, 7]))
def test_any_permutation_within_the_hold_comes_out_in_order(order: list[int], start: int) -> None:
    """Also across the wrap of the 32-bit sequence."""
    receiver = Receiver(start)
    for step, chunk in enumerate(order):
        receiver.receive(start + chunk, now=step * HOLD_S / 50)
        receiver.poll(step * HOLD_S / 50)
    assert receiver.out == list(range(start, start + 40))
    assert receiver.missing == []
    assert receiver.reorder.held == {}
    assert receiver.deadline == float("inf")


@settings(deadline=None, derandomize=True)
@given(
    arrivals=st.lists(st.tuples(st.integers(0, 30), st.floats(0, 0.08)), max_size=60),
    start=st.sampled_from([0, WRAP - 10]),
)
def test_it_delivers_what_the_model_delivers(arrivals: list[tuple[int, float]], start: int) -> None:
    """The model: a gap is given up HOLD_S after the earliest arrival of those held behind it."""
    receiver = Receiver(start)
    expected, held, late = 0, dict[int, float](), 0
    out: list[int] = []
    now = 0.0

    def release() -> None:
        nonlocal expected
        while expected in held:
            del held[expected]
            out.append(start + expected)
            expected += 1

    for chunk, later in arrivals:
        now += later
        while held and min(held.values()) + HOLD_S <= now:
            expected = min(held)
            release()
        receiver.poll(now)
        assert receiver.out == out
        fresh = chunk >= expected and chunk not in held
        late += not fresh
        if fresh:
            held[chunk] = now
        release()
        assert receiver.receive(start + chunk, now) is fresh
        assert receiver.out == out
        assert receiver.reorder.late == late
        deadline = min(held.values()) + HOLD_S if held else float("inf")
        assert receiver.deadline == deadline
    assert out == sorted(set(out))


def test_the_deadline_runs_from_the_first_chunk_behind_the_gap() -> None:
    """A timer restarted by each arrival would stall for as long as chunks keep coming."""
    receiver = Receiver()
    for step in range(1, 1 + round(HOLD_S / 0.01)):
        receiver.receive(step, now=step * 0.01)
        assert receiver.deadline == pytest.approx(0.01 + HOLD_S)
    receiver.poll(0.01 + HOLD_S - 1e-9)
    assert receiver.out == []
    receiver.poll(0.01 + HOLD_S)
    assert receiver.missing == [1]
    assert receiver.out == list(range(1, 1 + round(HOLD_S / 0.01)))


def test_several_gaps_cost_the_hold_once() -> None:
    receiver = Receiver()
    for place in (1, 3, 5, 7):
        receiver.receive(place, now=place * 1e-4)
    receiver.poll(HOLD_S + 0.001)
    assert receiver.out == [1, 3, 5, 7]
    assert receiver.missing == [1, 1, 1, 1]


def test_a_later_gap_waits_from_its_own_first_arrival() -> None:
    receiver = Receiver()
    receiver.receive(1, now=0.0)
    receiver.receive(3, now=0.1)
    receiver.poll(HOLD_S)
    assert receiver.out == [1]
    assert receiver.deadline == pytest.approx(0.1 + HOLD_S)


@pytest.mark.parametrize("place", [-1, 0, 4])
def test_late_and_repeated_chunks_are_refused_and_counted(place: int) -> None:
    receiver = Receiver()
    for chunk in (0, 1, 3, 4):
        receiver.receive(chunk)
    before = receiver.reorder.late
    assert not receiver.reorder.hold(place, place, 0.0, 0.0)
    assert receiver.reorder.late == before + 1


def test_places_near_the_half_of_the_space_are_ahead_or_behind() -> None:
    reorder: Reorder[int] = Reorder()
    reorder.expected = 5 * WRAP + 3
    assert reorder.place(3) == 5 * WRAP + 3
    assert reorder.place(2) == 5 * WRAP + 2
    assert reorder.place((3 + 2**31 - 1) & SEQUENCE_MASK) == 5 * WRAP + 3 + 2**31 - 1
    assert reorder.place((3 + 2**31) & SEQUENCE_MASK) == 5 * WRAP + 3 - 2**31


@pytest.mark.parametrize("leap", [1, WALK_MAX - 1, WALK_MAX, WALK_MAX + 1, 2**31 - 2])
def test_a_gap_of_any_size_is_left_in_one_step(leap: int) -> None:
    receiver = Receiver()
    receiver.receive(leap + 1, now=0.5)
    receiver.receive(leap, now=0.6)
    receiver.poll(0.5 + HOLD_S)
    assert receiver.missing == [leap]
    assert receiver.out == [leap, leap + 1]


def test_too_much_held_is_not_waited_for() -> None:
    receiver = Receiver()
    for place in range(1, HELD_MAX + 1):
        receiver.receive(place, now=1.0)
    assert receiver.deadline == 1.0 + HOLD_S
    receiver.receive(HELD_MAX + 1, now=1.0)
    assert receiver.deadline <= 1.0
    receiver.poll(1.0)
    assert len(receiver.out) == HELD_MAX + 1


# -- chunks that are not due yet ----------------------------------------------------------------------
def test_a_chunk_that_is_not_due_waits_for_its_time_and_no_longer() -> None:
    receiver = Receiver()
    receiver.receive(0, now=1.0, later_s=0.040)
    assert receiver.deadline == pytest.approx(1.040)
    receiver.poll(1.039)
    assert receiver.out == []
    receiver.poll(receiver.deadline)
    assert (receiver.out, receiver.missing) == ([0], [])
    assert receiver.deadline == float("inf")


def test_what_is_due_waits_behind_what_is_not() -> None:
    """In order, whatever each was asked to wait."""
    receiver = Receiver()
    receiver.receive(0, now=1.0, later_s=0.040)
    receiver.receive(1, now=1.01)
    assert receiver.out == []
    receiver.poll(1.040)
    assert receiver.out == [0, 1]


def test_behind_a_gap_being_due_does_not_help_and_the_hold_counts_from_arrival() -> None:
    receiver = Receiver()
    receiver.receive(1, now=1.0, later_s=0.040)
    assert receiver.deadline == pytest.approx(1.0 + HOLD_S)
    receiver.receive(0, now=1.020)
    assert receiver.out == [0]
    assert receiver.deadline == pytest.approx(1.040)
    receiver.poll(1.040)
    assert receiver.out == [0, 1]


@settings(deadline=None, derandomize=True)
@given(
    st.lists(st.tuples(st.integers(0, 30), st.floats(0, 0.02), st.floats(0, 0.1)), min_size=1, max_size=40)
)
def test_everything_leaves_in_order_once_none_before_it_is_due(
    arrivals: list[tuple[int, float, float]],
) -> None:
    receiver = Receiver()
    due: dict[int, float] = {}
    now = 1.0
    for place, pause, later_s in arrivals:
        now += pause
        receiver.poll(now)
        if receiver.receive(place, now, later_s):
            due[place] = now + later_s
        early = [chunk for chunk in receiver.out if due[chunk] > now]
        assert not early
    while receiver.deadline < float("inf"):
        now = max(now, receiver.deadline)
        receiver.poll(now)
    assert receiver.out == sorted(set(receiver.out)) == sorted(due)
