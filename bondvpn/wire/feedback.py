"""FEEDBACK: what came by each lane, told to whoever sends on it.

    kind 1  then for each lane with news:

    lane index 4  highest 4  bytes 4  arrived 4  delay 2  held 2  spoken for 2  gaps 1  (back 2  count 2)*

All integers are big-endian. `lane index` stands in the datagrams reported on, so a report outlives a change
of keys. `highest` is the low half of the largest counter that came, `bytes` all Ethernet frame bytes that
came by the lane, `arrived` when the last datagram came (modulo 2^32), `delay` the smallest one-way delay
since the last report: arrival minus send time, by two clocks that were never compared, so only its changes
and its differences between lanes mean something. `held` is how long the report waited after `arrived`.
Times are in units of TIME_UNIT_S.

The report speaks for the last `spoken for` counters up to `highest`. Of those, all came but the gaps: `count`
counters, the last of them `back` below `highest`, newest gap first. A later report repeats what an earlier
one said, so a lost report loses nothing.
"""

import struct
from typing import Final, NamedTuple

from bondvpn.wire.sealed import FEEDBACK

# -- named offsets ----------------------------------------------------------------------------
_LANE = struct.Struct(">IIIIHHHB")
_GAP = struct.Struct(">HH")

LANE_REPORT_LEN: Final = _LANE.size
GAPS_MAX: Final = 96  # of one lane: 384 bytes, the report still fits a path MTU of 1280 with two such lanes
SPOKEN_FOR_MAX: Final = 8192  # counters: what the replay window knows
LANE_REPORT_MAX_LEN: Final = LANE_REPORT_LEN + GAPS_MAX * _GAP.size
REPORT_MAX_BYTES: Final = 1200  # fits a path MTU of 1280
NO_DELAY: Final = 0xFFFF
"""`delay` when nothing with a send time came."""

Gap = tuple[int, int]  # (back, count)


# -- parsed form ------------------------------------------------------------------------------
class LaneReport(NamedTuple):
    """What came by one lane, named by its index."""

    lane: int
    highest: int
    """Low 32 bits of the largest counter that came."""
    frame_bytes: int
    """Modulo 2^32, Ethernet headers included."""
    arrived: int
    """When the last datagram came, modulo 2^32."""
    delay: int
    """Smallest one-way delay since the last report modulo 2^16, or NO_DELAY."""
    held: int
    """Units of time between `arrived` and the report."""
    spoken_for: int
    gaps: tuple[Gap, ...]
    """(distance of a gap's last counter below `highest`, counters in the gap), newest first."""


# -- parse and emit ---------------------------------------------------------------------------
def emit(reports: list[LaneReport]) -> bytes:
    """One FEEDBACK message. Raises struct.error for numbers that do not fit."""
    parts = [bytes((FEEDBACK,))]
    for report in reports:
        parts.append(_LANE.pack(*report[:7], len(report.gaps)))
        parts += [_GAP.pack(*gap) for gap in report.gaps]
    return b"".join(parts)


def parse(sealed: bytes) -> list[LaneReport] | None:
    """The lanes of a FEEDBACK message; None if malformed."""
    reports = []
    at = 1
    while at < len(sealed):
        if at + _LANE.size > len(sealed):
            return None
        *fields, count = _LANE.unpack_from(sealed, at)
        at += _LANE.size
        end = at + count * _GAP.size
        if end > len(sealed):
            return None
        gaps = tuple(_GAP.iter_unpack(sealed[at:end]))
        if not _orderly(gaps, fields[6]):
            return None
        reports.append(LaneReport._make((*fields, gaps)))
        at = end
    return reports


def _orderly(gaps: tuple[Gap, ...], spoken_for: int) -> bool:
    """Newest first, apart from each other, none reaching beyond what the report speaks for."""
    below = 0
    for back, count in gaps:
        if not count or back <= below:
            return False
        below = back + count - 1
    return below < spoken_for or not gaps
