"""Small SVG plots: bars with the spread of their runs, and step curves (an ECDF is one).

Plain text, no library: white ground, one font, every value written beside its bar, so that a plot reads in a
browser, on a printout and in a diff.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH = 860
LEFT = 20
FONT = "font-family='DejaVu Sans, Verdana, sans-serif'"
COLOURS = ("#1b6ca8", "#d1495b", "#66a182", "#edae49", "#7d5ba6", "#00798c", "#8d6a4f", "#5c6672")
INK, FAINT = "#222", "#ddd"
BAR, GAP, TITLE = 18, 8, 44
LABEL_SHARE = 0.46  # of the width, for the labels of bars
CHAR = 6.6  # px, mean width of a character at 12 px
PLOT_HEIGHT = 300
TICKS = 5

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Bar:
    """A row: the bar ends at `value`, a whisker spans `low` to `high`; `bound` is a mark it is held to."""

    label: str
    value: float
    low: float
    high: float
    bound: float | None = None
    group: str = ""
    """Bars of a group share a colour."""


def bars(title: str, rows: Sequence[Bar], text: Callable[[float], str]) -> str:
    """Horizontal bars, one a row, all from zero; `text` writes a value with its unit.

    Raises ValueError without rows, or for a value that is negative or not finite.
    """
    if not rows:
        raise ValueError("a plot of no bars")
    numbers = [number for row in rows for number in (row.value, row.low, row.high, row.bound or 0.0)]
    if not all(math.isfinite(number) and number >= 0 for number in numbers):
        raise ValueError(f"bars go from zero to a finite value: {title}")
    start = LEFT + WIDTH * LABEL_SHARE
    room = WIDTH - start - 150  # right of the longest bar stands its value
    scale = room / (max(numbers) or 1.0)
    groups = list(dict.fromkeys(row.group for row in rows))
    height = TITLE + len(rows) * (BAR + GAP) + GAP
    parts = [_text(LEFT, 26, title, size=15, weight="bold")]
    for i, row in enumerate(rows):
        top = TITLE + i * (BAR + GAP)
        middle = top + BAR / 2
        colour = COLOURS[groups.index(row.group) % len(COLOURS)]
        parts.append(_text(start - 8, middle + 4, _fitted(row.label, start - LEFT), anchor="end"))
        parts.append(_rectangle(start, top, row.value * scale, BAR, colour))
        low, high = start + row.low * scale, start + row.high * scale
        parts.append(_line(low, middle, high, middle))
        parts += [_line(x, middle - 4, x, middle + 4) for x in (low, high)]
        if row.bound is not None:
            x = start + row.bound * scale
            parts.append(_line(x, top - 3, x, top + BAR + 3, "#c00", dash="3,2"))
        end = max(row.value, row.high, row.bound or 0.0) * scale
        parts.append(_text(start + end + 8, middle + 4, text(row.value)))
    return _document(title, height, parts)


def steps(
    title: str,
    series: Mapping[str, Sequence[Point]],
    *,
    x_label: str,
    y_label: str,
    y_max: float | None = None,
    x_max: float | None = None,
) -> str:
    """Step curves by name: y holds from its x up to the next point's x.

    Both axes start at zero; a curve that goes beyond `x_max` is cut there, and what is left of zero drawn at
    zero. Raises ValueError when no series has a point.
    """
    points = [point for curve in series.values() for point in curve]
    if not points:
        raise ValueError("a plot of no points")
    x_end = x_max or _round_up(max(x for x, _ in points))
    y_end = y_max or _round_up(max(y for _, y in points))
    left, top, width = LEFT + 60, TITLE + 8, WIDTH - LEFT - 90
    parts = [_text(LEFT, 26, title, size=15, weight="bold")]
    for i in range(TICKS + 1):
        y = top + PLOT_HEIGHT * (1 - i / TICKS)
        x = left + width * i / TICKS
        parts.append(_line(left, y, left + width, y, FAINT))
        parts.append(_text(left - 8, y + 4, f"{y_end * i / TICKS:g}", anchor="end"))
        parts.append(_text(x, top + PLOT_HEIGHT + 18, f"{x_end * i / TICKS:g}", anchor="middle"))
    parts.append(_text(left + width / 2, top + PLOT_HEIGHT + 38, x_label, anchor="middle"))
    parts.append(_text(left, top - 6, y_label))
    for number, (name, curve) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        shown = [(round(width * min(max(x, 0), x_end) / x_end), y) for x, y in sorted(curve) if x <= x_end]
        path = [
            f"{left + x},{top + PLOT_HEIGHT * (1 - min(y / y_end, 1)):.1f}" for x, y in _stairs(shown, width)
        ]
        parts.append(f"<polyline points='{' '.join(path)}' fill='none' stroke='{colour}' stroke-width='2'/>")
        row = top + PLOT_HEIGHT + 60 + 18 * number
        parts.append(_rectangle(left, row - 10, 14, 10, colour))
        parts.append(_text(left + 22, row, name))
    return _document(title, int(top + PLOT_HEIGHT + 60 + 18 * len(series)), parts)


def ecdf(values: Sequence[float]) -> list[Point]:
    """The points of the empirical distribution: the share of values up to each."""
    ordered = sorted(values)
    return [(value, (i + 1) / len(ordered)) for i, value in enumerate(ordered)]


def _stairs(curve: Sequence[tuple[int, float]], end: int) -> list[tuple[int, float]]:
    """The corners of a step curve with x in pixels, ascending; its last step is drawn up to `end`. Of the
    points within one pixel the last one counts, so thousands of them make no larger file."""
    steps_ = list(dict(curve).items())
    if not steps_:
        return []
    corners = [steps_[0]]
    for x, y in steps_[1:]:
        corners += [(x, corners[-1][1]), (x, y)]
    return [*corners, (end, corners[-1][1])]


def _round_up(value: float) -> float:
    """The next of 1, 2, 2.5, 5, 10 times a power of ten."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if value <= factor * power * (1 + 1e-9))


def _fitted(label: str, room: float) -> str:
    most = int(room / CHAR)
    return label if len(label) <= most else label[: most - 1] + "…"


def _text(
    x: float, y: float, words: str, *, anchor: str = "start", size: int = 12, weight: str = "normal"
) -> str:
    return (
        f"<text x='{x:.1f}' y='{y:.1f}' {FONT} font-size='{size}' font-weight='{weight}' "
        f"fill='{INK}' text-anchor='{anchor}'>{escape(words)}</text>"
    )


def _rectangle(x: float, y: float, width: float, height: float, colour: str) -> str:
    return f"<rect x='{x:.1f}' y='{y:.1f}' width='{width:.1f}' height='{height:.1f}' fill='{colour}'/>"


def _line(x1: float, y1: float, x2: float, y2: float, colour: str = INK, *, dash: str = "none") -> str:
    return (
        f"<line x1='{x1:.1f}' y1='{y1:.1f}' x2='{x2:.1f}' y2='{y2:.1f}' stroke='{colour}' "
        f"stroke-dasharray='{dash}'/>"
    )


def _document(title: str, height: int, parts: Sequence[str]) -> str:
    head = (
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{WIDTH}' height='{height}' "
        f"viewBox='0 0 {WIDTH} {height}' role='img'>"
    )
    ground = f"<rect width='{WIDTH}' height='{height}' fill='white'/>"
    return "\n".join([head, f"<title>{escape(title)}</title>", ground, *parts, "</svg>", ""])
