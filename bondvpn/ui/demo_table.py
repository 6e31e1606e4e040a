"""The demo on the screen: the live table, 80 columns wide at most. No I/O of its own."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import Group, RenderableType
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from bondvpn.lab.shape import Line

WIDTH = 78
# The lines' bars and the bond's have one scale, so that the bond's is as long as theirs together.
BAR_CELLS = 24
SPARKS = "▁▂▃▄▅▆▇█"
EIGHTHS = " ▏▎▍▌▋▊▉"
HISTORY = 64

_COLOURS = ("cyan", "magenta", "yellow", "green", "blue", "red")
_STATES = {"active": "green", "plain": "dim", "idle": "dim", "PULLED": "bold red"}


@dataclass(slots=True)
class View:
    """What the table shows now; rates in bit/s."""

    lines: Sequence[Line]
    title: str = ""
    elapsed_s: float = 0.0
    states: dict[str, str] = field(default_factory=dict)
    """By line, as bondvpn calls it, or "PULLED"; "plain" and "idle" while each line is tried alone."""
    carried: dict[str, float] = field(default_factory=dict)
    """By line: what it carries towards the gateway, Ethernet frames."""
    alone: dict[str, float] = field(default_factory=dict)
    """By line: plain TCP goodput."""
    inside: float | None = None
    """IP packets that leave the tunnel at the gateway; None while there is no tunnel."""
    history: list[float] = field(default_factory=list)
    """Of `inside`, oldest first."""


def render(view: View) -> RenderableType:
    """The table, with the bond's row and its recent past once there is a tunnel."""
    full = sum(_down_bps(line) for line in view.lines) or 1.0
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", width=WIDTH)
    for heading in ("line", "down/up", "delay"):
        table.add_column(heading, no_wrap=True)
    table.add_column("state", width=8, no_wrap=True)
    for heading in ("alone", "now"):
        table.add_column(heading, justify="right", width=5, no_wrap=True)
    table.add_column("Mbit/s", width=BAR_CELLS, no_wrap=True)
    for place, line in enumerate(view.lines):
        state = view.states.get(line.name, "")
        carried = view.carried.get(line.name, 0.0)
        table.add_row(
            line.name, _speeds(line), _delay(line), Text(state, _STATES.get(state, "yellow")),
            _mbit(view.alone.get(line.name)), _mbit(carried),
            Text(bar(carried / full), _COLOURS[place % len(_COLOURS)]),
        )  # fmt: skip
    parts: list[RenderableType] = [_headline(view), table]
    if view.inside is not None:
        table.add_row(
            Text("bond", "bold"), "", "", "", _mbit(sum(view.alone.values())),
            Text(_mbit(view.inside), "bold"), Text(bar(view.inside / full), "bold"),
        )  # fmt: skip
        parts.append(Text.assemble(("the bond  ", "dim"), sparks(view.history[-HISTORY:], full)))
    return Group(Rule(style="dim"), *parts)


def bar(share: float) -> str:
    """`share` of BAR_CELLS cells, to an eighth of a cell."""
    eighths = round(max(0.0, min(1.0, share)) * BAR_CELLS * 8)
    return "█" * (eighths // 8) + (EIGHTHS[eighths % 8] if eighths % 8 else "")


def sparks(rates: Sequence[float], full: float) -> str:
    """One character per rate; `full` is the tallest."""
    top = len(SPARKS) - 1
    return "".join(SPARKS[max(0, min(top, round(rate / full * top)))] for rate in rates)


def _headline(view: View) -> Text:
    clock = f"{view.elapsed_s:.0f} s"
    title = Text(view.title, "bold")
    title.truncate(WIDTH - len(clock) - 1, overflow="ellipsis")
    return Text.assemble(title, " " * (WIDTH - title.cell_len - len(clock)), (clock, "dim"))


def _down_bps(line: Line) -> float:
    return (line.down.rate_bps if line.down else None) or 0.0


def _speeds(line: Line) -> str:
    up = (line.up.rate_bps if line.up else None) or 0.0
    return f"{_down_bps(line) / 1e6:g}/{up / 1e6:g}"


def _delay(line: Line) -> str:
    return f"{line.down.delay_s * 1e3:g} ms" if line.down else ""


def _mbit(rate: float | None) -> str:
    return "" if rate is None else f"{rate / 1e6:.1f}"
