"""What one flow gets through the bond, by loss and delay ratio: a table of bounds per scheduler.

Rates are scaled down to what the simulator does fast. `python tests/sim/explore.py --help` runs any scenario
by hand. The truth stays kernel TCP in namespaces (bench/).
"""

import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from scenario import Scenario, variations
from simresult import SAMPLE_S, Result, eab
from simulation import simulate
from virtualnet import World

from bondvpn.bond.sparse import SparseFlows
from bondvpn.lab import shape

FAST_MBIT, SLOW_MBIT = 6, 3
DELAY_MS = 10


def line(mbit: float, delay_ms: float, seed: int, **both: Any) -> shape.Line:
    return shape.line("line", up_mbit=mbit, down_mbit=mbit, delay_s=delay_ms / 1e3, seed=seed, **both)


def bond(cc: str, *, ratio: float = 1, loss: float = 0, seed: int = 1, **settings: Any) -> Result:
    """6 + 3 Mbit/s; the second line `ratio` times as long, and lossy."""
    lines = [line(FAST_MBIT, DELAY_MS, seed), line(SLOW_MBIT, DELAY_MS * ratio, seed + 1, loss=loss)]
    settings = {"seconds": 8.0, "skip_s": 3.0, "scheduler": "weighted", **settings}
    print(f"seed {seed}")
    return simulate(Scenario(lines, cc=cc, seed=seed, **settings))


# Share of the sum, slightly below what the seed gives; a run is the same each time.
# `weighted` has the speeds configured, `adaptive` learns them.
SHARES = {
    # (scheduler, cc, delay ratio, loss): at least
    ("weighted", "cubic", 1, 0.0): 0.91,
    ("weighted", "cubic", 6, 0.0): 0.92,
    ("weighted", "cubic", 1, 0.01): 0.91,
    ("weighted", "cubic", 6, 0.01): 0.90,
    ("weighted", "bbr", 1, 0.0): 0.91,
    ("weighted", "bbr", 6, 0.0): 0.90,
    ("weighted", "bbr", 1, 0.01): 0.91,
    ("weighted", "bbr", 6, 0.01): 0.88,
    ("adaptive", "cubic", 1, 0.0): 0.93,
    ("adaptive", "cubic", 6, 0.0): 0.92,
    ("adaptive", "cubic", 1, 0.01): 0.92,
    ("adaptive", "cubic", 6, 0.01): 0.92,
    ("adaptive", "bbr", 1, 0.0): 0.92,
    ("adaptive", "bbr", 6, 0.0): 0.80,
    ("adaptive", "bbr", 1, 0.01): 0.91,
    ("adaptive", "bbr", 6, 0.01): 0.88,
}


@pytest.mark.parametrize(("scheduler", "cc", "ratio", "loss"), SHARES)
def test_share_of_the_sum_by_loss_and_delay_ratio(scheduler: str, cc: str, ratio: float, loss: float) -> None:
    speeds = scheduler == "weighted"
    result = bond(cc, ratio=ratio, loss=loss, scheduler=scheduler, speeds=speeds)
    # What was held when the 5 s began, up to 0.4 s of it, may be delivered in them.
    assert SHARES[scheduler, cc, ratio, loss] <= result.share <= 1.08, result
    assert result.timeouts == 0, result


def test_the_same_seed_gives_the_same_run() -> None:
    first, again = (bond("cubic", ratio=3, loss=0.01, seconds=4.0, skip_s=1.0) for _ in range(2))
    assert first == again
    assert first != bond("cubic", ratio=3, loss=0.01, seconds=4.0, skip_s=1.0, seed=2)


def test_the_queue_stands_in_the_bond_and_not_in_the_modem() -> None:
    result = bond("cubic", ratio=3)
    assert max(result.queue_p99_s) < 0.010
    assert result.overflowed == [0, 0]
    assert result.drops["server.queue"] > 0
    assert result.tap_drops == 0, "the TAP is always read"


def test_an_upload_takes_the_same_way() -> None:
    result = bond("cubic", ratio=3, upload=True)
    assert 0.90 < result.share < 0.99
    assert min(result.used) > 0.97


def test_a_line_cut_in_mid_transfer_is_left_for_the_other() -> None:
    """Silence until the probes notice, 230 ms, and TCP's own recovery."""

    def cut(world: World) -> None:
        world.lines[1].up = False

    result = bond("cubic", seconds=12.0, skip_s=6.0, events=[(4.0, cut)])
    assert result.carried[1] == 0
    assert 0.9 < result.goodput_bps / (FAST_MBIT * 1e6 * 1448 / 1514) < 1.0
    assert 0.1 < result.silence_s < 1.0


