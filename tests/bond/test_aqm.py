"""What is dropped of what waits: of a queue that stands, and no more than the sender needs to be told."""

from collections.abc import Callable
from itertools import pairwise

import pytest

from bondvpn.bond.aqm import ANSWER_TRIPS, FORGET_S, IGNORED, INTERVAL_S, SHORTER, FlowQueue

LIMIT, RATE = 1_000_000, 10e6
TICK_S = 0.005


def drops(
    queue: FlowQueue, waiting: Callable[[float], float], since: float, until: float, trip_s: float = 0.0
) -> list[float]:
    """When something was dropped while frames came at each tick."""
    found = []
    for tick in range(round(since / TICK_S), round(until / TICK_S)):
        now = tick * TICK_S
        bytes_now = int(waiting(now))
        if bytes_now < LIMIT:
            queue.short_at = now
        elif queue.drops(bytes_now, bytes_now / RATE, trip_s, now):
            found.append(now)
    return found


def test_a_burst_may_exceed_the_limit() -> None:
    burst = 0.9 * INTERVAL_S
    assert not drops(FlowQueue(), lambda now: 0 if now % 0.2 < 0.2 - burst else 9 * LIMIT, 0.0, 20.0)
    assert drops(FlowQueue(), lambda now: 0 if now % 0.2 < 0.1 - TICK_S else 2 * LIMIT, 0.0, 20.0)


@pytest.mark.parametrize("trip_s", [0.01, 0.4])
def test_a_queue_that_stands_loses_one_frame_and_the_next_once_that_must_be_answered(trip_s: float) -> None:
    """A second drop before the answer would cut the sender's window a second time for the same queue."""
    interval_s = max(trip_s, INTERVAL_S)
    queue = FlowQueue()
    queue.short_at = 0.0
    first, second, third = drops(queue, lambda _: 2 * LIMIT, TICK_S, 10.0, trip_s)[:3]
    assert first == pytest.approx(interval_s, abs=TICK_S)
    answer_s = ANSWER_TRIPS * (interval_s + 2 * LIMIT / RATE)
    assert second - first == pytest.approx(answer_s, abs=2 * TICK_S)
    assert third - second == pytest.approx(answer_s, abs=2 * TICK_S)


def test_a_queue_that_grows_shorter_is_left_to() -> None:
    """That it first grows on, for the sender has not been told yet, is no reason for a second drop."""
    queue = FlowQueue()
    queue.short_at = 0.0

    def waiting(now: float) -> float:
        return 2 * LIMIT * (1 + 4 * now) if now < 0.5 else 6 * LIMIT * (1 - (now - 0.5) / 5)

    assert len(drops(queue, waiting, TICK_S, 6.0)) == 1


def test_a_drop_is_waited_for_though_the_queue_was_short_for_a_moment() -> None:
    queue = FlowQueue()
    queue.short_at = 0.0
    found = drops(queue, lambda now: 0 if 0.2 <= now < 0.25 else 4 * LIMIT, TICK_S, 3.0)
    answer_s = ANSWER_TRIPS * (INTERVAL_S + 4 * LIMIT / RATE)
    assert [round((b - a) / answer_s, 1) for a, b in pairwise(found)] == [1.0, 1.0]


def test_one_that_stops_growing_shorter_loses_another_frame() -> None:
    queue = FlowQueue()
    queue.short_at = 0.0
    least = 0.9 * SHORTER * 4 * LIMIT
    answers_s = [ANSWER_TRIPS * (INTERVAL_S + waiting / RATE) for waiting in (4 * LIMIT, least)]
    first, second = drops(queue, lambda now: 4 * LIMIT if now < 1.0 else least, TICK_S, 3.0)
    assert second - first == pytest.approx(sum(answers_s), abs=2 * TICK_S)


def test_what_answers_no_drop_is_held_to_the_limit_until_it_has_been_short_for_a_while() -> None:
    queue = FlowQueue()
    queue.short_at = 0.0
    dropped = drops(queue, lambda _: 2 * LIMIT, TICK_S, 10.0)
    assert dropped[IGNORED] - dropped[IGNORED - 1] == pytest.approx(TICK_S)
    assert len(dropped) > 10 * IGNORED
    assert not drops(queue, lambda _: LIMIT - 1, 10.0, 10.0 + FORGET_S / 2)
    assert drops(queue, lambda _: LIMIT, 10.0 + FORGET_S / 2, 10.0 + FORGET_S / 2 + TICK_S)
    assert not drops(queue, lambda _: LIMIT - 1, 11.0, 11.0 + 2 * FORGET_S)
    assert not drops(queue, lambda _: LIMIT, 11.0 + 2 * FORGET_S, 11.0 + 2 * FORGET_S + INTERVAL_S - TICK_S)
