"""What the demo measured, and whether that is good: arithmetic and words, no I/O.

Rates are bit/s of TCP goodput unless a name says otherwise; times are seconds.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# What must hold. Share of the sum of the lines, each alone, while all of them are up.
SHARE_MIN = 0.90
# The longest time in which nothing is delivered, the moment of the cut included.
SILENCE_MAX_S = 1.0
# Share of what the remaining lines give alone, while one is cut.
CUT_SHARE_MIN = 0.85
# From the line's return until it carries again.
AGAIN_MAX_S = 3.0

# The seconds of a window's edge that are left out: TCP's report and our clock agree to 0.1 s.
EDGE_S = 0.2
# After the cut TCP finds its feet before its rate says something about the rest of the lines.
RECOVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class Timeline:
    """When things happened, seconds since the first data of the transfer through the bond."""

    steady_from: float
    """Slow start is over."""
    cut: float
    restored: float
    again: float | None
    """When the line carried again; None when it did not."""
    end: float


@dataclass(frozen=True, slots=True)
class Figures:
    """What came out. With a `fault` the connection broke, and what follows it is zero."""

    alone: dict[str, float]
    """Plain TCP on each line, nothing else on that line."""
    pulled: str
    bonded: float = 0.0
    """One connection, from the end of slow start until the cut."""
    steady_s: float = 0.0
    gone_s: float = 0.0
    """How long the line was cut."""
    silence_s: float = math.inf
    """No stretch without data, from the end of slow start on, was longer than this."""
    while_cut: float = 0.0
    again_s: float | None = None
    """From the line's return until it carried again; None when it did not."""
    after: float = 0.0
    """From then until the end."""
    fault: str | None = None

    @property
    def total(self) -> float:
        return sum(self.alone.values())

    @property
    def share(self) -> float:
        return self.bonded / self.total if self.total else 0.0

    @property
    def rest(self) -> float:
        """What the lines that stay give alone."""
        return self.total - self.alone[self.pulled]

    @property
    def cut_share(self) -> float:
        return self.while_cut / self.rest if self.rest else 0.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome in plain words; `reasons` says what is not good enough."""

    text: str
    reasons: list[str]

    @property
    def ok(self) -> bool:
        return not self.reasons


def mean(intervals: Sequence[float], interval_s: float, start: float, end: float) -> float:
    """The mean rate of the whole intervals between two times; 0 when there is none."""
    first, last = math.ceil(start / interval_s - 1e-6), math.floor(end / interval_s + 1e-6)
    whole = intervals[max(0, first) : max(0, last)]
    return sum(whole) / len(whole) if whole else 0.0


def longest_silence(intervals: Sequence[float], interval_s: float) -> float:
    """An upper bound: the longest run of empty intervals, and the two beside it in full, since what they hold
    may have come at their far ends."""
    longest = run = 0
    for rate in intervals:
        run = run + 1 if rate == 0 else 0
        longest = max(longest, run)
    return (longest + 2) * interval_s


def evaluate(
    alone: dict[str, float], pulled: str, intervals: Sequence[float], interval_s: float, when: Timeline
) -> Figures:
    """The figures of a transfer that lived to its end, from its goodput per interval."""
    steady = intervals[math.ceil(when.steady_from / interval_s) :]
    back = when.restored if when.again is None else when.again
    return Figures(
        alone=alone,
        pulled=pulled,
        bonded=mean(intervals, interval_s, when.steady_from, when.cut - EDGE_S),
        steady_s=when.cut - EDGE_S - when.steady_from,
        gone_s=when.restored - when.cut,
        silence_s=longest_silence(steady, interval_s),
        while_cut=mean(intervals, interval_s, when.cut + RECOVERY_S, when.restored - EDGE_S),
        again_s=None if when.again is None else when.again - when.restored,
        after=mean(intervals, interval_s, back + EDGE_S, when.end),
    )


def judge(figures: Figures) -> Verdict:
    """Whether the bond kept its promises, in words for someone who has not read this file."""
    parts = [round(rate / 1e6, 1) for rate in figures.alone.values()]
    lines = f"lines that alone give {' + '.join(f'{part:.1f}' for part in parts)} = {sum(parts):.1f}"
    name = figures.pulled.upper() if len(figures.pulled) < 4 else figures.pulled
    if figures.fault is not None:
        reason = f"the TCP connection through the bond was lost: {figures.fault}"
        return Verdict(f"Over {lines} Mbit/s, not good: {reason}.", [reason])
    again = (
        "it was not used again after it returned"
        if figures.again_s is None
        else f"it was back in use {figures.again_s:.1f} s after it returned"
    )
    text = (
        f"One TCP connection got {figures.bonded / 1e6:.1f} Mbit/s out of {lines}: {figures.share:.1%}. "
        f"The {name} line was pulled for {figures.gone_s:.1f} s: no connection was lost, the longest silence "
        f"was under {figures.silence_s:.1f} s, the others gave {figures.while_cut / 1e6:.1f} of "
        f"{figures.rest / 1e6:.1f} Mbit/s meanwhile, and {again}."
    )
    reasons = shortfalls(figures, name)
    return Verdict(text + (f" Not good: {'; '.join(reasons)}." if reasons else ""), reasons)


def shortfalls(figures: Figures, name: str) -> list[str]:
    """Every promise that was not kept."""
    again = math.inf if figures.again_s is None else figures.again_s
    kept = [
        (figures.share >= SHARE_MIN, f"{figures.share:.1%} of the sum, at least {SHARE_MIN:.0%} was due"),
        (
            figures.silence_s < SILENCE_MAX_S,
            f"silent for up to {figures.silence_s:.1f} s, less than {SILENCE_MAX_S:.0f} s was due",
        ),
        (
            figures.cut_share >= CUT_SHARE_MIN,
            f"{figures.cut_share:.1%} of the lines but {name}, at least {CUT_SHARE_MIN:.0%} was due",
        ),
        (again <= AGAIN_MAX_S, f"{name} was not used again within {AGAIN_MAX_S:.0f} s"),
        (figures.after > 0, "nothing was delivered after the line's return"),
    ]
    return [reason for good, reason in kept if not good]


def as_dict(figures: Figures, verdict: Verdict) -> dict[str, Any]:
    """The figures and the verdict ready for JSON: Mbit/s and seconds; null for what was not measured."""
    lost = figures.fault is not None
    return {
        "ok": verdict.ok,
        "verdict": verdict.text,
        "reasons": verdict.reasons,
        "alone_mbit": {name: _mbit(rate) for name, rate in figures.alone.items()},
        "sum_mbit": _mbit(figures.total),
        "bonded_mbit": None if lost else _mbit(figures.bonded),
        "share": None if lost else round(figures.share, 4),
        "steady_s": None if lost else round(figures.steady_s, 2),
        "connection_lost": lost,
        "pulled": {
            "line": figures.pulled,
            "gone_s": None if lost else round(figures.gone_s, 2),
            "longest_silence_s": None if lost else round(figures.silence_s, 2),
            "while_cut_mbit": None if lost else _mbit(figures.while_cut),
            "while_cut_share": None if lost else round(figures.cut_share, 4),
            "used_again_s": None if figures.again_s is None else round(figures.again_s, 2),
            "after_mbit": None if lost else _mbit(figures.after),
        },
    }


def _mbit(rate: float) -> float:
    return round(rate / 1e6, 2)
