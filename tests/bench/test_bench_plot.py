"""The plots: well-formed, to scale, and nothing drawn of nothing."""

import math
from xml.etree import ElementTree

import pytest

from bench.plot import Bar, bars, ecdf, steps

SVG = "{http://www.w3.org/2000/svg}"


def drawn(svg: str, tag: str) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(svg).iter(SVG + tag))


def words(svg: str) -> list[str]:
    return [each.text or "" for each in drawn(svg, "text")]


def curve(svg: str, number: int = 0) -> list[tuple[float, float]]:
    points = drawn(svg, "polyline")[number].attrib["points"].split()
    return [(float(point.split(",")[0]), float(point.split(",")[1])) for point in points]


def test_bars_are_as_long_as_their_values() -> None:
    svg = bars("speed", [Bar("ours", 300, 280, 310), Bar("theirs", 100, 90, 120)], lambda v: f"{v:.0f} units")
    _ground, *rows = drawn(svg, "rect")
    assert float(rows[0].attrib["width"]) == pytest.approx(3 * float(rows[1].attrib["width"]), rel=0.01)
    assert {"speed", "ours", "theirs", "300 units", "100 units"} <= set(words(svg))


def test_whiskers_span_the_runs_and_a_bound_is_marked() -> None:
    svg = bars("t", [Bar("a", 100, 50, 200, bound=150)], str)
    width = float(drawn(svg, "rect")[1].attrib["width"])
    start = float(drawn(svg, "rect")[1].attrib["x"])
    spread, low, high, bound = drawn(svg, "line")
    assert float(spread.attrib["x1"]) == float(low.attrib["x1"]) == pytest.approx(start + width / 2, abs=0.2)
    assert float(spread.attrib["x2"]) == float(high.attrib["x1"]) == pytest.approx(start + width * 2, abs=0.2)
    assert float(bound.attrib["x1"]) == pytest.approx(start + width * 1.5, abs=0.2)


def test_nothing_reaches_beyond_the_picture() -> None:
    svg = bars("t", [Bar("a" * 200, 1e9, 1, 5e9, bound=7e9)], lambda _: "7,000,000,000 bit/s")
    right = float(ElementTree.fromstring(svg).attrib["width"])
    assert all(float(line.attrib["x2"]) < right - 100 for line in drawn(svg, "line"))
    assert any(label.endswith("…") for label in words(svg))


def test_labels_are_text_not_markup() -> None:
    svg = bars("a < b & c", [Bar("<x>", 1, 1, 1)], lambda _: "'&'")
    assert {"a < b & c", "<x>", "'&'"} <= set(words(svg))


@pytest.mark.parametrize("value", [-1.0, math.inf, math.nan])
def test_what_is_no_length_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        bars("t", [Bar("a", value, 0, 1)], str)


def test_no_rows_and_no_points_are_refused() -> None:
    with pytest.raises(ValueError, match="no bars"):
        bars("t", [], str)
    with pytest.raises(ValueError, match="no points"):
        steps("t", {"a": []}, x_label="x", y_label="y")


def test_bars_of_zero_are_drawn() -> None:
    assert float(drawn(bars("t", [Bar("a", 0, 0, 0)], str), "rect")[1].attrib["width"]) == 0


def test_a_step_holds_until_the_next_point() -> None:
    svg = steps("t", {"a": [(0, 1), (5, 2), (10, 4)]}, x_label="x", y_label="y", x_max=10, y_max=4)
    corners = curve(svg)
    assert [y for _, y in corners[:3]] == [corners[0][1], corners[0][1], corners[2][1]]
    assert corners[1][0] == corners[2][0] == pytest.approx((corners[0][0] + corners[-1][0]) / 2, abs=0.1)


def test_a_curve_is_cut_at_the_end_of_the_axis_and_drawn_up_to_it() -> None:
    long = curve(steps("t", {"a": [(1, 1), (50, 2), (900, 3)]}, x_label="", y_label="", x_max=100))
    short = curve(steps("t", {"a": [(1, 1)]}, x_label="", y_label="", x_max=100))
    assert long[-1][0] == short[-1][0]
    assert len({y for _, y in long}) == 2


def test_what_is_left_of_zero_is_drawn_at_zero() -> None:
    svg = steps("t", {"a": [(-50, 0.5), (50, 1)]}, x_label="", y_label="", x_max=100, y_max=1)
    left = min(float(line.attrib["x1"]) for line in drawn(svg, "line"))
    assert min(x for x, _ in curve(svg)) == left


def test_thousands_of_points_make_a_small_file_that_ends_as_high() -> None:
    points = [(i / 50, (i + 1) / 50_000) for i in range(50_000)]
    svg = steps("t", {"a": points}, x_label="", y_label="", x_max=1000, y_max=1)
    assert len(svg) < 30_000
    assert curve(svg)[-1][1] == curve(steps("t", {"a": [(0, 1)]}, x_label="", y_label="", y_max=1))[0][1]


def test_each_series_is_named_and_has_a_colour() -> None:
    svg = steps("t", {"a": [(1, 1)], "b": [(2, 2)]}, x_label="seconds", y_label="MB")
    assert {"a", "b", "seconds", "MB"} <= set(words(svg))
    assert len({line.attrib["stroke"] for line in drawn(svg, "polyline")}) == 2


def test_an_ecdf_rises_to_one() -> None:
    assert ecdf([3.0, 1.0, 2.0, 2.0]) == [(1.0, 0.25), (2.0, 0.5), (2.0, 0.75), (3.0, 1.0)]
    assert ecdf([]) == []
