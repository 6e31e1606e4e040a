"""Datagrams that waited one behind the other, and how fast they came."""

import pytest

from bondvpn.bond.delivery import DATAGRAM_BYTES
from bondvpn.bond.trains import TRAIN_DATAGRAMS, TRAIN_S, Trains, overflows


def test_nothing_is_known_at_first() -> None:
    trains = Trains()
    assert trains.came(0, 50.0) == 0.0
    assert trains.fastest == 0.0


@pytest.mark.parametrize(("datagrams", "seconds"), [(TRAIN_DATAGRAMS - 1, 1.0), (99, TRAIN_S * 0.9)])
def test_too_short_a_train_tells_nothing(datagrams: int, seconds: float) -> None:
    trains = Trains()
    trains.came(0, 50.0)
    trains.over()
    assert trains.came(datagrams * DATAGRAM_BYTES, 50.0 + seconds) == 0.0


def test_reports_too_short_for_a_rate_are_one_train() -> None:
    """8 datagrams at 100 Mbit/s take 1 ms, at 48 hardly two."""
    trains = Trains()
    trains.came(0, 50.0)
    trains.over()
    for i in range(1, 6):
        trains.waited(trains.came(8 * i * DATAGRAM_BYTES, 50.0 + i * 0.001))
    assert trains.fastest == pytest.approx(8_000 * DATAGRAM_BYTES)


def test_a_longer_train_is_believed_rather_than_its_own_beginning() -> None:
    trains = Trains()
    trains.came(0, 50.0)
    trains.over()
    trains.waited(trains.came(16 * DATAGRAM_BYTES, 50.003))  # the receiver woke up late
    trains.waited(trains.came(32 * DATAGRAM_BYTES, 50.008))
    assert trains.fastest == pytest.approx(4_000 * DATAGRAM_BYTES)


def test_the_fastest_of_several_counts() -> None:
    trains = Trains()
    came, now = 0, 50.0
    for took in (0.010, 0.004, 0.008):
        trains.came(came, now)
        trains.over()
        came, now = came + 16 * DATAGRAM_BYTES, now + took
        trains.waited(trains.came(came, now))
        now += 0.1  # idle
    assert trains.fastest == pytest.approx(4_000 * DATAGRAM_BYTES)


def test_what_overflows_a_buffer_is_a_train_from_the_first_report_of_it_on() -> None:
    """The line was idle before."""
    trains = Trains()
    trains.came(0, 50.0)
    trains.over()
    for i in range(1, 4):
        assert trains.too_short is (i > 1 and not trains.fastest)
        trains.overflowed(trains.came(8 * i * DATAGRAM_BYTES, 51.0 + i * 0.004))
    assert trains.fastest == pytest.approx(2_000 * DATAGRAM_BYTES)
    trains.over()
    assert not trains.too_short


@pytest.mark.parametrize(
    ("came", "lost", "expected"), [(8, 1, False), (8, 2, True), (40, 4, False), (40, 5, True), (0, 0, False)]
)
def test_what_a_full_buffer_loses(came: int, lost: int, expected: bool) -> None:
    assert overflows(came, lost) is expected
