"""What became of a simulation."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from hosts import Probe

from bondvpn.lab.pipe import Pipe

if TYPE_CHECKING:
    from simulation import Run

SAMPLE_S = 0.05


@dataclass
class Result:
    """Rates in bit/s, times in seconds; what is per line is in the lines' order.

    Rates, shares, queues and `retransmitted` leave out the first `skip_s`, as iperf3's `-O`; all else is of
    the whole run.
    """

    goodput_bps: float = 0.0
    share: float = 0.0  # of the sum
    eab: float = 0.0
    to_90_s: float | None = None
    first_second_share: float = 0.0  # of the final rate
    retransmitted: int = 0
    timeouts: int = 0
    recoveries: int = 0
    undone: int = 0
    tap_drops: int = 0
    silence_s: float = 0.0
    carried: list[float] = field(default_factory=list)  # share of the bytes
    used: list[float] = field(default_factory=list)  # share of each line's rate
    queue_p99_s: list[float] = field(default_factory=list)  # in the modem
    lost: list[int] = field(default_factory=list)
    overflowed: list[int] = field(default_factory=list)
    probe_p50_s: float | None = None
    probe_p99_s: float | None = None
    probe_lost: int = 0
    probe_silence_s: float = 0.0
    hold_p50_s: float = 0.0
    hold_p99_s: float = 0.0
    jain: float = 1.0
    cross_bps: float = 0.0
    drops: dict[str, int] = field(default_factory=dict)
    flows_bps: list[float] = field(default_factory=list)


def quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else 0.0


def eab(goodput: float, capacities: Sequence[float]) -> float:
    """Experimental aggregation benefit: 1 is the sum, 0 the best line."""
    best, total = max(capacities), sum(capacities)
    if goodput < best:
        return (goodput - best) / best
    return (goodput - best) / (total - best) if total > best else 0.0


def summary(
    run: "Run",
    pipes: Sequence[Pipe],
    sums: Sequence[float],
    queues: Sequence[Sequence[float]],
    at_skip: Sequence[float],
    out_at_skip: Sequence[int],
) -> Result:
    scenario = run.scenario
    result = Result()
    span = scenario.seconds - scenario.skip_s
    result.flows_bps = [
        (bits - before) / span for bits, before in zip(run.delivered_bits(), at_skip, strict=True)
    ]
    capacities = scenario.capacities[: len(pipes)]
    total = result.goodput_bps = sum(result.flows_bps)
    result.share = total / sum(capacities) if sum(capacities) else 0.0
    result.eab = eab(total, capacities) if sum(capacities) else 0.0
    squares = sum(rate * rate for rate in result.flows_bps)
    result.jain = total * total / (len(result.flows_bps) * squares) if squares else 0.0
    per_s = round(1 / SAMPLE_S)
    if len(sums) > per_s and total:
        result.first_second_share = sums[per_s] / total
        window = per_s // 2
        for i in range(window, len(sums)):
            if (sums[i] - sums[i - window]) / (window * SAMPLE_S) >= 0.9 * total:
                result.to_90_s = (i - window / 2) * SAMPLE_S
                break
    result.timeouts = sum(sender.timeouts for sender in run.senders)
    result.recoveries = sum(sender.recoveries for sender in run.senders)
    result.undone = sum(sender.undone for sender in run.senders)
    result.silence_s = max(receiver.silence_s for receiver in run.receivers)
    carried = [pipe.bytes_out - before for pipe, before in zip(pipes, out_at_skip, strict=True)]
    result.carried = [one / max(sum(carried), 1) for one in carried]
    rates = [scenario.direction(line).rate_bps or 1e12 for line in scenario.lines]
    result.used = [one * 8 / span / rate for one, rate in zip(carried, rates, strict=False)]
    result.queue_p99_s = [quantile(samples, 0.99) for samples in queues]
    result.lost = [pipe.refused["loss"] for pipe in pipes]
    result.overflowed = [pipe.refused["queue"] for pipe in pipes]
    if run.probe is not None:
        _probe_summary(result, run.probe)
    return result


def _probe_summary(result: Result, probe: Probe) -> None:
    rtts = [at - probe.sent[number] for number, at in probe.back.items()]
    result.probe_p50_s, result.probe_p99_s = quantile(rtts, 0.5), quantile(rtts, 0.99)
    result.probe_lost = len(probe.sent) - len(probe.back)
    arrivals = sorted(probe.arrived.values())
    result.probe_silence_s = max((later - earlier for earlier, later in pairwise(arrivals)), default=0.0)


def as_dict(result: Result) -> dict[str, Any]:
    return asdict(result)
