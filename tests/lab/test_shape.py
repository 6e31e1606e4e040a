"""Figures of a line: what is accepted, and what one limit does to another."""

import pytest

from bondvpn.errors import ConfigError
from bondvpn.lab.shape import DEMO, MODEM_QUEUE_S, Line, Shape, twins


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("rate_bps", 0),
        ("delay_s", -0.001),
        ("jitter_s", 0.011),
        ("loss", 1.0),
        ("loss_burst", 0.5),
        ("queue_s", -1),
        ("queue_bytes", -1),
        ("policer_bps", 0),
        ("policer_burst_bytes", 1513),
        ("mtu", 1501),
    ],
)
def test_a_wrong_figure_is_named(field: str, wrong: float) -> None:
    with pytest.raises(ConfigError, match=field):
        Shape(delay_s=0.010).changed(**{field: wrong})


def test_every_wrong_figure_is_reported_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        Shape(rate_bps=-1, loss=2, mtu=9000)
    assert len(caught.value.errors) == 3


def test_two_queue_limits_are_refused() -> None:
    with pytest.raises(ConfigError, match="not both"):
        Shape(queue_s=0.1, queue_bytes=1000)


def test_a_live_queue_limit_displaces_the_other() -> None:
    by_bytes = Shape(rate_bps=8e6, queue_s=0.1).changed(queue_bytes=1000)
    assert (by_bytes.queue_s, by_bytes.queue_bytes) == (None, 1000)
    by_time = by_bytes.changed(queue_s=0.2)
    assert (by_time.queue_s, by_time.queue_bytes) == (0.2, None)


def test_the_queue_limit_in_seconds() -> None:
    assert Shape().queue_limit_s == MODEM_QUEUE_S
    assert Shape(queue_s=0.02).queue_limit_s == 0.02
    assert Shape(rate_bps=8e6, queue_bytes=1000).queue_limit_s == pytest.approx(0.001)


def test_an_unknown_parameter_names_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"colour: no such parameter .*rate_bps"):
        Shape().changed(colour="blue")


def test_the_lines_of_the_demo() -> None:
    figures = [(line.name, line.down.rate_bps, line.up.rate_bps, line.up.delay_s) for line in DEMO]
    assert figures == [("dsl", 16e6, 1e6, 0.015), ("cable", 50e6, 5e6, 0.010), ("lte", 30e6, 10e6, 0.040)]


def test_no_two_directions_share_a_seed() -> None:
    seeds = [shape.seed for line in twins(4) for shape in (line.up, line.down)]
    assert len(set(seeds)) == len(seeds)


def test_a_line_without_shapes_is_unshaped() -> None:
    assert not Line("gbit").shaped
    assert Line("half", up=Shape()).shaped