def test_a_rate_changed_in_mid_transfer_shows() -> None:
    """The configured speed is wrong from then on: the modem's queue fills."""

    def slower(world: World) -> None:
        world.reshape(world.lines[0], to_server=False, rate_bps=FAST_MBIT * 0.5e6)

    result = bond("cubic", seconds=8.0, skip_s=4.0, events=[(2.0, slower)])
    assert result.overflowed[0] > 0
    assert result.queue_p99_s[0] > 0.04  # as time at the rate it had


@pytest.mark.parametrize(("cc", "share"), [("cubic", 0.95), ("bbr", 0.91)])
def test_a_thin_upstream_carries_the_acks_of_a_fat_downstream(cc: str, share: float) -> None:
    """1,050 of them a second, one to a datagram, would be 1.25 Mbit/s."""
    lines = [
        shape.line("dsl", up_mbit=1, down_mbit=16, delay_s=0.015, seed=1),
        shape.line("lte", up_mbit=5, down_mbit=10, delay_s=0.040, seed=2),
    ]
    scenario = Scenario(
        lines, cc=cc, seconds=8.0, skip_s=3.0, scheduler="adaptive", speeds=False, probe_hz=50
    )
    print(f"seed {scenario.seed}")
    result = simulate(scenario)
    assert result.share > share
    assert result.probe_p50_s < 0.055


def test_bbr_takes_both_of_two_short_lines() -> None:
    """It takes the least round trip it has seen for that of all: 5 ms where the other line needs 13."""
    lines = [line(12, 2.5, 1), line(24, 6.5, 2)]
    scenario = Scenario(lines, cc="bbr", seconds=6.0, skip_s=2.5, scheduler="adaptive", speeds=False)
    print(f"seed {scenario.seed}")
    assert simulate(scenario).share > 0.93


def test_the_first_second_of_bbr_brings_half_of_what_it_will() -> None:
    """Its own start takes half a second at the long line's round trip, so that line must have learned by then
    what it carries."""
    lines = [line(16, 15, 1), line(50, 10, 2), line(30, 40, 3)]
    scenario = Scenario(lines, cc="bbr", seconds=3.0, skip_s=2.0, scheduler="adaptive", speeds=False)
    print(f"seed {scenario.seed}")
    assert simulate(scenario).first_second_share > 0.52


def test_cubics_first_flow_over_lossy_lines_is_not_ended_early() -> None:
    """Each round has a gap, and what it held back is answered in one go: with an ACK for each super-frame
    slow start ends, and it has 0.37 of the sum in its first seconds, with one ACK 0.55."""
    shares = []
    for seed in (1, 1001, 2001, 3001):
        lines = [
            shape.line("a", up_mbit=24, down_mbit=24, delay_s=0.05, queue_s=0.075, loss=0.024, seed=seed),
            shape.line(
                "b", up_mbit=47, down_mbit=47, delay_s=0.046, queue_s=0.034, loss=0.021, seed=seed + 1
            ),
        ]
        print(f"seed {seed}")
        scenario = Scenario(lines, seconds=6.0, skip_s=2.5, scheduler="adaptive", speeds=False)
        shares.append(simulate(scenario).share)
    assert sum(shares) / len(shares) > 0.45, shares


def test_what_a_long_line_overflows_with_is_waited_for() -> None:
    """It falls to 0.4 of its rate and overflows: a round trip until that is known, and half of one for what
    is sent again."""
    lines = [
        shape.line("a", up_mbit=47, down_mbit=47, delay_s=0.172, queue_s=1.7),
        shape.line("b", up_mbit=30, down_mbit=30, delay_s=0.161, queue_s=0.16),
    ]

    def slower(world: World) -> None:
        world.reshape(world.lines[1], to_server=False, rate_bps=12e6, queue_bytes=600_000)

    events = [(3.0, slower)]
    scenario = Scenario(lines, cc="bbr", seconds=5.0, scheduler="adaptive", speeds=False, events=events)
    result = simulate(scenario)
    assert result.overflowed[1] > 200, "or there was nothing to wait for"
    assert "client.frame" not in result.drops


def test_another_hosts_download_shares_the_modems_queue_with_us() -> None:
    """It fills the queue, and we keep between 30 and 70 % of that line, and all of the other. In the mean: a
    single run takes from 0.43 to 0.71, and another one with each change."""
    goodput_max = SLOW_MBIT * 1e6 * 1448 / 1514
    ratios = (0.8, 0.9, 1.0, 1.1, 1.2)
    theirs = kept = 0.0
    for ratio in ratios:
        result = bond(
            "cubic",
            ratio=ratio,
            seconds=40.0,
            skip_s=6.0,
            cross=(1, "cubic"),
            scheduler="adaptive",
            speeds=False,
        )
        theirs += result.cross_bps / goodput_max / len(ratios)
        ours = result.goodput_bps - 0.96 * FAST_MBIT * 1e6 * 1448 / 1514
        kept += ours / goodput_max / len(ratios)
        assert min(result.used) > 0.98
    assert 0.3 < theirs < 0.7
    assert 0.3 < kept < 0.7


