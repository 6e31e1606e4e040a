"""What the scenarios say together: a table by set, bounds, and the ECDF of the aggregation benefit."""

import statistics
from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from bench import plot
from bench.matrix.scenarios import BEST_SHARE, SETS, Bounds
from bench.matrix.store import Record
from bench.record import Bench, Outcome
from bench.sums import CONGESTIONS

DRAWN = ("low", "low-loss", "high", "high-loss")
WORST_SHOWN = 10
COMMIT_DIGITS = 7
HEAD = (
    "| set | flow | scenarios | commit | G/Σ, median (worst) | of plain TCP's sum, median | EAB, median "
    f"| EAB > 0 | G ≥ {BEST_SHARE:g} × best line | the two over plain TCP | to 90 %, median "
    "| probe p99 above RTT, median | CPU, share of a core |\n"
    "|---|---|---|---|---|---|---|---|---|---|---|---|---|"
)
METHOD = (
    "Two lines, also three and four, from a space-filling design (WSP from a Latin hypercube, seeded) over "
    "the ranges of Multipath QUIC (CoNEXT 2017): 0.1 to 100 Mbit/s; low-BDP 0 to 50 ms of round trip and 0 "
    "to 100 ms of queue, high-BDP 0 to 400 ms and 0 to 2 s; loss none, or 0 to 2.5 %; and further sets whose "
    "lines change. Per scenario one plain cubic flow on every line, then one flow through the bond "
    "(`adaptive`, no speed configured) with cubic and one with bbr, beside 50 echoed datagrams a second. "
    "Goodput G without the first 40 %; Σ, EAB and the best line over what the lines are worth with their "
    "loss taken away, and once more over what the plain flows had: more than the best, and "
    f"{BEST_SHARE:g} of it. "
    "A set's rows are of one commit, that of its newest record. `python -m bench.matrix` resumes."
)


def outcome(found: Mapping[str, Record], left_out: Collection[Record] = ()) -> Outcome:
    """Table, bounds, plot and the worst scenarios of `found`, by the scenario's name and each set at one
    commit; a note counts the scenarios `left_out`, which were measured at others."""
    made = Outcome()
    rows = [HEAD]
    curves = {}
    for name, each in SETS.items():
        inside = [record for record in found.values() if record["set"] == name]
        made.failures += [
            f"{record['scenario']}: {record['error']}" for record in inside if "error" in record
        ]
        measured = [record for record in inside if "error" not in record]
        if not measured:
            continue
        for congestion in CONGESTIONS:
            rows.append(_row(name, congestion, measured))
            if each.bounds is not None:
                _hold(made, f"{name}, {congestion}", each.bounds, _results(measured, congestion))
            if name in DRAWN:
                benefits = [result["benefit"] for result in _results(measured, congestion)]
                curves[f"{name}, {congestion}"] = plot.ecdf(benefits)
    made.table = "\n".join(rows)
    if curves:
        made.drawing = plot.steps(
            "Experimental aggregation benefit: share of scenarios up to",
            curves,
            x_label="EAB (0: the best line, 1: the sum)",
            y_label="share",
            x_max=1.2,
            y_max=1.0,
        )
    made.notes = _left_out(left_out) + _worst(found)
    return made


def _results(records: Sequence[Record], congestion: str) -> list[Record]:
    return [record["bond"][congestion] for record in records]


def _row(name: str, congestion: str, records: Sequence[Record]) -> str:
    results = _results(records, congestion)
    shares = [result["share"] for result in results]
    plain = [result["plain_share"] for result in results if result["plain_share"] is not None]
    of_plain = [
        result["goodput"] / max(record["plain"])
        for record, result in zip(records, results, strict=True)
        if max(record["plain"])
    ]
    starts = [float("inf") if result["start_s"] is None else result["start_s"] for result in results]
    above = [
        (float("inf") if result["probe_p99_s"] is None else result["probe_p99_s"]) - record["round_trip_s"]
        for record, result in zip(records, results, strict=True)
    ]
    cpu = [
        (result["cpu_s"]["client"] + result["cpu_s"]["server"]) / record["seconds"]
        for record, result in zip(records, results, strict=True)
    ]
    cells = [
        name,
        congestion,
        str(len(results)),
        records[0]["commit"][:COMMIT_DIGITS],
        f"**{statistics.median(shares):.3f}** ({min(shares):.2f})",
        f"{statistics.median(plain):.2f}" if plain else "",
        f"{statistics.median(result['benefit'] for result in results):.3f}",
        f"{_in([result['benefit'] > 0 for result in results]):.0%}",
        f"{_in([result['of_best'] >= BEST_SHARE for result in results]):.0%}",
        " ".join(
            f"{_in([rate > least for rate in of_plain]):.0%}" for least in (1.0, BEST_SHARE) if of_plain
        ),
        f"{statistics.median(starts):.1f} s",
        f"{statistics.median(above) * 1e3:.0f} ms",
        f"{statistics.median(cpu):.0%}",
    ]
    return f"| {' | '.join(cells)} |"


def _hold(made: Outcome, name: str, bounds: Bounds, results: Sequence[Record]) -> None:
    """Three shares of scenarios, held to the set's bounds."""
    held = (
        (f"G ≥ {bounds.sum_share:g} Σ", bounds.sum_in, "share", bounds.sum_share),
        ("EAB > 0", bounds.benefit_in, "benefit", 1e-9),
        (f"G ≥ {BEST_SHARE:g} × best line", bounds.best_in, "of_best", BEST_SHARE),
    )
    for words, at_least, key, least in held:
        figure = made.figure(f"{name}: scenarios with {words}", "share", at_least=at_least)
        figure.add(_in([result[key] >= least for result in results]))


def _left_out(records: Collection[Record]) -> list[str]:
    """How many scenarios by set and commit, in one note; none where nothing was left out."""
    counts = Counter((record["set"], record["commit"][:COMMIT_DIGITS]) for record in records)
    if not counts:
        return []
    words = ", ".join(f"{count} of {name} at {commit}" for (name, commit), count in counts.items())
    return [f"scenarios left out, last measured at other commits: {words}"]


def _worst(found: Mapping[str, Record]) -> list[str]:
    rated = sorted(
        (result["share"], record["scenario"], congestion, record["lines"])
        for record in found.values()
        if "error" not in record
        for congestion, result in record["bond"].items()
    )
    return [
        f"among the worst: {name}, {congestion}: {share:.2f} of Σ ({lines})"
        for share, name, congestion, lines in rated[:WORST_SHOWN]
    ]


def _in(held: Sequence[bool]) -> float:
    return sum(held) / len(held)


def bench(measured: Outcome) -> Bench:
    """For `record.write`."""
    return Bench("matrix", "Many lines: the matrix", METHOD, lambda _runs: measured, quick=False)
