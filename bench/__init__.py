"""Whole-path benches in namespaces; `python -m bench` runs them and writes docs/benchmarks.md."""
