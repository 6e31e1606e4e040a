"""RFC 9438's window."""

import pytest
from simulatedline import TICK_S

from bondvpn.bond.cubic import CUBIC_BETA, CUBIC_C, Cubic
from bondvpn.bond.delivery import DATAGRAM_BYTES


def test_cubic_returns_to_the_window_that_lost_after_k_seconds() -> None:
    cubic = Cubic(1000.0 * DATAGRAM_BYTES)
    cubic.lost()
    assert cubic.window == CUBIC_BETA * 1000 * DATAGRAM_BYTES
    k = (1000 * (1 - CUBIC_BETA) / CUBIC_C) ** (1 / 3)
    passed, rtt_s = 0.0, 0.1
    while passed < k - rtt_s:
        cubic.grow(TICK_S, rtt_s)
        passed += TICK_S
    assert cubic.window / DATAGRAM_BYTES == pytest.approx(1000, rel=0.01)


def test_cubic_is_no_slower_than_reno() -> None:
    """RFC 9438, 4.3: at so small a window and round trip its own curve is flatter."""
    cubic = Cubic(20.0 * DATAGRAM_BYTES)
    cubic.lost()
    for _ in range(1000):
        cubic.grow(TICK_S, 0.010)
    alpha = 3 * (1 - CUBIC_BETA) / (1 + CUBIC_BETA)
    assert cubic.window / DATAGRAM_BYTES >= 14 + alpha * 100 - 0.01


def test_a_second_loss_below_the_window_that_lost_makes_room() -> None:
    """Fast convergence, 4.7: the window to return to is below the one that lost."""
    first, second = Cubic(1000.0 * DATAGRAM_BYTES), Cubic(1000.0 * DATAGRAM_BYTES)
    first.lost()
    second.lost()
    second.lost()
    returns = CUBIC_BETA * 1000 * (1 + CUBIC_BETA) / 2
    for _ in range(int((returns * (1 - CUBIC_BETA) / CUBIC_C) ** (1 / 3) / TICK_S)):
        second.grow(TICK_S, 0.1)
    assert CUBIC_BETA * CUBIC_BETA * 1000 < second.window / DATAGRAM_BYTES <= 1.01 * returns
    assert second.window < first.window
