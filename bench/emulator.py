"""The link emulator's precision, which bounds that of every other figure: bench/emulator_precision.py."""

import contextlib
import io
import statistics

from bench import emulator_precision as precision
from bench.record import Bench, Outcome
from bondvpn.lab.topology import Lab

SECONDS = 2.5
PREFIX = "bvbe"
RATE_ERROR_MAX = 0.01
DELAY_ERROR_MAX_S = 0.5e-3
HEADER = (
    "| lines, Mbit/s | traffic | rate / nominal, per line | delay error, ms: median (p1 … p99, max) "
    "| frames/s | emulator, share of a core |\n|---|---|---|---|---|---|\n"
)
TRAFFIC = {"none": None, "TCP cubic": precision.saturate_tcp, "UDP × 1.3": precision.saturate_udp}


def measure(_runs: int) -> Outcome:
    """Once: the error of a delay is a median of its own, of samples all along."""
    outcome = Outcome()
    shown = io.StringIO(HEADER)
    shown.seek(0, io.SEEK_END)
    for case, lines in precision.CASES.items():
        with Lab([*lines, precision.PROBE], prefix=PREFIX) as lab:
            for traffic, saturate in TRAFFIC.items():
                load = precision.measure(lab, lines if saturate else [], saturate, SECONDS)
                with contextlib.redirect_stdout(shown):
                    precision.report(case, traffic, load)
                name = f"{case} Mbit/s, {traffic}"
                outcome.figure(f"{name}: delay error, median", "ms", at_most=DELAY_ERROR_MAX_S).add(
                    abs(statistics.median(load.errors_s))
                )
                outcome.figure(f"{name}: emulator, share of a core", "share").add(load.cpu)
                if load.rates:
                    outcome.figure(
                        f"{name}: rate error, worst line", "fine share", at_most=RATE_ERROR_MAX
                    ).add(max(abs(rate - 1) for rate in load.rates))
    outcome.table = shown.getvalue()
    return outcome


BENCH = Bench(
    "emulator",
    "How precise the emulated lines are",
    f"All lines saturated downwards at once for {SECONDS:g} s, while a probe on a line of its own shows by "
    "how much delays differ from the nominal ones. Rates must be within 1 %, the median delay within 0.5 ms. "
    "`python bench/emulator_precision.py --seconds 6` takes longer and prints the same table.",
    measure,
)
