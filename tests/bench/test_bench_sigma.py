"""What lines are worth, the benefit of their sum, fairness."""

import pytest

from bench.sigma import benefit, jain, worths
from bondvpn.errors import ConfigError
from bondvpn.lab.shape import Line, line


def test_a_line_is_worth_its_rate_less_headers_and_loss() -> None:
    lines = [
        line("a", up_mbit=1, down_mbit=50, delay_s=0.01),
        line("b", up_mbit=10, down_mbit=30, delay_s=0.04, loss=0.02),
    ]
    assert worths(lines, "down") == pytest.approx([50e6 * 1448 / 1514, 30e6 * 1448 / 1514 * 0.98])
    assert worths(lines, "up") == pytest.approx([1e6 * 1448 / 1514, 10e6 * 1448 / 1514 * 0.98])


def test_a_policed_line_is_worth_what_the_policer_lets_pass() -> None:
    policed = [
        line("a", up_mbit=50, down_mbit=50, delay_s=0.01, policer_bps=8e6),
        line("b", up_mbit=5, down_mbit=5, delay_s=0.01, policer_bps=8e6),
    ]
    assert worths(policed, "down") == pytest.approx([8e6 * 1448 / 1514, 5e6 * 1448 / 1514])


def test_a_line_without_a_rate_has_no_worth() -> None:
    with pytest.raises(ConfigError, match="without a rate"):
        worths([Line("gbit")], "down")


@pytest.mark.parametrize(
    ("goodput", "alone", "expected"),
    [
        (80.0, [50.0, 30.0], 1.0),  # the sum
        (50.0, [50.0, 30.0], 0.0),  # the best line
        (65.0, [30.0, 50.0], 0.5),
        (25.0, [50.0, 30.0], -0.5),  # half the best line
        (60.0, [10.0, 50.0, 10.0], 0.5),
    ],
)
def test_the_benefit_is_one_for_the_sum_and_negative_for_harm(
    goodput: float, alone: list[float], expected: float
) -> None:
    assert benefit(goodput, alone) == pytest.approx(expected)


def test_one_line_alone_has_no_benefit() -> None:
    with pytest.raises(ConfigError, match="alone"):
        benefit(50.0, [50.0])


def test_jain_tells_equal_shares_from_one_taking_all() -> None:
    assert jain([7.0, 7.0, 7.0, 7.0]) == pytest.approx(1.0)
    assert jain([9.0, 0.0, 0.0, 0.0]) == pytest.approx(0.25)
    assert jain([3.0, 1.0]) == pytest.approx(0.8)
