"""FEEDBACK: byte literals, round trips, and None for what is malformed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bondvpn.wire import feedback
from bondvpn.wire.feedback import LANE_REPORT_LEN, LaneReport
from bondvpn.wire.sealed import FEEDBACK

u16, u32 = st.integers(0, 2**16 - 1), st.integers(0, 2**32 - 1)
REPORT = LaneReport(0x01020304, 0x05060708, 0x090A0B0C, 0x0D0E0F10, 0x1112, 0x1314, 300, ((3, 1), (9, 4)))
LITERAL = "01020304 05060708 090a0b0c 0d0e0f10 1112 1314 012c 02 0003 0001 0009 0004"


@st.composite
def lane_reports(draw: st.DrawFn) -> LaneReport:
    """Any that a receiver may send: gaps newest first and apart from each other."""
    gaps, below = [], 0
    for apart, count in draw(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), max_size=96)):
        gaps.append((below + apart, count))
        below += apart + count - 1
    spoken_for = draw(st.integers(below + 1, below + 100))
    return LaneReport(
        draw(u32), draw(u32), draw(u32), draw(u32), draw(u16), draw(u16), spoken_for, tuple(gaps)
    )


def test_literals() -> None:
    """As docs/protocol.md tables them."""
    assert feedback.emit([]) == bytes((FEEDBACK,))
    assert feedback.emit([REPORT]) == bytes.fromhex("02" + LITERAL)
    assert feedback.emit([REPORT, REPORT]) == bytes.fromhex("02" + LITERAL + LITERAL)
    assert len(feedback.emit([REPORT._replace(gaps=())])) == 1 + LANE_REPORT_LEN


@given(st.lists(lane_reports(), max_size=4))
def test_reports_are_read_again(reports: list[LaneReport]) -> None:
    assert feedback.parse(feedback.emit(reports)) == reports


def test_whatever_is_cut_within_a_lane_is_none() -> None:
    emitted = feedback.emit([REPORT, REPORT])
    whole = {1, 1 + (len(emitted) - 1) // 2, len(emitted)}
    for end in range(1, len(emitted) + 1):
        assert (feedback.parse(emitted[:end]) is not None) == (end in whole)


@pytest.mark.parametrize(
    ("gaps", "spoken_for"),
    [
        (((3, 0),), 300),  # of nothing
        (((0, 1),), 300),  # the highest came
        (((3, 2), (3, 1)), 300),  # twice
        (((9, 1), (3, 1)), 300),  # oldest first
        (((3, 5), (7, 1)), 300),  # one within the other
        (((3, 1),), 3),  # beyond what is spoken for
        (((3, 4),), 6),
        (((1, 65_535), (65_535, 65_535)), 65_535),
    ],
)
def test_gaps_that_make_no_sense_are_none(gaps: tuple[tuple[int, int], ...], spoken_for: int) -> None:
    assert feedback.parse(feedback.emit([REPORT._replace(gaps=gaps, spoken_for=spoken_for)])) is None


def test_a_gap_may_reach_to_the_last_counter_spoken_for() -> None:
    report = REPORT._replace(gaps=((3, 4),), spoken_for=7)
    assert feedback.parse(feedback.emit([report])) == [report]


@given(st.binary(max_size=200))
def test_no_bytes_make_the_parser_raise(data: bytes) -> None:
    for report in feedback.parse(bytes((FEEDBACK,)) + data) or []:
        assert all(count and back for back, count in report.gaps)
