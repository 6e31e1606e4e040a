"""The scenarios: lines from the ranges of Multipath QUIC (CoNEXT 2017), and lines that change.

Lines are symmetric, as there. Rates are uniform (in `thin` uniform on a logarithmic scale); lines of a
scenario stay below 150 Mbit/s together, which the emulator carries precisely on two cores.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bench.matrix.design import Points, spread
from bench.timeline import Step, handovers, outages, wandering
from bondvpn.errors import ConfigError
from bondvpn.lab.shape import FRAME_BYTES_MAX, Line, line

SUM_MAX_MBIT = 150.0
QUEUE_FRAMES_MIN = 2  # no device has less, whatever delay that is
DIMENSIONS = 4  # of a line: rate, round trip, queue, loss
SIZES = {2: 40, 3: 8, 4: 4}  # lines of a scenario: scenarios of a set
SIZES_SMALL = {2: 8, 3: 2}
NAMES = "abcd"
SECONDS_LOW, SECONDS_HIGH, SECONDS_CHANGING = 8.0, 20.0, 20.0


@dataclass(frozen=True, slots=True)
class Ranges:
    """Of what a set's lines are drawn from; all pairs are (least, most)."""

    rate_mbit: tuple[float, float] = (0.1, 100.0)
    round_trip_s: tuple[float, float] = (0.0, 0.050)
    queue_s: tuple[float, float] = (0.0, 0.100)
    loss: tuple[float, float] = (0.0, 0.0)
    logarithmic: bool = False
    """Whether rates are."""

    def line(self, name: str, unit: NDArray[np.float64], seed: int) -> Line:
        """The line at a point of the unit cube (rate, round trip, queue, loss)."""
        rate = self.rate(float(unit[0]))
        return line(
            name,
            up_mbit=rate,
            down_mbit=rate,
            delay_s=round(_between(self.round_trip_s, unit[1]) / 2, 4),
            queue_bytes=max(
                int(rate * 1e6 / 8 * _between(self.queue_s, unit[2])), QUEUE_FRAMES_MIN * FRAME_BYTES_MAX
            ),
            loss=round(_between(self.loss, unit[3]), 5),
            seed=seed,
        )

    def rate(self, unit: float) -> float:
        """Mbit/s at a place from 0 to 1."""
        least, most = self.rate_mbit
        if self.logarithmic:
            return round(least * math.pow(most / least, unit), 3)
        return round(least + (most - least) * unit, 2)


@dataclass(frozen=True, slots=True)
class Scenario:
    """Lines, what happens to them, and how long each flow is sent."""

    name: str
    lines: tuple[Line, ...]
    seconds: float
    steps: tuple[Step, ...] = ()

    @property
    def text(self) -> str:
        """The lines in words: "a 16.2 Mbit/s 24 ms, 12 kB, 0.5 % + ..."."""
        return " + ".join(_describe(each) for each in self.lines)


Change = Callable[[Sequence[Line], float, int], tuple[Sequence[Line], Sequence[Step]]]
"""(lines, seconds, seed) to lines, possibly others, and a plan for them."""


BEST_SHARE = 0.97  # of the best line alone


@dataclass(frozen=True, slots=True)
class Bounds:
    """What must hold of a set: (share of Σ, of scenarios), of scenarios with EAB > 0, and of those with
    BEST_SHARE of the best line."""

    sum_share: float
    sum_in: float
    benefit_in: float
    best_in: float


LOW = Bounds(0.95, 0.85, 0.97, 1.0)
HIGH = Bounds(0.90, 0.75, 0.93, 0.99)


@dataclass(frozen=True, slots=True)
class Set:
    """A named set of scenarios."""

    ranges: Ranges
    seconds: float
    seed: int
    sizes: Mapping[int, int] = field(default_factory=lambda: SIZES)
    change: Change | None = None
    bounds: Bounds | None = None

    def scenarios(self, name: str) -> list[Scenario]:
        """All of them, those with two lines first."""
        return [scenario for lines, count in self.sizes.items() for scenario in self._of(name, lines, count)]

    def _of(self, name: str, count: int, scenarios: int) -> list[Scenario]:
        def allowed(point: Points) -> bool:
            return sum(self.ranges.rate(float(rate)) for rate in point[::DIMENSIONS]) <= SUM_MAX_MBIT

        made = []
        points = spread(scenarios, count * DIMENSIONS, self.seed + count, allowed)
        for number, point in enumerate(points):
            seed = 100 * self.seed + number
            lines: Sequence[Line] = [
                self.ranges.line(NAMES[i], point[i * DIMENSIONS : (i + 1) * DIMENSIONS], seed + 7 * i)
                for i in range(count)
            ]
            steps: Sequence[Step] = ()
            if self.change is not None:
                lines, steps = self.change(lines, self.seconds, seed)
            made.append(Scenario(f"{name}-{count}-{number:02}", tuple(lines), self.seconds, tuple(steps)))
        return made


def _jittery(lines: Sequence[Line], _seconds: float, seed: int) -> tuple[Sequence[Line], Sequence[Step]]:
    draw = np.random.default_rng(seed)
    return [_with(each, jitter_s=_delay(each) * float(draw.uniform(0.1, 0.6))) for each in lines], ()


