"""TAI64N: the published example, order, and clocks that run backwards."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bondvpn.noise.timestamp import tai64n

LATEST_S = 1 << 40


def test_layout() -> None:
    assert tai64n(0.0, None).hex() == "400000000000000a00000000"
    assert tai64n(1.5, None).hex() == "400000000000000b1dcd6500"


def test_published_example() -> None:
    """https://cr.yp.to/libtai/tai64.html: 1992-06-02 08:06:43 UTC, 26 s behind TAI, is 400000002a2b2c2d.

    Ours counts 10 s, so the 16 leap seconds until then are missing.
    """
    unix_seconds = datetime(1992, 6, 2, 8, 6, 43, tzinfo=UTC).timestamp()
    label = int.from_bytes(tai64n(unix_seconds, None)[:8], "big")
    assert label == 0x400000002A2B2C2D - 16


@given(st.floats(0, LATEST_S), st.floats(0, LATEST_S))
def test_bytes_order_as_time_does(one: float, other: float) -> None:
    if one <= other:
        assert tai64n(one, None) <= tai64n(other, None)
    if other - one >= 1e-3:
        assert tai64n(one, None) < tai64n(other, None)


@given(st.lists(st.floats(0, LATEST_S), min_size=2))
def test_every_stamp_exceeds_the_last_whatever_the_clock_does(clock: list[float]) -> None:
    last = None
    for now in clock:
        stamp = tai64n(now, last)
        assert len(stamp) == 12
        assert stamp >= tai64n(now, None)
        if last is not None:
            assert stamp > last
        last = stamp


def test_clock_that_passed_the_last_stamp_is_believed() -> None:
    assert tai64n(11.0, tai64n(10.0, None)) == tai64n(11.0, None)


def test_clock_that_stands_still_gives_the_next_nanosecond() -> None:
    stamp = tai64n(10.0, None)
    assert tai64n(10.0, stamp) == stamp[:-1] + b"\x01"


def test_last_nanosecond_carries() -> None:
    last = bytes.fromhex("400000000000000a3b9ac9ff")
    assert tai64n(0.0, last) == bytes.fromhex("400000000000000b00000000")


def test_clock_before_1970() -> None:
    assert tai64n(-1e-9, None).hex() == "40000000000000093b9ac9ff"


@pytest.mark.parametrize(
    "last",
    [b"", bytes(11), bytes(13), b"\x7f" + b"\xff" * 7 + bytes(4), bytes.fromhex("400000000000000a3b9aca00")],
)
def test_last_that_is_no_timestamp(last: bytes) -> None:
    with pytest.raises(ValueError, match="timestamp"):
        tai64n(10.0, last)
