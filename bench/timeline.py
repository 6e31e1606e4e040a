"""Lines that change while they are used: seeded plans of steps, and a thread that takes them.

What a plan does to a line is known in advance, so the mean that the lines are worth is too.
"""

import random
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from bench.sigma import worth_bps
from bondvpn.errors import BondvpnError
from bondvpn.lab.shape import Line
from bondvpn.lab.topology import Lab

OUTAGE_BPS = 8_000.0  # a line that does not deliver but loses nothing: its frames wait at the base station
HANDOVER_GAP_S = 0.1
HANDOVER_DELAY_S = 0.015  # up to so much more than the least delay
HANDOVER_RATE = 0.3  # down to so much less than the best rate


@dataclass(frozen=True, slots=True)
class Step:
    """At `at_s` of the plan `changes` apply to both directions of a line; rates are shares of its own."""

    at_s: float
    line: str
    rate: float | None = None
    """Share of the line's rate, or OUTAGE."""
    delay_s: float | None = None
    cut: bool | None = None
    """True: the line loses everything; False: it carries again."""


OUTAGE = 0.0


def wandering(lines: Sequence[Line], by: float, every_s: float, seconds: float, seed: int) -> list[Step]:
    """Every line's rate is drawn anew, within ± `by` of its own, every `every_s`."""
    draw = random.Random(seed)
    return [
        Step(i * every_s, line.name, rate=draw.uniform(1 - by, 1 + by))
        for i in range(int(seconds / every_s))
        for line in lines
    ]


def outages(
    line: str, per_minute: float, lasts_s: tuple[float, float], seconds: float, seed: int
) -> list[Step]:
    """Gaps without delivery at random moments, one in each of equal spans."""
    draw = random.Random(seed)
    span = 60 / per_minute
    steps = []
    for i in range(int(seconds / span)):
        lasts = draw.uniform(*lasts_s)
        begins = i * span + draw.uniform(0.1, 0.9) * (span - lasts)
        steps += [Step(begins, line, rate=OUTAGE), Step(begins + lasts, line, rate=1.0)]
    return steps


def handovers(line: Line, every_s: float, seconds: float, seed: int) -> list[Step]:
    """A satellite takes over from another: a moment of loss, then another delay and rate."""
    draw = random.Random(seed)
    shape = line.down or line.up
    assert shape is not None
    steps = []
    at = every_s / 2
    while at < seconds:
        rate, delay = draw.uniform(1 - HANDOVER_RATE, 1), shape.delay_s + draw.uniform(0, HANDOVER_DELAY_S)
        steps += [
            Step(at, line.name, cut=True),
            Step(at + HANDOVER_GAP_S, line.name, rate=rate, delay_s=delay, cut=False),
        ]
        at += every_s
    return steps


def mean_worths(
    lines: Sequence[Line], steps: Sequence[Step], way: str, since_s: float, until_s: float
) -> list[float]:
    """What each line is worth in the mean between two moments of the plan; bit/s (see `sigma`)."""
    means = []
    for line in lines:
        shape = line.up if way == "up" else line.down
        at, share, cut, gathered = 0.0, 1.0, False, 0.0
        own = sorted((step for step in steps if step.line == line.name), key=lambda step: step.at_s)
        for step in [*own, Step(until_s, line.name)]:
            length = max(0.0, min(step.at_s, until_s) - max(at, since_s))
            gathered += length * (0.0 if cut else share)
            at = step.at_s
            share = share if step.rate is None else step.rate
            cut = cut if step.cut is None else step.cut
        means.append(worth_bps(shape) * gathered / (until_s - since_s))
    return means


class Moving:
    """Takes the steps of a plan in a lab while entered, and puts the lines back afterwards.

    `began` is the monotonic moment that the plan's times count from.
    """

    def __init__(self, lab: Lab, steps: Sequence[Step]) -> None:
        self._lab = lab
        self._steps = sorted(steps, key=lambda step: step.at_s)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._failed: BondvpnError | None = None
        self.began = 0.0

    def __enter__(self) -> Self:
        self.began = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        for line in {step.line for step in self._steps}:
            self._take(Step(0, line, rate=1.0, delay_s=self._shape(line)["delay_s"], cut=False))
        if self._failed is not None:
            raise self._failed

    def _run(self) -> None:
        for step in self._steps:
            if self._done.wait(max(0.0, self.began + step.at_s - time.monotonic())):
                return
            try:
                self._take(step)
            except BondvpnError as error:
                self._failed = error
                return

    def _take(self, step: Step) -> None:
        line = self._lab.lines[self._lab.index(step.line) - 1]
        if step.cut:
            self._lab.cut(step.line)
        for direction, shape in (("up", line.up), ("down", line.down)):
            changes: dict[str, Any] = {}
            if step.rate is not None and shape is not None and shape.rate_bps is not None:
                changes["rate_bps"] = max(shape.rate_bps * step.rate, OUTAGE_BPS)
            if step.delay_s is not None:
                changes["delay_s"] = step.delay_s
            if changes:
                self._lab.set(step.line, direction, **changes)
        if step.cut is False:
            self._lab.restore(step.line)

    def _shape(self, name: str) -> dict[str, Any]:
        line = self._lab.lines[self._lab.index(name) - 1]
        shape = line.down or line.up
        assert shape is not None
        return shape.as_dict()
