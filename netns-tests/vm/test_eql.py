"""The old setup beside bondvpn made from it, over the same lines: one cubic flow up, in turns.

Drawn in `oldsetup`. BONDVPN_EQL_ROUNDS: how many times each; the median counts (`python -m bench eql-vm`).
"""

import json
import os
import platform
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from lines import WAIT_S
from observe import Flow
from oldsetup import Bond, Eql, Site

pytestmark = pytest.mark.vm

ROUNDS = int(os.environ.get("BONDVPN_EQL_ROUNDS", "1"))
RESULTS = Path("/run/results/eql.json")
START_BYTES = 1_000_000  # slow start and learning are over; the same for both
STEADY_S, DEAD_S, RESTART_S = 6.0, 8.0, 15.0
STEADY, DEAD, RESTART = "both lines", "line 1 falls silent", "the server's end is restarted"
GOES_ON_MIN_BPS = 1e6

Rates = dict[str, float]
"""By what happens: bit/s, the mean since then."""


def carried(contender: type[Eql] | type[Bond], speeds: Sequence[float], *, trouble: bool) -> Rates:
    """One contender over new lines; with `trouble`, while things happen, too."""
    rates = {}
    with Site(speeds) as site, contender(site) as tunnel:
        with Flow(site, congestion="cubic") as flow:
            flow.flows(START_BYTES, within_s=WAIT_S)
            rates[STEADY] = mean_rate(flow, STEADY_S)
            if trouble:
                site.cut(1)
                rates[DEAD] = mean_rate(flow, DEAD_S)
                site.restore(1)
        if trouble:
            with Flow(site, congestion="cubic") as flow:
                flow.flows(START_BYTES, within_s=WAIT_S)
                began = time.monotonic()
                tunnel.restart_server()
                rates[RESTART] = mean_rate(flow, RESTART_S, began)
                print(f"silent for {flow.silence_s(began):.1f} s at most; {flow.failures or 'no failures'}")
    return rates


def mean_rate(flow: Flow, seconds: float, began: float | None = None) -> float:
    """Bit/s from now on, or from `began`."""
    began = time.monotonic() if began is None else began
    time.sleep(max(0.0, began + seconds - time.monotonic()))
    return flow.bits_per_second(began, began + seconds)


def record(speeds: Sequence[float], found: dict[str, dict[str, list[float]]]) -> None:
    """For the bench, which is not in the machine."""
    cpu = next(row for row in Path("/proc/cpuinfo").read_text().splitlines() if row.startswith("model name"))
    machine = f"Linux {platform.release()}, {cpu.partition(':')[2].strip()}, 1,000 MIPS"
    told = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"machine": machine, "settings": []}
    told["settings"].append({"speeds": speeds, "found": found})
    RESULTS.write_text(json.dumps(told))


@pytest.mark.parametrize(
    ("speeds", "trouble"), [((4.0, 4.0), True), ((6.0, 2.0), False)], ids=["equal", "unequal"]
)
def test_bondvpn_carries_what_eql_does_and_more(speeds: Sequence[float], trouble: bool) -> None:
    found: dict[str, dict[str, list[float]]] = {}
    for number in range(ROUNDS):
        for contender in (Eql, Bond):
            for event, rate in carried(contender, speeds, trouble=trouble).items():
                found.setdefault(event, {}).setdefault(contender.name, []).append(rate)
                print(f"round {number + 1}: {event}: {contender.name} {rate / 1e6:.2f} Mbit/s", flush=True)
    record(speeds, found)
    for event, rates in found.items():
        eql, ours = (statistics.median(rates[name]) for name in ("eql", "bondvpn"))
        # After a restart eql has 1.8 or 6.5 Mbit/s, as TCP's timeout falls: that is for the bench's medians.
        least = GOES_ON_MIN_BPS if event == RESTART else max(eql, GOES_ON_MIN_BPS)
        assert ours >= least, event
