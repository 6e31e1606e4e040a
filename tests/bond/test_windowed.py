"""The windowed minimum: never below the truth of the window, never older than it."""

from math import inf

from hypothesis import given, settings
from hypothesis import strategies as st

from bondvpn.bond.windowed import WindowedMin

SPAN_S = 10.0


@settings(deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.floats(0.01, 4.9), st.integers(0, 1000)), min_size=1, max_size=80))
def test_it_is_the_smallest_of_between_half_the_span_and_all_of_it(steps: list[tuple[float, int]]) -> None:
    window = WindowedMin(SPAN_S)
    assert window.value == inf
    now, values = 100.0, []
    for later, value in steps:
        now += later
        window.add(value, now)
        values.append((now, value))
        young = min(v for at, v in values if now - at <= SPAN_S / 2 - 4.9 or at == now)
        old = min(v for at, v in values if now - at <= SPAN_S + 4.9)
        assert old <= window.value <= young


def test_what_is_older_than_the_span_does_not_count() -> None:
    window = WindowedMin(SPAN_S)
    window.add(1, 0.0)
    window.add(5, SPAN_S * 1.01)
    assert window.value == 5


def test_it_begins_anew() -> None:
    window = WindowedMin(SPAN_S)
    window.add(1, 0.0)
    window.add(2, 6.0)
    window.restart(7, 6.5)
    assert window.value == 7


def test_what_only_falls_does_not_age() -> None:
    window = WindowedMin(SPAN_S)
    window.add(3, 0.0)
    for value, smallest in ((9, 3), (2, 2), (9, 2), (9, 2)):
        window.lower(value, window._at + 0.9 * SPAN_S)
        assert window.value == smallest
