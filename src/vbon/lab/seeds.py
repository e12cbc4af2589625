"""Runs that differ in their seed alone, as one: a row of a table, a curve with its band."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from vbon.lab.figures import Line

Row = dict[str, Any]


def summary(runs: Sequence[Row], by: Sequence[str], distance: str = "kl_policy_bon") -> list[Row]:
    """One row for each combination of the `by` columns, in the order met: `seeds`, their number; the median of every
    other column of numbers; `lowest` and `highest` of `distance`.
    """
    return [_of_alike(alike, by, distance) for alike in _alike(runs, by)]


def line(runs: Sequence[Row], x: str, y: str, label: str, style: str = "-") -> Line:
    """Medians of `y` against `x` in ascending order, the band from the lowest to the highest seed."""
    rows = sorted(summary(runs, (x,), y), key=lambda row: float(row[x]))
    low, high = ([row[end] for row in rows] for end in ("lowest", "highest"))
    return Line(label, [row[x] for row in rows], [row[y] for row in rows], low, high, style)


def _alike(runs: Sequence[Row], by: Sequence[str]) -> Iterator[list[Row]]:
    for key in dict.fromkeys(tuple(run[name] for name in by) for run in runs):
        yield [run for run in runs if tuple(run[name] for name in by) == key]


def _of_alike(runs: Sequence[Row], by: Sequence[str], distance: str) -> Row:
    first, distances = runs[0], [run[distance] for run in runs]
    numbers = [name for name, value in first.items() if isinstance(value, int | float) and name not in (*by, "seed")]
    medians = {name: float(np.median([run[name] for run in runs])) for name in numbers}
    names = {name: first[name] for name in by}
    return {**names, "seeds": len(runs), **medians, "lowest": min(distances), "highest": max(distances)}
