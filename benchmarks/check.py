"""Whether results have fallen behind the committed ones: `python -m benchmarks.check RESULTS [COMMITTED]`.

Compares ratios, never seconds: a contender's time over ours, or what best-of-N costs over one sample, must not be below
SLACK times what is committed, and our memory over TRL's not above it by as much. A folder of new results against
`benchmarks/results`; exit 1 names what fell.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

COMMITTED = Path(__file__).parent / "results"
SLACK = 0.8  # two runs on one machine differ by up to a fifth
LABELS = ("stage", "size", "dtype", "batch", "n", "mode", "reward", "contender")
HIGHER = ("time / ", "cost of best-of-N")
LOWER = ("memory / ",)


def ratios(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Name of the row and ratio → how many times longer the contender took than we did, and the like."""
    return {
        f"{' '.join(str(row[label]) for label in LABELS if label in row)}, {key}": float(value)
        for row in rows
        for key, value in row.items()
        if key.startswith(HIGHER + LOWER) and value is not None
    }


def is_lower(name: str) -> bool:
    """Whether less is better."""
    return name.rpartition(", ")[2].startswith(LOWER)


def fallen(new: Path, committed: Path) -> Iterator[str]:
    """A line for each ratio that fell by more than the slack, or is no longer there."""
    for path in sorted(new.glob("*.json")):
        before = committed / path.name
        if not before.exists():
            continue
        old, now = (ratios(json.loads(one.read_text())["rows"]) for one in (before, path))
        for name, value in old.items():
            if name not in now:
                yield f"{path.stem}: {name} is missing"
            elif now[name] * SLACK > value if is_lower(name) else now[name] < SLACK * value:
                yield f"{path.stem}: {name} was {value:g}, is {now[name]:g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("committed", type=Path, nargs="?", default=COMMITTED)
    args = parser.parse_args()
    if not list(args.results.glob("*.json")):
        sys.exit(f"{args.results}: holds no results; write them with python -m benchmarks.NAME --json FILE")
    lines = list(fallen(args.results, args.committed))
    print("\n".join(lines) or "no ratio fell")
    sys.exit(bool(lines))


if __name__ == "__main__":
    main()
