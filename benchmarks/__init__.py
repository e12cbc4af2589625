"""Benchmarks: `python -m benchmarks.NAME [--json FILE]` prints a table; ratios are measured pair by pair in one run."""
