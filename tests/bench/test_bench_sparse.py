"""What is read off the probe's echoes and the messages' arrivals."""

import numpy as np
import pytest

from bench.messages import Delays
from bench.probe import Echoes
from bondvpn.errors import SystemFault

NEVER = float("inf")


def echoes(*trips: float | None) -> Echoes:
    return Echoes([i * 0.1 for i in range(len(trips))], list(trips))


def test_a_quantile_is_what_that_share_does_not_exceed() -> None:
    all_of_them = echoes(*[i / 1000 for i in range(100, 0, -1)])
    assert all_of_them.quantile(0.99) == 0.099
    assert all_of_them.quantile(0.5) == 0.050
    assert all_of_them.quantile(1.0) == 0.100


def test_lost_echoes_are_later_than_any_other() -> None:
    some = echoes(0.01, None, 0.02, 0.03)
    assert some.lost == 1
    assert some.quantile(0.75) == 0.03
    assert some.quantile(0.99) == NEVER


def test_a_quantile_of_nothing_is_an_error() -> None:
    with pytest.raises(SystemFault, match="sent nothing"):
        echoes().quantile(0.99)


def test_within_goes_by_when_a_datagram_was_sent() -> None:
    some = echoes(0.01, 0.02, None, 0.04).within(0.1, 0.3)
    assert some.sent == [0.1, 0.2]
    assert some.trips == [0.02, None]


def test_silence_is_between_echoes_that_came_and_up_to_both_ends() -> None:
    # They come at 0.01, 0.11, never, 0.35 and 0.41.
    some = echoes(0.01, 0.01, None, 0.05, 0.01)
    assert some.longest_silence_s(0.0, 0.42) == pytest.approx(0.24)
    assert some.longest_silence_s(0.0, 1.0) == pytest.approx(0.59)
    assert some.longest_silence_s(0.12, 0.13) == pytest.approx(0.01)


def delays(flows: int, messages: int, late: dict[int, list[int]]) -> Delays:
    seconds = np.full((flows, messages), 0.020)
    for flow, numbers in late.items():
        seconds[flow, numbers] = 0.060
    return Delays(seconds)


def test_flows_late_at_their_own_moments_share_nothing() -> None:
    some = delays(4, 100, {0: [10, 11], 1: [40, 41], 2: [70]})
    assert some.late_share(0.010) == pytest.approx(5 / 400)
    pairs = some.shared_lateness(0.010)
    assert len(pairs) == 4 * 3 - 3  # the fourth flow was never late
    assert max(pairs) <= 0


def test_flows_late_together_share_everything() -> None:
    some = delays(4, 100, {flow: [10, 11, 50] for flow in range(4)})
    assert some.shared_lateness(0.010) == pytest.approx([1 - 3 / 100] * 12)


def test_flows_late_independently_share_about_nothing() -> None:
    draw = np.random.default_rng(1)
    seconds = np.where(draw.random((8, 5000)) < 0.1, 0.06, 0.02)
    assert all(abs(pair) < 0.05 for pair in Delays(seconds).shared_lateness(0.010))


def test_a_message_that_never_came_is_late() -> None:
    some = delays(2, 10, {})
    some.seconds[0, 3] = NEVER
    assert some.late_share(0.010) == pytest.approx(1 / 20)


def test_without_a_late_message_nothing_is_shared() -> None:
    assert delays(3, 10, {}).shared_lateness(0.010) == []
