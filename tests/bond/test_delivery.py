"""What came over a line, by the receiver's clock."""

import pytest

from bondvpn.bond.delivery import DATAGRAM_BYTES, RATE_DATAGRAMS, Delivery


def steady(rate: float, seconds: float, every_s: float = 0.010, keep_s: float = 10.0) -> Delivery:
    delivery = Delivery()
    for i in range(int(seconds / every_s) + 1):
        delivery.arrived(int(rate * i * every_s), 50.0 + i * every_s, keep_s)
    return delivery


def test_the_rate_is_that_of_the_receivers_clock() -> None:
    assert steady(1e6, 1.0).rate(0.2) == pytest.approx(1e6, rel=1e-6)


def test_a_slow_lines_rate_is_taken_over_some_datagrams() -> None:
    """One datagram in 100 ms: in the last 50 there is one or none."""
    delivery = Delivery()
    for i in range(20):
        delivery.arrived(i * DATAGRAM_BYTES, i * 0.1, 10.0)
    assert delivery.rate(0.050) == pytest.approx(DATAGRAM_BYTES / 0.1)
    delivery.arrived(20 * DATAGRAM_BYTES, 1.9 + 0.001, 10.0)  # two arrive together
    assert delivery.rate(0.050) <= (RATE_DATAGRAMS + 1) * DATAGRAM_BYTES / (RATE_DATAGRAMS * 0.1 - 0.1)


def test_too_short_a_history_tells_nothing() -> None:
    assert steady(1e6, 0.0).rate(0.2) == 0.0
    assert steady(1e6, 0.05).rate(0.2) == 0.0


def test_what_is_older_than_needed_is_dropped_but_what_spans_it_stays() -> None:
    delivery = steady(1e6, 30.0, keep_s=0.2)
    assert len(delivery._arrivals) < 25
    assert delivery.rate(0.2) == pytest.approx(1e6, rel=1e-6)


def test_the_largest_of_the_last_rounds_is_forgotten_with_age_and_silence() -> None:
    delivery = Delivery()
    delivery.note(3e6, 1.0)
    delivery.note(1e6, 1.2)
    assert delivery.largest(0.3, 1.25) == 3e6
    assert delivery.largest(0.3, 1.35) == 1e6
    delivery.forget()
    assert delivery.largest(0.3, 1.35) == 0.0
