"""What a simulation is asked to do: lines, flows, and what changes meanwhile."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tcpframes import MSS_BYTES
from tcpsender import WINDOW_BYTES
from virtualnet import World

from bondvpn.lab import shape
from bondvpn.lab.shape import Shape

FULL_FRAME_BYTES = 1514
STANDSTILL_BPS = 1.0

Event = tuple[float, Callable[[World], None]]


@dataclass
class Scenario:
    """Lines (each `shape.Line`), what runs over them, and for how long (seconds).

    `cc`: one congestion control for all flows, or one for each: "cubic+bbr". `cross`: (line, cc) of a
    download by another host behind the same modem, all the time.
    """

    lines: Sequence[shape.Line]
    cc: str = "cubic"
    seconds: float = 20.0
    skip_s: float = 3.0  # of the transfer's start, left out of the rates
    seed: int = 1
    upload: bool = False
    flows: int = 1
    stagger_s: float = 0.0  # between the starts of two flows
    cross: tuple[int, str] | None = None
    scheduler: str = "weighted"
    speeds: bool = True  # whether the lines' speeds are configured
    probe_hz: float = 50.0
    probe_dscp: int = 0
    window_bytes: int = WINDOW_BYTES  # of payload that a receiver allows
    events: Sequence[tuple[float, Callable[[World], None]]] = ()

    @property
    def ccs(self) -> list[str]:
        """Of each flow."""
        each = self.cc.split("+")
        return each if len(each) > 1 else each * self.flows

    def direction(self, line: shape.Line) -> Shape:
        """Of the transfer."""
        found = line.up if self.upload else line.down
        assert found is not None
        return found

    @property
    def capacities(self) -> list[float]:
        """bit/s that TCP would get from each line if its loss were repaired."""
        shapes = [self.direction(line) for line in self.lines]
        return [(one.rate_bps or 0.0) * MSS_BYTES / FULL_FRAME_BYTES * (1 - one.loss) for one in shapes]


def variations(
    number: int, line: shape.Line, kind: str, *, amount: float, period_s: float, seconds: float, seed: int = 1
) -> list[tuple[float, Callable[[World], None]]]:
    """Events for `Scenario.events`: line `number` changes all the time, by its seed.

    "rate": each `period_s` another rate, uniform within ± `amount` (a share). "gap": about every `period_s`
    (exponential) nothing leaves the queue for `amount` seconds. "delay": each `period_s` a delay up to
    `amount` seconds longer.
    """
    rng = random.Random(seed * 7919 + number)
    events: list[tuple[float, Callable[[World], None]]] = []

    def change(at: float, figure: Callable[[Shape], dict[str, Any]]) -> None:
        def happen(world: World) -> None:
            for to_server, plain in ((True, line.up), (False, line.down)):
                if plain is not None:
                    world.reshape(world.lines[number], to_server=to_server, **figure(plain))

        events.append((at, happen))

    at = 0.0
    while True:
        at += rng.expovariate(1 / period_s) if kind == "gap" else period_s
        if at >= seconds:
            return events
        if kind == "rate":
            factor = 1 + rng.uniform(-amount, amount)
            change(at, lambda plain, factor=factor: _at_rate(plain, (plain.rate_bps or 0) * factor))
        elif kind == "delay":
            more = rng.uniform(0, amount)
            change(at, lambda plain, more=more: {"delay_s": plain.delay_s + more})
        elif kind == "gap":
            change(at, lambda plain: _at_rate(plain, STANDSTILL_BPS))
            at += amount
            change(at, lambda plain: _at_rate(plain, plain.rate_bps))
        else:
            raise ValueError(f"{kind!r}: not one of rate, gap, delay")


def _at_rate(plain: Shape, rate_bps: float | None) -> dict[str, Any]:
    """A modem's memory does not shrink with its rate."""
    return {"rate_bps": rate_bps, "queue_bytes": round((plain.rate_bps or 0) / 8 * plain.queue_limit_s)}
