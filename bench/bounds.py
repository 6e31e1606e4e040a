"""Single rows of what must hold, measured and printed but not recorded: for work on one of them.

python -m bench.bounds [ROW ...] [--runs 1] [--states]
"""

import argparse
import sys
import time

from bench import cuts, eql, moving, repair, sharing, states, sums
from bench.record import Outcome, circumstances, markdown
from bondvpn.errors import BondvpnError

MODULES = (sums, moving, sharing, cuts, repair, eql)


def main() -> int:
    rows = {name: row for module in MODULES for name, row in module.ROWS.items()}
    parser = argparse.ArgumentParser(prog="python -m bench.bounds", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of: {', '.join(rows)}")
    parser.add_argument("--runs", type=int, default=1, help="of which the median counts")
    parser.add_argument("--states", action="store_true", help="print what the sender learns meanwhile")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.rows if name not in rows]:
        parser.error(f"no row {', '.join(unknown)} (there are: {', '.join(rows)})")
    if arguments.states:
        states.show()
    failed = False
    for name in arguments.rows or rows:
        outcome, began = Outcome(), time.monotonic()
        try:
            rows[name](outcome, arguments.runs)
        except BondvpnError as error:
            outcome.failures.append(str(error))
        facts = circumstances(f"python -m bench.bounds {name} --runs {arguments.runs}", arguments.runs)
        print(f"## {name}\n\n{markdown(outcome, facts)}\n({time.monotonic() - began:.0f} s)\n", flush=True)
        failed = failed or bool(outcome.failed)
    return failed


if __name__ == "__main__":
    sys.exit(main())
