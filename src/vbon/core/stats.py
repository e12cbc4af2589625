"""Statistics of the tables: bootstrap over prompts, ratios, and the rank test of a pool."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vbon.core.estimate import Estimate
from vbon.core.special import chi2_sf

Float = NDArray[np.float64]
BOOTSTRAP_RESAMPLES = 2000
RANK_TEST_P_VALUE = 1e-4
"""Below it draws are taken not to be a pool's: one pool in ten thousand is refused by chance."""


def bootstrap(
    columns: tuple[ArrayLike, ...], statistic: Callable[..., Float], seed: int = 0, level: float = 0.95
) -> Estimate:
    """Estimate a statistic with its percentile-bootstrap interval over prompts.

    Args:
        columns: arrays with a value per prompt, (P,) each.
        statistic: function of the columns, (..., P) each, to (...).
        seed: seed of the resamples.
        level: coverage of the interval.

    Returns:
        The statistic of all prompts, and the bounds of its central interval.

    Raises:
        ValueError: there are no prompts, or the columns differ in length.
    """
    arrays = [np.asarray(c, np.float64) for c in columns]
    if any(a.shape != arrays[0].shape for a in arrays) or not arrays[0].size:
        raise ValueError("bootstrap needs columns of one length, at least one prompt")
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, len(arrays[0]), (BOOTSTRAP_RESAMPLES, len(arrays[0])))
    low, high = np.quantile(statistic(*(a[rows] for a in arrays)), [(1 - level) / 2, (1 + level) / 2])
    return Estimate(float(statistic(*arrays)), float(low), float(high))


def mean(per_prompt: ArrayLike, seed: int = 0) -> Estimate:
    """Estimate the mean over prompts of `per_prompt` (P,)."""
    return bootstrap((per_prompt,), lambda v: v.mean(-1), seed)


def ratio(numerator: ArrayLike, denominator: ArrayLike, seed: int = 0) -> Estimate:
    """Estimate mean(numerator)/mean(denominator), (P,) each; both are resampled together."""
    return bootstrap((numerator, denominator), lambda a, b: a.mean(-1) / b.mean(-1), seed)


def paired_difference(a: ArrayLike, b: ArrayLike, seed: int = 0) -> Estimate:
    """Estimate mean(a − b) over the same prompts, (P,) each."""
    return mean(np.asarray(a, np.float64) - np.asarray(b, np.float64), seed)


class RankTest(NamedTuple):
    """Result of `rank_test`: χ² over rank bins, corrected for draws that share a pool, and the bins themselves.

    A small `p_value` means that the draws are not from the distribution that made the pool.
    """

    chi2: float
    dof: int
    p_value: float
    histogram: Float


def rank_test(
    k_lt: ArrayLike, k_eq: ArrayLike, num_samples: ArrayLike, pool_index: ArrayLike, seed: int = 0, num_bins: int = 10
) -> RankTest:
    """Test whether fresh completions are draws from the distribution that made the pools.

    If so, the tie-randomised ranks u = (k_< + V·(k_= + 1))/(M+1), V ~ U(0,1), are uniform. K draws ranked in the same
    pool of M are dependent: their bin counts are Dirichlet-multinomial with concentration M+1, which inflates the
    variance by (K+M+1)/(M+2); the statistic is divided by that, pooled over prompts. The test detects a wrong
    temperature, template, stop rule or reward. With ties the correction is too large, so there are fewer false alarms
    and less power, never more.

    Args:
        k_lt: number of pool samples below each fresh completion, (B,).
        k_eq: number of pool samples equal to each fresh completion, (B,).
        num_samples: M of the completion's pool, (B,).
        pool_index: index of the completion's pool, (B,).
        seed: seed of V.
        num_bins: number of rank bins.

    Returns:
        The statistic, its degrees of freedom, the p-value, and the share of draws in each bin.

    Raises:
        ValueError: there are no draws.
    """
    k_lt, k_eq, m = (np.asarray(x, np.float64) for x in (k_lt, k_eq, num_samples))
    if not k_lt.size:
        raise ValueError("rank_test needs at least one draw")
    u = (k_lt + np.random.default_rng(seed).random(len(k_lt)) * (k_eq + 1)) / (m + 1)
    observed = np.histogram(u, bins=num_bins, range=(0.0, 1.0))[0].astype(np.float64)
    _, first, draws = np.unique(np.asarray(pool_index), return_index=True, return_counts=True)
    concentration = m[first] + 1
    inflation = np.sum(draws * (draws + concentration) / (1 + concentration)) / np.sum(draws)
    expected = len(u) / num_bins
    chi2 = float(np.sum((observed - expected) ** 2 / expected) / inflation)
    return RankTest(chi2, num_bins - 1, chi2_sf(chi2, num_bins - 1), observed / len(u))


def interpolate(x: ArrayLike, y: ArrayLike, at: ArrayLike) -> Float:
    """Interpolate linearly between the points (x, y), given in any order, at the places `at`.

    The result is nan outside the range of x: there is no extrapolation.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    order = np.argsort(x)
    return np.asarray(np.interp(np.asarray(at, np.float64), x[order], y[order], left=np.nan, right=np.nan))
