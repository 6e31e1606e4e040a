"""What was measured, a line of JSON per scenario; one cut short by a kill is left out."""

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from bench.record import RESULTS

PATH = RESULTS / "matrix.jsonl"

Record = dict[str, Any]


def append(record: Record, path: Path = PATH) -> None:
    """Add a record, on disk when this returns."""
    path.parent.mkdir(exist_ok=True)
    text = path.read_text() if path.exists() else ""
    lead = "\n" if text and not text.endswith("\n") else ""
    with path.open("a") as file:
        file.write(lead + json.dumps(record, ensure_ascii=False) + "\n")


def records(path: Path = PATH) -> list[Record]:
    """All of them, in the order they were measured."""
    return list(_parsed(path)) if path.exists() else []


def latest(path: Path = PATH) -> tuple[dict[str, Record], list[Record]]:
    """By the scenario's name its newest record at its set's commit, which is that of the set's newest record;
    and the newest records of the scenarios that have none there."""
    by_time = sorted(records(path), key=lambda record: record["date"])
    commits = {record["set"]: record["commit"] for record in by_time}
    found = {record["scenario"]: record for record in by_time if record["commit"] == commits[record["set"]]}
    newest = {record["scenario"]: record for record in by_time}
    return found, [record for name, record in newest.items() if name not in found]


def measured_at(found: Collection[Record]) -> dict[str, Any]:
    """What the report on them says of the program: `commit`, all of them, and whether one was `dirty`."""
    commits = dict.fromkeys(record["commit"] for record in found)
    return {"commit": ", ".join(commits), "dirty": any(record["dirty"] for record in found)}


def done(commit: str, seconds: float | None, path: Path = PATH) -> set[str]:
    """The names of the scenarios measured at this commit, without local changes and without an error, as long
    as told; `seconds` None: as long as the set says."""
    return {
        record["scenario"]
        for record in records(path)
        if record["commit"] == commit
        and not record["dirty"]
        and "error" not in record
        and (record["seconds"] == seconds if seconds is not None else record["whole"])
    }


def _parsed(path: Path) -> Iterator[Record]:
    for line in path.read_text().splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            continue
