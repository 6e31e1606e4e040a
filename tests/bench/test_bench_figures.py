"""The arithmetic between a measurement and its figure."""

from typing import ClassVar, Self

import pytest

from bench.contenders import Carried, against, against_fastest, ratios
from bench.latency import p99
from bench.memory import growth
from bench.packets import LOSS_MAX, SENT_SHARE_MIN, Probe
from bench.peers import Peer
from bench.pieces import table
from bench.record import Figure, Outcome
from bondvpn.lab.topology import Lab


class Absent(Peer):
    """Not installed, and so never to be started."""

    name = "absent"
    package = "a-package"

    def __init__(self) -> None:
        pass

    @classmethod
    def version(cls) -> str | None:
        return None

    def __enter__(self) -> Self:
        raise AssertionError("started")


class Present(Absent):
    """Installed, and up as soon as it is entered."""

    name = "present"
    address = "192.0.2.1"
    command = "present --now"
    processes: ClassVar[dict[str, int]] = {"client": 1, "server": 2}

    @classmethod
    def version(cls) -> str | None:
        return "2.0"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def test_a_peer_that_is_not_installed_is_named_and_fails_the_bench() -> None:
    outcome = Outcome()
    with against(Lab([]), [Absent(), Present()], outcome) as contenders:
        assert [each.name for each in contenders] == ["present"]
    assert outcome.failed == ["absent is absent (apt-get install a-package)"]
    assert outcome.notes == ["present: 2.0, `present --now`"]


def figure(*runs: float) -> Figure:
    made = Figure("x", "bit/s")
    for run in runs:
        made.add(run)
    return made


def test_ratios_are_of_the_same_run() -> None:
    times = Figure("x", "times")
    ratios(times, figure(6, 10), figure(2, 5))
    assert times.runs == [3, 2]


def test_a_ratio_to_nothing_is_infinite() -> None:
    times = Figure("x", "times")
    ratios(times, figure(6), figure(0))
    assert times.runs == [float("inf")]


def test_the_fastest_peer_is_sought_run_by_run() -> None:
    times = Figure("x", "times")
    against_fastest(times, figure(6, 6), [figure(1, 3), figure(2, 1)])
    assert times.runs == [3, 2]


def test_the_cost_of_a_tunnel_leaves_iperf3_and_the_emulator_out() -> None:
    used = {"client 1": 1.0, "client 2": 2.0, "server": 3.0, "iperf3": 50.0, "emulator": 70.0}
    assert Carried(1e9, 2.0, used).tunnel_cost == 3.0


def test_p99_of_a_hundred_is_the_last_but_one() -> None:
    assert p99([float(i) for i in range(100)]) == 98
    assert p99([float(i) for i in range(1000, 0, -1)]) == 990
    assert p99([5.0]) == 5.0


def test_growth_is_from_warm_to_the_end_and_never_negative() -> None:
    flat = [(float(i), 100.0) for i in range(60)]
    assert growth(flat) == 0
    assert growth([(float(i), 1000.0 if i < 12 else 100.0) for i in range(60)]) == 0  # before it was warm
    assert growth([(float(i), 100.0 - i) for i in range(60)]) == 0
    assert growth([(float(i), 100.0 + i) for i in range(60)]) == pytest.approx(42, abs=1)


@pytest.mark.parametrize(
    ("sent", "received", "passed"),
    [
        (10_000, 10_000, True),
        (10_000, int(10_000 * (1 - LOSS_MAX)), True),
        (10_000, int(10_000 * (1 - LOSS_MAX)) - 1, False),
        (int(10_000 * SENT_SHARE_MIN), int(10_000 * SENT_SHARE_MIN), True),
        (int(10_000 * SENT_SHARE_MIN) - 1, int(10_000 * SENT_SHARE_MIN) - 1, False),
    ],
)
def test_a_probe_passes_with_its_rate_offered_and_next_to_nothing_lost(
    sent: int, received: int, passed: bool
) -> None:
    assert Probe(5_000, sent, received, 2.0, {}).passed is passed


def test_the_table_of_pieces_has_a_row_a_piece_and_a_column_a_number() -> None:
    figures = {
        ("seal", "links", 1): figure(1e-6),
        ("seal", "links", 4): figure(2e-6),
        ("reorder", "depth", 16): figure(3e-7),
    }
    assert table(figures).splitlines() == [
        "| µs per datagram by links | 1 | 4 | 4 / 1 |",
        "|---|---|---|---|",
        "| seal | 1.000 | 2.000 | 2.00 × |",
        "",
        "| µs per datagram by depth | 16 | 16 / 16 |",
        "|---|---|---|",
        "| reorder | 0.300 | 1.00 × |",
    ]
