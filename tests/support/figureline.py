"""A line whose figures are given, for the schedulers' tests."""

from dataclasses import dataclass, field

from bondvpn.bond.adaptive import Adaptive
from bondvpn.bond.capacity import DATAGRAM_BYTES, YOUNG_S, Capacity, Phase
from bondvpn.bond.pacer import Pacer

NOW = 50.0
LIMIT = 1_000_000
PLENTY = 900_000


@dataclass(eq=False)
class FigureLine:
    """A line in its steady phase: `rate` in bytes a second, `delay_s` its base delay, None: not known."""

    rate: float = 1_000_000.0
    delay_s: float | None = 0.010
    queue_s: float = 0.0
    tier: int = 0
    number: int = 0
    window: float = 1e9
    in_flight: int = 0
    blocked: bool = False
    rate_bps: int | None = None
    srtt_s: float = 0.02
    served_s: float = 0.0
    capacity: Capacity = field(init=False)
    pacer: Pacer = field(init=False)

    def __post_init__(self) -> None:
        self.capacity = Capacity()
        self.capacity.phase = Phase.STEADY
        self.out_of_startup(2 * YOUNG_S)
        self.capacity.carries.mean = self.rate
        self.capacity.window = self.window
        self.capacity.delays.queue_s = self.queue_s
        self.capacity._told_of_at = NOW
        if self.delay_s is not None:
            self.capacity.delays._base_delay.add(self.delay_s, NOW)
        self.pacer = Pacer(None)
        self.pacer.set_rate(1e9, 1.0)

    def out_of_startup(self, since_s: float) -> None:
        self.capacity._settled_at, self.capacity._reported_at = NOW - since_s, NOW

    @property
    def arrival(self) -> float:
        return (self.delay_s or 0.0) + self.queue_s + DATAGRAM_BYTES / self.rate

    def dry(self) -> None:
        """No tokens, and no time to earn any."""
        self.pacer.refill(NOW)
        self.pacer.tokens = -1e9


def adaptive(*lines: FigureLine) -> Adaptive[FigureLine]:
    scheduler: Adaptive[FigureLine] = Adaptive()
    scheduler.set_lines(list(lines))
    return scheduler
