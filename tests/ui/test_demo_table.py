"""The live table: right at 80 columns, whatever it is given."""

import io

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from bondvpn.lab.shape import DEMO, Line
from bondvpn.ui.demo_table import BAR_CELLS, HISTORY, View, bar, render, sparks


def _drawn(view: View) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=80, force_terminal=False).print(render(view))
    return out.getvalue().splitlines()


def _busy() -> View:
    return View(
        DEMO,
        title="One TCP connection through the bond: lte pulled",
        elapsed_s=17.4,
        states={"dsl": "active", "cable": "joining", "lte": "PULLED"},
        carried={"dsl": 15.9e6, "cable": 49.6e6, "lte": 0.0},
        alone={"dsl": 15.3e6, "cable": 47.8e6, "lte": 28.7e6},
        inside=62.1e6,
        history=[i * 1e6 for i in range(200)],
    )


def test_what_a_line_carries_stands_in_its_row() -> None:
    rows = _drawn(_busy())
    dsl, cable, lte, bond = (
        next(row for row in rows if row.startswith(name)) for name in ("dsl", "cable", "lte", "bond")
    )
    assert dsl.split()[:7] == ["dsl", "16/1", "15", "ms", "active", "15.3", "15.9"]
    assert cable.split()[:7] == ["cable", "50/5", "10", "ms", "joining", "47.8", "49.6"]
    assert lte.split() == ["lte", "30/10", "40", "ms", "PULLED", "28.7", "0.0"]
    assert bond.split()[:3] == ["bond", "91.8", "62.1"]
    assert dsl.count("█") + cable.count("█") == pytest.approx(bond.count("█"), abs=1.5)
    assert rows[1].startswith("One TCP connection through the bond: lte pulled")
    assert rows[1].endswith("17 s")


def test_without_a_tunnel_there_is_no_bond() -> None:
    view = _busy()
    view.inside = None
    rows = _drawn(view)
    assert not any(row.startswith(("bond", "the bond")) for row in rows)


def test_nothing_is_cut_off_at_80_columns() -> None:
    rows = _drawn(_busy())
    assert len(rows) == 8  # one screen line each: none was wrapped
    assert not any("…" in row for row in rows)
    assert rows[-1].split()[-1] == sparks(_busy().history[-HISTORY:], 96e6)


def test_before_the_first_sample() -> None:
    assert len(_drawn(View(DEMO))) == 6
    assert len(_drawn(View([Line("bare")], inside=0.0, carried={"bare": 5e6}))) == 6  # a line without a rate


@settings(deadline=None)
@given(st.floats(-1, 3))
def test_a_bar_fits_its_column(share: float) -> None:
    assert cell_len(bar(share)) <= BAR_CELLS
    assert cell_len(bar(share)) >= min(share, 1) * BAR_CELLS - 0.07


@settings(deadline=None)
@given(st.lists(st.floats(0, 1e12), max_size=HISTORY), st.floats(1e3, 1e9))
def test_sparks_are_one_cell_each(rates: list[float], full: float) -> None:
    assert cell_len(sparks(rates, full)) == len(rates)
    assert sparks([0.0, full, 9 * full], full) == "▁██"


@example("long " * 30)
@settings(deadline=None)
@given(st.text(max_size=120))
def test_any_title_stays_on_its_line(title: str) -> None:
    printable = "".join(c for c in title if c.isprintable())
    assert len(_drawn(View(DEMO, title=printable))) == 6