def _policed(lines: Sequence[Line], _seconds: float, seed: int) -> tuple[Sequence[Line], Sequence[Step]]:
    """The first line is fast but policed to half its rate, with a burst of 10 to 50 ms."""
    draw = np.random.default_rng(seed)
    first, *others = lines
    assert first.down is not None
    assert first.down.rate_bps is not None
    policer = first.down.rate_bps / 2
    burst = max(int(policer / 8 * draw.uniform(0.010, 0.050)), QUEUE_FRAMES_MIN * FRAME_BYTES_MAX)
    return [_with(first, policer_bps=policer, policer_burst_bytes=burst), *others], ()


def _steps(by: float, every_s: float) -> Change:
    return lambda lines, seconds, seed: (lines, wandering(lines, by, every_s, seconds, seed))


def _gaps(lines: Sequence[Line], seconds: float, seed: int) -> tuple[Sequence[Line], Sequence[Step]]:
    """The last line stands still as LTE does; what waits meanwhile is not lost, for its buffer is deep."""
    *others, last = lines
    assert last.down is not None
    assert last.down.rate_bps is not None
    deep = _with(last, queue_bytes=max(int(last.down.rate_bps / 8 * 0.3), 20 * FRAME_BYTES_MAX))
    return [*others, deep], outages(last.name, 12, (0.1, 0.4), seconds, seed)


def _handed_over(lines: Sequence[Line], seconds: float, seed: int) -> tuple[Sequence[Line], Sequence[Step]]:
    """The last line is a satellite's."""
    return lines, handovers(lines[-1], 15.0, seconds, seed)


_LOW, _LOSSY = Ranges(), Ranges(loss=(0.0, 0.025))
_HIGH = Ranges(round_trip_s=(0.0, 0.400), queue_s=(0.0, 2.0))
_HIGH_LOSSY = Ranges(round_trip_s=(0.0, 0.400), queue_s=(0.0, 2.0), loss=(0.0, 0.025))
# Lines worth bonding that change: none of a few kbit/s, whose single frames take longer than the changes.
_ACCESS = Ranges(rate_mbit=(4.0, 70.0), round_trip_s=(0.010, 0.080), queue_s=(0.030, 0.150))

SETS: Mapping[str, Set] = {
    "low": Set(_LOW, SECONDS_LOW, 1, bounds=LOW),
    "low-loss": Set(_LOSSY, SECONDS_LOW, 2, bounds=LOW),
    "high": Set(_HIGH, SECONDS_HIGH, 3, bounds=HIGH),
    "high-loss": Set(_HIGH_LOSSY, SECONDS_HIGH, 4, bounds=HIGH),
    "thin": Set(Ranges(rate_mbit=(0.1, 4.0), logarithmic=True), SECONDS_HIGH, 5, SIZES_SMALL),
    "jitter": Set(_ACCESS, SECONDS_LOW, 6, SIZES_SMALL, _jittery),
    "steps-30": Set(_ACCESS, SECONDS_CHANGING, 7, SIZES_SMALL, _steps(0.30, 1.0)),
    "steps-50": Set(_ACCESS, SECONDS_CHANGING, 8, SIZES_SMALL, _steps(0.50, 0.1)),
    "outages": Set(_ACCESS, SECONDS_CHANGING, 9, SIZES_SMALL, _gaps),
    "handover": Set(_ACCESS, 2 * SECONDS_CHANGING, 10, SIZES_SMALL, _handed_over),
    "policer": Set(_ACCESS, SECONDS_LOW, 11, SIZES_SMALL, _policed),
}


def scenarios(name: str) -> list[Scenario]:
    """All scenarios of a set. Raises ConfigError when there is none of that name."""
    if name not in SETS:
        raise ConfigError([f"no set {name!r} (there are: {', '.join(SETS)})"])
    return SETS[name].scenarios(name)


def _between(ends: tuple[float, float], unit: float) -> float:
    return ends[0] + (ends[1] - ends[0]) * float(unit)


def _with(base: Line, **both: float) -> Line:
    return Line(base.name, base.up and base.up.changed(**both), base.down and base.down.changed(**both))


def _delay(of: Line) -> float:
    assert of.down is not None
    return of.down.delay_s


def _describe(of: Line) -> str:
    shape = of.down
    assert shape is not None
    assert shape.rate_bps is not None
    parts = [f"{of.name} {shape.rate_bps / 1e6:g} Mbit/s {2e3 * shape.delay_s:g} ms"]
    if shape.jitter_s:
        parts[0] += f" ± {1e3 * shape.jitter_s:.1f} ms"
    parts.append(f"queue {shape.queue_limit_s * 1e3:.0f} ms")
    if shape.loss:
        parts.append(f"loss {shape.loss:.2%}")
    if shape.policer_bps:
        parts.append(
            f"policed {shape.policer_bps / 1e6:.1f} Mbit/s, {shape.policer_burst_bytes / 1e3:.0f} kB"
        )
    return " ".join(parts)
