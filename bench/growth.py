"""What more links cost at the same total rate."""

import contextlib

from bench.bonded import PREFIX, bonded
from bench.contenders import Contender, carry, ours, ratios
from bench.record import Bench, Figure, Outcome
from bondvpn.lab.shape import Line

SECONDS = 8  # of 4 the ratio strayed from 0.98 to 1.37 within five runs
RATE_BPS = 400e6
CARRIED_MIN = 0.97  # of it: a flow that was held up would compare other things
LINKS = (1, 2, 4, 8)
TIMES_MAX = 1.10
# `weighted` is told the speed that `adaptive` finds out, or does not need
SCHEDULERS = {"adaptive": None, "weighted": "1gbit"}


def measure(runs: int) -> Outcome:
    outcome = Outcome()
    for scheduler, speed in SCHEDULERS.items():
        costs: dict[int, Figure] = {
            links: outcome.figure(f"{scheduler}, {links} link{'s' * (links > 1)}", "s/GB") for links in LINKS
        }
        with contextlib.ExitStack() as stack:
            contenders: dict[int, Contender] = {}
            for links in LINKS:
                lines = [Line(f"line{i}") for i in range(links)]
                settings = {"scheduler": scheduler, "unshaped_speed": speed}
                lab, tunnel = stack.enter_context(bonded(lines, prefix=f"{PREFIX}{links}", **settings))
                contenders[links] = ours(lab, tunnel)
            for run in range(runs):
                for links in reversed(LINKS) if run % 2 else LINKS:  # the machine grows slower meanwhile
                    carried = carry(contenders[links], "up", SECONDS, omit_s=0, at_most_bps=RATE_BPS)
                    costs[links].add(carried.tunnel_cost, carried.cpu_s, carried.gigabytes)
                    if carried.bits_per_second < CARRIED_MIN * RATE_BPS:
                        outcome.failures.append(
                            f"{scheduler}, {links} links: carried {carried.bits_per_second / 1e6:.0f} Mbit/s "
                            f"of {RATE_BPS / 1e6:.0f}"
                        )
        most, least = max(LINKS), min(LINKS)
        growth = outcome.figure(f"{scheduler}, {most} links / {least} link", "times", at_most=TIMES_MAX)
        ratios(growth, costs[most], costs[least])
    return outcome


BENCH = Bench(
    "growth",
    "The same rate over more links",
    f"One iperf3 flow (cubic) up of {SECONDS} s, bounded to {RATE_BPS / 1e6:.0f} Mbit/s, over 1 to "
    f"{max(LINKS)} veth pairs without shaping; a tunnel for each number of links, all up, measured in "
    "turns, forth and back. CPU seconds of both ends together per GB of payload.",
    measure,
    plotted="s/GB",
    quick=False,
)
