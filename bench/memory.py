"""A long run under load: resident memory over time, and what Python allocated and did not give back."""

import contextlib
import itertools
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

from bench import meter, plot
from bench.bonded import PREFIX, bonded
from bench.contenders import Contender, carry, ours
from bench.record import Bench, Outcome
from bondvpn.errors import SystemFault
from bondvpn.lab.shape import Line
from bondvpn.lab.tunnel import Tunnel

LINES = (Line("a"), Line("b"), Line("c"))
RATE_BPS = 200e6  # of each of the two tunnels: what both carry besides tracemalloc on two cores
REKEY_AFTER = "10s"  # so that many sessions' worth of keys come and go
FLOW_S = 5
SAMPLES = 60
TRACED_EVERY = 6  # samples: a snapshot stops the program for a second
WARM_SHARE = 0.2  # of the run, then growth is counted
REPORT_WAIT_S = 20.0
SETTLE_S = 1.0  # several times what the far side holds a chunk and what it takes to say that all came
RESIDENT_GROWTH_MAX_BYTES = 2e6
TRACED_GROWTH_MAX_BYTES = 100e3
RESIDENT_MAX_BYTES = 120e6
ENDS = ("client", "server")
TOP = 3

Pause = Callable[[], AbstractContextManager[None]]


def bench(seconds: float) -> Bench:
    """`seconds`: how long it runs."""
    return Bench(
        "memory",
        "Memory in a long run",
        f"{seconds:g} s of TCP flows up and down by turns, {FLOW_S} s each, at {RATE_BPS / 1e6:.0f} Mbit/s, "
        f"over three veth pairs and with new keys every {REKEY_AFTER}; once, whatever the number of runs. "
        "Two tunnels side by side: one as it is, whose resident memory is looked at; one under tracemalloc "
        "(`bench/traced.py`), which counts what Python code allocated and still holds after a full "
        f"collection, between two flows: what is under way is no growth. Growth is from {WARM_SHARE:.0%} of "
        "the time on to the end.",
        lambda _runs: measure(seconds),
        quick=False,
        options=("--memory-seconds", f"{seconds:g}"),
    )


def measure(seconds: float) -> Outcome:
    outcome = Outcome()
    with (
        tempfile.TemporaryDirectory(prefix="bondvpn-bench-memory-") as place,
        contextlib.ExitStack() as stack,
    ):
        reports = {end: Path(place, f"{end}.jsonl") for end in ENDS}
        settings = {"scheduler": "adaptive", "rekey_after": REKEY_AFTER}
        plain_lab, plain = stack.enter_context(bonded(LINES, prefix=f"{PREFIX}p", **settings))
        traced_lab, traced = stack.enter_context(
            bonded(
                LINES,
                prefix=f"{PREFIX}t",
                program=lambda end: (sys.executable, "-m", "bench.traced", str(reports[end])),
                **settings,
            )
        )
        loaded = [ours(plain_lab, plain), ours(traced_lab, traced)]
        resident: dict[str, list[plot.Point]] = {end: [] for end in ENDS}
        allocated: dict[str, list[plot.Point]] = {end: [] for end in ENDS}
        grown: dict[str, list[str]] = {end: [] for end in ENDS}
        with _load(loaded, seconds) as pause:
            started = time.monotonic()
            for sample in range(1, SAMPLES + 1):
                time.sleep(max(0.0, started + seconds * sample / SAMPLES - time.monotonic()))
                at = time.monotonic() - started
                for end in ENDS:
                    resident[end].append((at, meter.resident_bytes(plain.ends[end].pid)))
                if sample % TRACED_EVERY:
                    continue
                with pause():
                    for end in ENDS:
                        total, grown[end] = _traced_bytes(traced, end, reports[end])
                        allocated[end].append((at, total))
    for end in ENDS:
        most = outcome.figure(f"{end}: resident memory, most", "bytes", at_most=RESIDENT_MAX_BYTES)
        most.add(max(value for _, value in resident[end]))
        for what, curve, unit, bound in (
            ("resident memory", resident[end], "few bytes", RESIDENT_GROWTH_MAX_BYTES),
            ("allocated by Python", allocated[end], "few bytes", TRACED_GROWTH_MAX_BYTES),
        ):
            outcome.figure(f"{end}: {what}, growth", unit, at_most=bound).add(growth(curve))
        outcome.notes.append(f"{end}, most growth of a place in the code: {'; '.join(grown[end])}")
    outcome.drawing = plot.steps(
        "Memory under load",
        {f"{end}: resident": [(x, y / 1e6) for x, y in resident[end]] for end in ENDS}
        | {f"{end}: allocated by Python (traced)": [(x, y / 1e6) for x, y in allocated[end]] for end in ENDS},
        x_label="s",
        y_label="MB",
    )
    return outcome


def growth(curve: list[plot.Point]) -> float:
    """The mean of the last tenth less the mean of the tenth that begins after WARM_SHARE; never below 0."""
    values = [value for _, value in curve]
    tenth = max(1, len(values) // 10)
    warm = int(len(values) * WARM_SHARE)
    early, late = values[warm : warm + tenth], values[-tenth:]
    return max(0.0, sum(late) / len(late) - sum(early) / len(early))


@contextlib.contextmanager
def _load(contenders: list[Contender], seconds: float) -> Iterator[Pause]:
    """Flows through each, one after the other, for that long; leaving waits for them. Yields what makes all
    of them pause after their present flow."""
    turn, flows = threading.Lock(), [threading.Lock() for _ in contenders]

    def work(contender: Contender, flow: threading.Lock) -> None:
        until = time.monotonic() + seconds
        for direction in itertools.cycle(("up", "down")):
            with turn:
                flow.acquire()
            try:
                carry(contender, direction, FLOW_S, omit_s=0, at_most_bps=RATE_BPS)
            finally:
                flow.release()
            if time.monotonic() >= until:
                return

    @contextlib.contextmanager
    def pause() -> Iterator[None]:
        with turn, contextlib.ExitStack() as stack:
            for flow in flows:
                stack.enter_context(flow)
            time.sleep(SETTLE_S)
            yield

    with ThreadPoolExecutor(len(contenders)) as pool:
        working = [pool.submit(work, *each) for each in zip(contenders, flows, strict=True)]
        yield pause
        for each in working:
            each.result()


def _traced_bytes(tunnel: Tunnel, end: str, report: Path) -> tuple[int, list[str]]:
    """What that end holds by tracemalloc, and where it holds the most more than at first."""

    def lines() -> list[str]:
        return report.read_text().splitlines() if report.exists() else []

    before = len(lines())
    os.kill(tunnel.ends[end].pid, signal.SIGUSR2)
    try:
        meter.wait(lambda: len(lines()) > before, "a report of tracemalloc", REPORT_WAIT_S)
    except SystemFault as error:
        raise SystemFault(f"{end}: {error}\n{tunnel.client_log}\n{tunnel.server_log}") from None
    last = json.loads(lines()[-1])
    top = [f"{'/'.join(place.split('/')[-2:])} {size:+,} B" for place, size in last["top"] if size > 0]
    return last["traced_bytes"], top[:TOP] or ["none"]
