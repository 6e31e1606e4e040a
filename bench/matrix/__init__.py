"""Many scenarios from a space-filling design, each measured by plain TCP on its lines and through the bond.

    python -m bench.matrix [--set NAME ...] [--limit N] [--seconds S]

Resumable: `results/matrix.jsonl` has a line per scenario, and those of this program are not measured again.
"""
