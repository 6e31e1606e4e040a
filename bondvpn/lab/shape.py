"""What a line does to frames: the figures a pipe works from, and the lines the demo uses."""

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from bondvpn.errors import ConfigError

# A DSL or cable modem's tail-drop buffer; 100 ms is the middle of what access lines show.
MODEM_QUEUE_S = 0.1
FRAME_BYTES_MAX = 1514
POLICER_BURST_BYTES = 64_000  # the order of what shops configure: 10 to 50 ms of an access line


@dataclass(frozen=True, slots=True)
class Shape:
    """One direction of a line. Rates in bit/s of Ethernet frame bytes (1514 for a full packet, no FCS).

    `queue_s` or `queue_bytes` bounds what waits to be sent, tail drop; neither given means 100 ms.
    `jitter_s` is uniform ±. `loss` is the mean share of frames lost on the line, after the queue, so they
    use up rate; `loss_burst` is the mean length of a run of losses (Gilbert's two states), None for
    independent ones. A policer drops what exceeds `policer_bps` by more than `policer_burst_bytes`, before
    the queue and without any delay (a token bucket, RFC 2698 with one rate). Raises ConfigError with every
    finding.
    """

    rate_bps: float | None = None
    delay_s: float = 0.0
    jitter_s: float = 0.0
    loss: float = 0.0
    loss_burst: float | None = None
    queue_s: float | None = None
    queue_bytes: int | None = None
    policer_bps: float | None = None
    policer_burst_bytes: int = POLICER_BURST_BYTES
    mtu: int = 1500
    seed: int = 1

    def __post_init__(self) -> None:
        findings = [
            (self.rate_bps is None or self.rate_bps > 0, "rate_bps: above 0, or none for no limit"),
            (self.delay_s >= 0, "delay_s: 0 or more"),
            (
                0 <= self.jitter_s <= self.delay_s,
                "jitter_s: 0 up to delay_s (nothing arrives before it left)",
            ),
            (0 <= self.loss < 1, "loss: from 0 to below 1 (cut the line to lose everything)"),
            (self.loss_burst is None or self.loss_burst >= 1, "loss_burst: 1 frame or more, or none"),
            (self.queue_s is None or self.queue_s >= 0, "queue_s: 0 or more"),
            (self.queue_bytes is None or self.queue_bytes >= 0, "queue_bytes: 0 or more"),
            (self.queue_s is None or self.queue_bytes is None, "queue_s or queue_bytes, not both"),
            (self.policer_bps is None or self.policer_bps > 0, "policer_bps: above 0, or none"),
            (
                self.policer_burst_bytes >= FRAME_BYTES_MAX,
                f"policer_burst_bytes: {FRAME_BYTES_MAX} or more (a full frame passes)",
            ),
            (68 <= self.mtu <= 1500, "mtu: 68 to 1500"),
        ]
        if wrong := [accepted for right, accepted in findings if not right]:
            raise ConfigError(wrong)

    @property
    def queue_limit_s(self) -> float:
        """The queue as time to send it at this rate, the frame in service included; seconds."""
        if self.queue_bytes is not None:
            return self.queue_bytes * 8 / self.rate_bps if self.rate_bps else 0.0
        return MODEM_QUEUE_S if self.queue_s is None else self.queue_s

    def changed(self, **changes: Any) -> "Shape":
        """A copy with some fields replaced; one queue limit displaces the other.

        Raises ConfigError for a field that does not exist or a value out of range.
        """
        if unknown := changes.keys() - {field.name for field in fields(self)}:
            accepted = ", ".join(field.name for field in fields(self))
            raise ConfigError(
                [f"{name}: no such parameter (accepted: {accepted})" for name in sorted(unknown)]
            )
        if changes.get("queue_s") is not None:
            changes.setdefault("queue_bytes", None)
        if changes.get("queue_bytes") is not None:
            changes.setdefault("queue_s", None)
        return replace(self, **changes)

    def as_dict(self) -> dict[str, Any]:
        """Every field by name, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Line:
    """An access line as its customer sees it: `up` leaves the gateway, `down` comes to it.

    With both None the line is a plain veth, unshaped and with its offloads on.
    """

    name: str
    up: Shape | None = None
    down: Shape | None = None

    @property
    def shaped(self) -> bool:
        return self.up is not None or self.down is not None


def line(name: str, *, up_mbit: float, down_mbit: float, delay_s: float, **both: Any) -> Line:
    """A line of the given speeds (Mbit/s) and one-way delay; `both` goes to both directions.

    The directions get different seeds, so that they do not lose the same frames.
    """
    seed = both.pop("seed", 1)
    return Line(
        name,
        up=Shape(rate_bps=up_mbit * 1e6, delay_s=delay_s, seed=2 * seed, **both),
        down=Shape(rate_bps=down_mbit * 1e6, delay_s=delay_s, seed=2 * seed + 1, **both),
    )


DSL = line("dsl", up_mbit=1, down_mbit=16, delay_s=0.015)
CABLE = line("cable", up_mbit=5, down_mbit=50, delay_s=0.010)
LTE = line("lte", up_mbit=10, down_mbit=30, delay_s=0.040)
DEMO = (DSL, CABLE, LTE)


def twins(count: int = 2, mbit: float = 50, delay_s: float = 0.010, **both: Any) -> tuple[Line, ...]:
    """`count` symmetric lines a, b, c, ... of the same speed (Mbit/s) and one-way delay."""
    return tuple(
        line(chr(ord("a") + i), up_mbit=mbit, down_mbit=mbit, delay_s=delay_s, seed=i + 1, **both)
        for i in range(count)
    )
