"""Pacer: the average is the rate, whatever the pattern of calls; bursts and debts are bounded."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bondvpn.bond.delivery import DATAGRAM_BYTES
from bondvpn.bond.pacer import BURST_S, Pacer

rates = st.integers(100_000, 2_000_000_000)
# How late a wake-up comes after there was room, as a share of the gap that the pacer promises to bear.
lateness = st.lists(st.floats(0, 0.97), min_size=1, max_size=20)
runs = st.lists(st.integers(1200, 65_000), min_size=1, max_size=20)


def busy_sender(
    pacer: Pacer, start: float, wakes: int, late: list[float], sizes: list[int]
) -> tuple[float, int]:
    """Sends whenever there is room; returns the time of the last wake-up and the bytes spent."""
    now, spent = start, 0
    for wake in range(wakes):
        pacer.refill(now)
        while pacer.room():
            size = sizes[(wake + spent) % len(sizes)]
            pacer.spend(size)
            spent += size
        now = pacer.next_time() + late[wake % len(late)] * BURST_S
    pacer.refill(now)
    return now, spent


@settings(deadline=None)
@given(rates, st.floats(0, 1e6), lateness, runs)
def test_average_is_the_rate(rate_bps: int, start: float, late: list[float], sizes: list[int]) -> None:
    pacer = Pacer(rate_bps)
    begin, _ = busy_sender(pacer, start, 3, late, sizes)
    had = pacer.tokens
    end, spent = busy_sender(pacer, begin, 300, late, sizes)
    # The last wake-up's tokens are not spent yet, the first one's were had before: exact but for rounding.
    average = (spent + pacer.tokens - had) * 8 / (end - begin)
    assert average == pytest.approx(rate_bps, rel=1e-3)


@settings(deadline=None)
@given(rates, st.lists(st.floats(0, BURST_S), min_size=1, max_size=30), runs)
def test_refills_in_between_change_nothing(rate_bps: int, gaps: list[float], sizes: list[int]) -> None:
    pacer, now, spent = Pacer(rate_bps), 5.0, 0
    pacer.refill(now)
    full = pacer.tokens
    pacer.spend(sizes[0] + math.ceil(full))
    spent = sizes[0] + math.ceil(full)
    for step in range(300):
        now += gaps[step % len(gaps)]
        pacer.refill(now)
        while pacer.room():
            pacer.spend(sizes[step % len(sizes)])
            spent += sizes[step % len(sizes)]
    assert spent + pacer.tokens == pytest.approx(full + rate_bps / 8 * (now - 5.0), rel=1e-6)


@pytest.mark.parametrize("rate_bps", [500_000, 16_000_000, 1_000_000_000])
def test_a_minute_of_full_datagrams_is_exact_to_a_thousandth(rate_bps: int) -> None:
    pacer, size = Pacer(rate_bps), 1500 if rate_bps < 10**9 else 64_000
    now, spent = 0.0, 0
    while now < 60:
        pacer.refill(now)
        while pacer.room():
            pacer.spend(size)
            spent += size
        now = max(pacer.next_time(), now + 0.001)
    assert spent * 8 / now == pytest.approx(rate_bps, rel=1e-3)


@settings(deadline=None)
@given(rates, st.floats(0, 1e5))
def test_burst_after_idle_is_the_bucket_and_one_datagram(rate_bps: int, idle: float) -> None:
    pacer = Pacer(rate_bps)
    pacer.refill(1.0)
    pacer.spend(100_000)
    pacer.refill(1.0 + 100_000 * 8 / rate_bps + idle)
    sent = 0
    while pacer.room():
        pacer.spend(1500)
        sent += 1500
    assert sent < rate_bps / 8 * BURST_S + 1500


@given(rates, st.integers(1200, 65_000), st.floats(0, 1e7))
def test_there_is_room_at_next_time(rate_bps: int, run: int, start: float) -> None:
    pacer = Pacer(rate_bps)
    pacer.refill(start)
    while pacer.room():
        pacer.spend(run)
    assert pacer.next_time() > start
    pacer.refill(pacer.next_time())
    assert pacer.room()


def test_debt_keeps_the_line_closed_for_its_time() -> None:
    pacer = Pacer(8_000_000, burst_s=0.002)  # a byte per microsecond
    assert pacer.tokens == 2000
    assert pacer.room()
    assert pacer.next_time() == 0.0
    pacer.spend(64_000)
    assert not pacer.room()
    assert pacer.next_time() == pytest.approx(0.062001)
    pacer.refill(0.0619)
    assert not pacer.room()
    pacer.refill(0.0621)
    assert pacer.room()
    assert pacer.tokens == pytest.approx(100)
    assert pacer.next_time() == 0.0621


def test_what_gathers_has_room_once_half_a_bucket_is_there() -> None:
    pacer = Pacer(None)
    pacer.set_rate(1e6, 0.010, gather=True)  # a byte per microsecond, a bucket of 10 kB
    pacer.refill(1.0)
    pacer.spend(int(pacer.tokens))
    pacer.refill(1.004)
    assert not pacer.room()
    assert pacer.next_time() == pytest.approx(1.005, abs=2e-6)
    pacer.refill(pacer.next_time())
    assert pacer.room()
    pacer.set_rate(1e6, 0.010)
    pacer.tokens = 1.0
    assert pacer.room()


@pytest.mark.parametrize(("depth", "least"), [(100, 4), (4, 2), (3.9, 0)])
def test_no_more_is_gathered_than_a_call_is_worth_and_nothing_in_a_small_bucket(
    depth: float, least: float
) -> None:
    """In full datagrams."""
    pacer = Pacer(None)
    pacer.set_rate(1e6, depth * DATAGRAM_BYTES / 1e6, gather=True)
    pacer.tokens = least * DATAGRAM_BYTES
    assert not pacer.room()
    pacer.tokens += 1.0
    assert pacer.room()


@settings(deadline=None)
@given(st.integers(10_000_000, 2_000_000_000), lateness, runs)
def test_gathering_leaves_the_average_as_it_is(rate_bps: int, late: list[float], sizes: list[int]) -> None:
    """As long as wake-ups come before the other half of the bucket has run over."""
    pacer = Pacer(None)
    pacer.set_rate(rate_bps / 8, BURST_S, gather=True)
    late = [share / 2 for share in late]
    begin, _ = busy_sender(pacer, 5.0, 3, late, sizes)
    had = pacer.tokens
    end, spent = busy_sender(pacer, begin, 300, late, sizes)
    assert (spent + pacer.tokens - had) * 8 / (end - begin) == pytest.approx(rate_bps, rel=1e-3)


def test_a_clock_that_steps_back_credits_nothing() -> None:
    pacer = Pacer(8_000_000)
    pacer.refill(10.0)
    pacer.spend(50_000)
    debt = pacer.tokens
    pacer.refill(9.0)
    assert pacer.tokens == debt
    pacer.refill(10.0)
    assert pacer.tokens == debt
    pacer.refill(10.001)
    assert pacer.tokens == pytest.approx(debt + 1000)


def test_without_a_rate_there_is_always_room() -> None:
    pacer = Pacer(None)
    for now in (0.0, 3.0, 3.0, 1e9):
        pacer.refill(now)
        pacer.spend(1 << 40)
        assert pacer.room()
        assert pacer.run_bytes() == math.inf
        assert pacer.next_time() == now
