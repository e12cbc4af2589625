"""Comparison of methods that trade one quantity for another: Pareto fronts, and differences at equal cost.

A method is a curve of G grid points; arrays of shape (S, G, P) hold it for S seeds and P prompts.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vbon.core.estimate import Estimate
from vbon.core.stats import BOOTSTRAP_RESAMPLES, interpolate

Float = NDArray[np.float64]
LEAST_DEFINED = 0.9
"""An interval needs this share of its resamples inside the range of both curves."""


def pareto_front(cost: ArrayLike, gain: ArrayLike) -> NDArray[np.bool_]:
    """Mark the points that no other point dominates.

    A point dominates another if its cost is not higher and its gain is not lower, and one of the two is strictly
    better. `cost` and `gain` are (B,); the result is bool (B,).
    """
    x, y = np.asarray(cost, np.float64), np.asarray(gain, np.float64)
    no_worse = (x[:, None] <= x) & (y[:, None] >= y)
    better = (x[:, None] < x) | (y[:, None] > y)
    return np.asarray(~(no_worse & better).any(0))


def difference_at(
    levels: ArrayLike, cost_a: Float, gain_a: Float, cost_b: Float, gain_b: Float, seed: int = 0
) -> list[Estimate]:
    """Estimate gain_a − gain_b at each level of cost; both curves are interpolated linearly between their grid points.

    Curves are means over seeds and prompts. The 95 % interval resamples prompts and seeds, the same for both curves.

    Args:
        levels: costs at which the curves are compared, (L,).
        cost_a: cost of method a, (S, G_a, P), G_a ≥ 1.
        gain_a: gain of method a, (S, G_a, P).
        cost_b: cost of method b, (S, G_b, P), with the same S and P.
        gain_b: gain of method b, (S, G_b, P).
        seed: seed of the bootstrap.

    Returns:
        One estimate for each level. It is nan where the level lies outside one of the curves, in the value itself or in
        more than a tenth of the resamples.

    Raises:
        ValueError: the curves differ in their seeds or prompts.
    """
    at = np.asarray(levels, np.float64)
    if {(x.shape[0], x.shape[2]) for x in (cost_a, gain_a, cost_b, gain_b)} != {(cost_a.shape[0], cost_a.shape[2])}:
        raise ValueError("curves must share their seeds and prompts")
    num_seeds, _, num_prompts = cost_a.shape
    rng = np.random.default_rng(seed)
    drawn = [
        _difference(at, cost_a, gain_a, cost_b, gain_b, _shares(rng, num_seeds), _shares(rng, num_prompts))
        for _ in range(BOOTSTRAP_RESAMPLES)
    ]
    even = np.full(num_seeds, 1 / num_seeds), np.full(num_prompts, 1 / num_prompts)
    value = _difference(at, cost_a, gain_a, cost_b, gain_b, *even)
    return [_estimate(one, np.array(column)) for one, column in zip(value, np.transpose(drawn), strict=True)]


def _difference(
    at: Float, cost_a: Float, gain_a: Float, cost_b: Float, gain_b: Float, seeds: Float, prompts: Float
) -> Float:
    def mean(values: Float) -> Float:
        return np.asarray(np.tensordot(seeds, values, 1) @ prompts)

    return interpolate(mean(cost_a), mean(gain_a), at) - interpolate(mean(cost_b), mean(gain_b), at)


def _shares(rng: np.random.Generator, size: int) -> Float:
    """How often each of `size` rows is drawn in a resample, as a share."""
    return np.bincount(rng.integers(0, size, size), minlength=size) / size


def _estimate(value: float, drawn: Float) -> Estimate:
    known = drawn[np.isfinite(drawn)]
    if not np.isfinite(value) or len(known) < LEAST_DEFINED * len(drawn):
        return Estimate(np.nan, np.nan, np.nan)
    low, high = np.quantile(known, [0.025, 0.975])
    return Estimate(float(value), float(low), float(high))