def test_a_configured_speed_is_taken_for_our_own_whoever_shares_the_line() -> None:
    """What we lose there, we send again, and the other host gets little."""
    result = bond("cubic", seconds=10.0, skip_s=5.0, cross=(1, "cubic"))
    assert 0.0 < result.cross_bps / (SLOW_MBIT * 1e6 * 1448 / 1514) < 0.3
    assert result.used[1] > 0.98
    assert result.overflowed[1] > 0


def test_flows_of_several_kinds_start_one_after_the_other() -> None:
    result = bond("cubic+bbr+cubic+bbr", seconds=12.0, skip_s=7.0, stagger_s=1.5)
    assert len(result.flows_bps) == 4
    assert result.share > 0.92
    assert min(result.flows_bps) > 0.05 * result.goodput_bps  # bbr takes what cubic leaves


def test_after_gaps_a_line_does_not_have_too_much_and_then_nothing_in_turns() -> None:
    """What waits in an LTE cell during 300 ms is not lost, but cubic has less under way afterwards than all
    lines would take, and the reports that say so are 50 ms old."""
    lines = [
        shape.line("dsl", up_mbit=1, down_mbit=16, delay_s=0.015, seed=1),
        shape.line("lte", up_mbit=5, down_mbit=10, delay_s=0.040, queue_bytes=375_000, seed=2),
    ]

    def rate_of_lte(share: float) -> Callable[[World], None]:
        def happen(world: World) -> None:
            for to_server, bits_per_second in ((True, 5e6), (False, 10e6)):
                world.reshape(world.lines[1], to_server=to_server, rate_bps=max(share * bits_per_second, 8e3))

        return happen

    events = [
        (at + lasts, rate_of_lte(share)) for at in (2.2, 5.0) for lasts, share in ((0.0, 0.0), (0.3, 1.0))
    ]
    scenario = Scenario(
        lines, cc="cubic", seconds=14.0, skip_s=6.0, scheduler="adaptive", speeds=False, events=events
    )
    print(f"seed {scenario.seed}")
    result = simulate(scenario)
    assert result.share > 0.95
    assert min(result.used) > 0.95


@pytest.mark.parametrize(("kind", "amount"), [("rate", 0.3), ("gap", 0.15), ("delay", 0.1)])
def test_a_line_that_varies_is_worse_than_a_steady_one(kind: str, amount: float) -> None:
    one = line(SLOW_MBIT, DELAY_MS, 2)
    events = variations(1, one, kind, amount=amount, period_s=1.0, seconds=8.0)
    assert len(events) >= 5
    assert events == sorted(events, key=lambda event: event[0])
    result = bond("bbr", events=events)
    assert 0.1 < result.share < bond("bbr").share - 0.01


@pytest.mark.parametrize("scheduler", ["weighted", "adaptive"])
def test_a_sparse_flow_goes_around_what_a_saturating_one_has_waiting(
    scheduler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cubic fills the queue of the bond; a probe in one stream with it would wait there."""
    settings: dict[str, Any] = {"seconds": 6.0, "skip_s": 2.0, "scheduler": scheduler, "probe_hz": 50.0}
    around = bond("cubic", **settings)
    monkeypatch.setattr(SparseFlows, "admits", lambda *_: False)
    monkeypatch.setattr("bondvpn.datapath.outbound.classify", lambda *_: 1)
    behind = bond("cubic", **settings)
    assert around.probe_p99_s is not None
    assert behind.probe_p50_s is not None
    assert around.probe_p99_s < 2 * DELAY_MS / 1e3 + 0.010
    assert around.probe_lost == 0
    assert behind.probe_p50_s > 0.050


def test_a_trace_is_one_json_line_for_each_sample() -> None:
    out = io.StringIO()
    scenario = Scenario([line(6, 10, 1), line(3, 10, 2)], seconds=3.0, skip_s=1.0)
    result = simulate(scenario, out)
    rows = [json.loads(row) for row in out.getvalue().splitlines()]
    assert len(rows) == round(3.0 / SAMPLE_S)
    assert {"t", "goodput", "flows", "lines", "queued", "tap"} <= rows[-1].keys()
    later = [row["goodput"] for row in rows if row["t"] > 1.0]
    assert sum(later) / len(later) == pytest.approx(result.goodput_bps, rel=0.02)


def test_the_benefit_is_1_for_the_sum_and_0_for_the_best_line() -> None:
    assert eab(30, [10, 20]) == 1
    assert eab(20, [10, 20]) == 0
    assert eab(10, [10, 20]) == -0.5
