"""Rows of results: chosen by their columns, summed up over seeds, and drawn as lines."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vbon.figures.shapes import Line

Row = dict[str, Any]
RULE = "N(N−1)/(2M(2N−1))"
"""The name of the line of core.pool_size's rule."""
Band = Callable[[Row], Sequence[float]]
"""Gives the lower and the upper end of a row's band."""


def where(rows: Sequence[Row], **columns: Any) -> list[Row]:
    """Return the rows that have these values."""
    return [row for row in rows if all(row[name] == value for name, value in columns.items())]


def distinct(rows: Sequence[Row], name: str) -> list[Any]:
    """Return the values of a column in the order met."""
    return list(dict.fromkeys(row[name] for row in rows))


def summary(runs: Sequence[Row], by: Sequence[str], distance: str = "kl_policy_bon") -> list[Row]:
    """Return one row for each combination of the `by` columns, in the order met.

    It has `seeds`, their number; the median of every other column of numbers; `lowest` and `highest` of `distance`.
    """
    keys = dict.fromkeys(tuple(run[name] for name in by) for run in runs)
    return [_over_seeds(where(runs, **dict(zip(by, key, strict=True))), by, distance) for key in keys]


def seeds_line(runs: Sequence[Row], x: str, y: str, label: str, style: str = "-") -> Line:
    """Return the medians of `y` against `x` in ascending order, in a band from the lowest to the highest seed."""
    rows = sorted(summary(runs, (x,), y), key=lambda row: float(row[x]))
    return line(rows, x, y, label, style, band=lambda row: (row["lowest"], row["highest"]))


def line(
    rows: Sequence[Row],
    x: str,
    y: str,
    label: str,
    style: str = "-",
    *,
    band: Band | None = None,
    least: float = -math.inf,
    least_of_band: float = -math.inf,
) -> Line:
    """Return column `y` of the rows against column `x`.

    Args:
        rows: In the order of the line.
        x: A column of numbers.
        y: A column of numbers.
        label: The line's name.
        style: A matplotlib line style.
        band: Gives the lower and upper end of a row's band; None draws none.
        least: Lower values are drawn here, for a logarithmic axis.
        least_of_band: The same for the band.
    """
    low, high = ([max(band(row)[end], least_of_band) for row in rows] if band else None for end in (0, 1))
    return Line(label, [row[x] for row in rows], [max(row[y], least) for row in rows], low, high, style, marker="o")


def plus_minus(key: str) -> Band:
    """Return the band of a column whose half-width stands in `{key}_error`."""
    return lambda row: (row[key] - row[f"{key}_error"], row[key] + row[f"{key}_error"])


def interval(key: str) -> Band:
    """Return the band of a column whose interval stands in `intervals`."""
    return lambda row: row["intervals"][key]


def _over_seeds(runs: Sequence[Row], by: Sequence[str], distance: str) -> Row:
    first, distances = runs[0], [run[distance] for run in runs]
    numbers = [name for name, value in first.items() if isinstance(value, int | float) and name not in (*by, "seed")]
    medians = {name: float(np.median([run[name] for run in runs])) for name in numbers}
    names = {name: first[name] for name in by}
    return {**names, "seeds": len(runs), **medians, "lowest": min(distances), "highest": max(distances)}
