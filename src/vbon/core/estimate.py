"""A point estimate with its interval; it needs neither numpy nor torch."""

from typing import NamedTuple


class Estimate(NamedTuple):
    """A point estimate with its central 95 % percentile-bootstrap interval."""

    value: float
    low: float
    high: float
