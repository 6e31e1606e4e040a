"""The old setup's bench: what the virtual machine tells, as figures and as a table."""

from bench.eqlvm import _rows
from bench.record import Outcome

RATES = {"both lines": {"eql": [5e6, 4e6, 6e6], "bondvpn": [7e6, 6e6, 6e6]}}


def test_each_setting_is_a_row_of_medians_and_ratios() -> None:
    outcome = Outcome()
    (row,) = _rows(outcome, [6.0, 2.0], RATES)
    assert row == (
        "| 6 + 2 | both lines | **5.0 Mbit/s** (5.0, 4.0, 6.0) | **6.0 Mbit/s** (7.0, 6.0, 6.0) "
        "| **1.40 ×** (1.40, 1.50, 1.00) |"
    )
    assert outcome.failed == []


def test_a_setting_in_which_eql_carries_more_fails() -> None:
    outcome = Outcome()
    list(_rows(outcome, [4.0, 4.0], {"both lines": {"eql": [7e6], "bondvpn": [6.9e6]}}))
    assert outcome.failed == ["4 + 4 Mbit/s, both lines: bondvpn / eql: 0.99 ×, must be ≥ 1.00 ×"]
