"""What lines are worth: their sum Σ, the share of it that was got, and the aggregation benefit.

Σ is what plain TCP gets from the lines with their loss taken away: rate × 1448 / 1514 × (1 − loss) of each,
rates in Ethernet frame bytes, the policer's where that is lower. (Plain cubic gets 2 of 30 Mbit/s from a line
with 0.5 % loss and 80 ms; the bond repairs the loss, so that is no yardstick.)
"""

from collections.abc import Sequence

from bondvpn.errors import ConfigError
from bondvpn.lab.shape import Line, Shape

TCP_SHARE = 1448 / 1514  # of a full frame: Ethernet, IPv4, TCP with timestamps


def worth_bps(shape: Shape | None) -> float:
    """What a direction of a line is worth. Raises ConfigError for one without a rate."""
    if shape is None or shape.rate_bps is None:
        raise ConfigError(["a line without a rate has no worth to compare with"])
    rate = min(shape.rate_bps, shape.policer_bps or shape.rate_bps)
    return rate * TCP_SHARE * (1 - shape.loss)


def worths(lines: Sequence[Line], way: str) -> list[float]:
    """What each line is worth, `way` "up" or "down"."""
    return [worth_bps(line.up if way == "up" else line.down) for line in lines]


def benefit(goodput: float, alone: Sequence[float]) -> float:
    """Experimental aggregation benefit (Paasch et al., CoNEXT 2013): 1 is the sum of what each line gives
    alone, 0 the best of them, negative is harm. A line alone has nothing to add: raises ConfigError."""
    best, rest = max(alone), sum(alone) - max(alone)
    if goodput < best:
        return (goodput - best) / best
    if not rest:
        raise ConfigError(["one line alone has no aggregation benefit"])
    return (goodput - best) / rest


def jain(rates: Sequence[float]) -> float:
    """Jain's fairness index: 1 is equal shares, 1 / n all for one."""
    return sum(rates) ** 2 / (len(rates) * sum(rate * rate for rate in rates))
