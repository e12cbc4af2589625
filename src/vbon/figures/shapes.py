"""Lines and panels: the data of a figure, without any drawing."""

from collections.abc import Sequence
from typing import NamedTuple

from vbon.core.estimate import Estimate

REFERENCE_SERIES, TARGET_SERIES = -1, -2
"""In place of a policy's number, which chooses colour and marker."""


def value_of(value: float | Estimate) -> float:
    """Return a number, or the value of an estimate."""
    return value.value if isinstance(value, Estimate) else value


def highest(values: Sequence[float | Estimate]) -> float:
    """Return the largest number, or upper end of an interval."""
    return max(value.high if isinstance(value, Estimate) else value for value in values)


class Line(NamedTuple):
    """One line, or points; estimates are drawn with their intervals as bars."""

    name: str
    x: Sequence[float | Estimate]
    y: Sequence[float | Estimate]
    low: Sequence[float] | None = None
    """Lower end of a band."""
    high: Sequence[float] | None = None
    style: str = "-"
    """A matplotlib line style; `none` draws the points alone."""
    series: int | None = None
    """Chooses colour and marker; None is the line's place in its panel."""
    marker: str = ""
    """A matplotlib marker; empty is the one of the series, which estimates and single points have."""
    seeds: Sequence[tuple[float, float]] = ()
    """Small points, one for each seed."""


class Panel(NamedTuple):
    """One set of axes; both are logarithmic unless said otherwise."""

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    x_log: bool = True
    y_log: bool = True
    level: tuple[str, float] | None = None
    """Name and height of a horizontal line; without a name it is not in the legend."""
