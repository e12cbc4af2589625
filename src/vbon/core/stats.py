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


FEW_PROMPTS = 30
"""Below it an interval is a t-interval: a bootstrap of 2 prompts covers the truth one time in two."""
_T_QUANTILES = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131),
    *(2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048),
)  # 97.5 % quantiles of Student's t for 1, 2, … degrees of freedom


def bootstrap(columns: tuple[ArrayLike, ...], statistic: Callable[..., Float], seed: int = 0) -> Estimate:
    """Estimate a statistic with its 95 % interval over prompts: percentile bootstrap, or a t-interval of few prompts.

    The t-interval takes its standard error from the delete-one jackknife; of the mean, it is the usual one.

    Args:
        columns: arrays with a value per prompt, (P,) each.
        statistic: function of the columns, (..., P) each, to (...).
        seed: seed of the resamples.

    Returns:
        The statistic of all prompts, and the bounds of its central interval.

    Raises:
        ValueError: there are no prompts, or the columns differ in length.
    """
    arrays = [np.asarray(c, np.float64) for c in columns]
    if any(a.shape != arrays[0].shape for a in arrays) or not arrays[0].size:
        raise ValueError("bootstrap needs columns of one length, at least one prompt")
    value, count = float(statistic(*arrays)), len(arrays[0])
    if count < FEW_PROMPTS:
        half = _t_half_width(arrays, statistic) if count > 1 else 0.0
        return Estimate(value, value - half, value + half)
    rows = np.random.default_rng(seed).integers(0, count, (BOOTSTRAP_RESAMPLES, count))
    low, high = np.quantile(statistic(*(a[rows] for a in arrays)), [0.025, 0.975])
    return Estimate(value, float(low), float(high))


def _t_half_width(arrays: list[Float], statistic: Callable[..., Float]) -> float:
    count = len(arrays[0])
    others = np.stack([np.delete(np.arange(count), row) for row in range(count)])
    left_out = statistic(*(a[others] for a in arrays))
    return float(_T_QUANTILES[count - 2] * np.sqrt((count - 1) * np.var(left_out)))


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
