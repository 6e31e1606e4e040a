"""bondvpn under tracemalloc, for `bench.memory`: the program itself knows nothing of it.

    python -m bench.traced REPORT client --config FILE

Runs the command line that follows REPORT. At each SIGUSR2 a line is added to REPORT, JSON: {"traced_bytes":
n, "top": [[place, bytes more than at the first signal], ...]}, after a full garbage collection.
"""

import gc
import json
import os
import signal
import sys
import threading
import tracemalloc
from pathlib import Path

FRAMES = 1
TOP = 8


def main() -> None:
    report = Path(sys.argv.pop(1))
    # Blocked here, so in every thread that comes: only the one that waits for it gets it.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    threading.Thread(target=_report, args=(report,), daemon=True).start()
    tracemalloc.start(FRAMES)
    from bondvpn.cli import main as bondvpn  # noqa: PLC0415  # traced from its first import on

    bondvpn()


def _report(report: Path) -> None:
    ignored = (
        tracemalloc.Filter(False, tracemalloc.__file__),
        tracemalloc.Filter(False, __file__),
    )
    first: tracemalloc.Snapshot | None = None
    while True:
        signal.sigwait({signal.SIGUSR2})
        gc.collect()
        snapshot = tracemalloc.take_snapshot().filter_traces(ignored)
        total = sum(trace.size for trace in snapshot.traces)
        first = first or snapshot
        growth = snapshot.compare_to(first, "lineno")[:TOP]
        top = [[f"{row.traceback[0].filename}:{row.traceback[0].lineno}", row.size_diff] for row in growth]
        with report.open("a") as lines:
            lines.write(json.dumps({"traced_bytes": total, "top": top}) + "\n")
            lines.flush()
            os.fsync(lines.fileno())


if __name__ == "__main__":
    main()
