"""A point estimate with its interval; it needs neither numpy nor torch."""

from typing import NamedTuple


class Estimate(NamedTuple):
    """A point estimate with its central 95 % interval; one prompt has none, and low = value = high."""

    value: float
    low: float
    high: float
