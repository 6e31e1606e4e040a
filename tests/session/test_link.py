"""A link's pace of probing."""

import pytest
from tunnelends import CaptureSocket, QuietLinks

from bondvpn.bond.capacity import Phase
from bondvpn.bond.liveness import PROBE_BUSY_S
from bondvpn.session.link import PACE, PROBE_FRAME_BYTES, PROBE_LINKS, PROBE_SHARE, PROBE_THIN_S, Link, Path
from bondvpn.stats import Drops


def probing(links: int, rate: float | None = None, *, receives: float = 0.0) -> float:
    """Seconds between the probes of a busy link of so many, which carries `rate` bytes a second and brings
    `receives`, 0: not known."""
    link = Link(0, "line", QuietLinks(), Drops())
    link.receive_rate_bps = round(receives * 8)
    if rate is not None:
        link.capacity.carries.mean, link.capacity.phase = rate, Phase.STEADY
    link.fit_probes(links)
    return link.liveness.busy_s


def test_a_few_fast_links_are_probed_at_the_busy_pace() -> None:
    assert probing(1) == probing(PROBE_LINKS) == probing(PROBE_LINKS, 1e9) == PROBE_BUSY_S


def test_many_links_share_what_probes_cost() -> None:
    assert probing(2 * PROBE_LINKS) == pytest.approx(2 * PROBE_BUSY_S)
    assert probing(100 * PROBE_LINKS) == PROBE_THIN_S, "a line that died is still to be noticed"


def test_probes_take_a_small_share_of_a_thin_line() -> None:
    rate = PROBE_FRAME_BYTES / PROBE_SHARE / 0.2
    assert probing(1, rate) == probing(PROBE_LINKS, rate) == pytest.approx(0.2)
    assert probing(1, rate / 100) == PROBE_THIN_S


def test_answers_take_a_small_share_of_a_line_that_is_thin_the_other_way() -> None:
    thin = PROBE_FRAME_BYTES / PROBE_SHARE / 0.2
    assert probing(1, 1e9, receives=thin) == pytest.approx(0.2)
    assert probing(1, thin, receives=1e9) == pytest.approx(0.2)


def test_control_messages_count_as_service_of_a_line_whose_speed_is_known() -> None:
    link = Link(0, "line", QuietLinks(), Drops())
    link.set_path(Path(CaptureSocket(), 0))
    link.send_control(bytes(100), 1.0)
    assert link.served_s == 0.0
    link.set_send_rate(8_000_000)
    link.send_control(bytes(1000 - link.frame_overhead), 1.0)
    assert link.served_s == pytest.approx(0.001 / PACE)
