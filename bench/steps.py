"""Where the time of a ping through an idle tunnel goes, step by step."""

import json
import statistics
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from bench.bonded import bonded
from bench.gigabit import LINE
from bench.latency import INTERVAL_S, PINGS
from bench.record import Bench, Outcome
from bondvpn.errors import SystemFault
from bondvpn.lab.measure import ping
from bondvpn.lab.tunnel import PEER_ADDRESS

SHARE_MIN = 0.5  # of the pings; the others met a probe, a report or a timer on their way
# A ping's calls in order: who makes it, which, and what led to it.
STEPS = (
    ("client", "readv", ""),
    ("client", "sendmsg", "client, TAP to socket: Python"),
    ("server", "recvmsg", "on to the server: kernel, wake-up, event loop"),
    ("server", "writev", "server, socket to TAP: Python"),
    ("server", "readv", "server, back to the TAP: Python"),
    ("server", "sendmsg", "server, TAP to socket: Python"),
    ("client", "recvmsg", "back to the client: kernel, wake-up, event loops"),
    ("client", "writev", "client, socket to TAP: Python"),
)


class Stamp(NamedTuple):
    """One system call."""

    began: float
    ended: float
    end: str
    call: str


def measure(runs: int) -> Outcome:
    outcome = Outcome()
    steps = [outcome.figure(name, "µs") for _, _, name in STEPS[1:]]
    calls = outcome.figure("the TAP's and the sockets' system calls but the sends", "µs")
    whole = outcome.figure("from the client's read of the request to the end of its write of the reply", "µs")
    for _ in range(runs):
        trips = _trips()
        for number, figure in enumerate(steps, start=1):
            figure.add(statistics.median(_between(trip[number - 1], trip[number]) for trip in trips))
        quiet = [each for each, (_, call, _) in enumerate(STEPS) if call != "sendmsg"]
        calls.add(statistics.median(sum(trip[i].ended - trip[i].began for i in quiet) for trip in trips))
        whole.add(statistics.median(trip[-1].ended - trip[0].began for trip in trips))
    return outcome


def _between(before: Stamp, after: Stamp) -> float:
    """What passed between two calls; a send counts to the other end's time, which goes on while it lasts."""
    return after.began - (before.began if before.call == "sendmsg" else before.ended)


def _trips() -> list[list[Stamp]]:
    """The stamps of each ping that nothing disturbed. Raises SystemFault when those are few."""
    with tempfile.TemporaryDirectory(prefix="bondvpn-steps-") as directory:
        reports = {end: Path(directory) / f"{end}.json" for end in ("client", "server")}

        def program(end: str) -> tuple[str, ...]:
            return sys.executable, "-m", "bench.stamped", str(reports[end])

        with bonded([LINE], program=program) as (lab, _):
            ping(lab, PEER_ADDRESS, count=PINGS, interval_s=INTERVAL_S)
        stamps = sorted(
            Stamp(began, ended, end, call)
            for end, report in reports.items()
            for call, began, ended in json.loads(report.read_text())
        )
    wanted = [(end, call) for end, call, _ in STEPS]
    starts = [i for i, stamp in enumerate(stamps) if (stamp.end, stamp.call) == wanted[0]]
    trips = [
        stamps[first:past]
        for first, past in pairwise([*starts, len(stamps)])
        if [(stamp.end, stamp.call) for stamp in stamps[first:past]] == wanted
    ]
    if len(trips) < SHARE_MIN * PINGS:
        raise SystemFault(f"only {len(trips)} of {PINGS} pings went undisturbed")
    return trips


BENCH = Bench(
    "steps",
    "Where a ping's time goes",
    f"{PINGS} pings, one every {INTERVAL_S * 1e3:g} ms, through a tunnel whose system calls on frames and "
    "datagrams are stamped (`bench/stamped.py`); medians over the pings that met nothing else on their way. "
    "The kernel wakes the other end on the same core, so that the steps follow one another, and what an end "
    "still does after a send delays its next step.",
    measure,
    quick=False,
)
