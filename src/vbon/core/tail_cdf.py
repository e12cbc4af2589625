"""Ranks for N near M and above it from the pool alone: an exponential tail above the pool's largest rewards.

A pool of M samples cannot resolve 1 − F below 1/(M + 1). Above the k-th largest of its rewards, k ≈ √M, the excess over
the threshold is taken to be exponential with the mean σ̂ of the k excesses that the pool holds:

    F̂(r) = 1 − (k + ½)/(M + 1) · exp(−(r − r_(M−k))/σ̂)

Departs from Variational Best-of-N (arXiv 2407.06057), which uses counts alone, and from the rank rule: only affine maps
of the reward leave the ranks unchanged, and E_ref[Ŵ] is near 1, not exactly 1. For normal and t₄ rewards
KL(π̂_bon‖π_bon) falls by more than half where N is several times M; for bounded rewards it rises a little
(tests/core/test_tail_cdf.py). A reward that other samples of the pool share keeps the rule of `RewardCDF`: where
rewards tie there is no tail to extrapolate.
"""

from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vbon.core import rank_tilts, seeds
from vbon.core.rank_tilts import Target, as_tilt
from vbon.core.reward_cdf import Interval, RewardCDF

Float = NDArray[np.float64]
Int = NDArray[np.int64]
Tail = Literal["counts", "exponential"]
"""How the largest rewards are ranked: by counts alone, or with an exponential tail."""
_POOLS, _DRAWS = 400, 100


def tail_size(num_samples: ArrayLike) -> Int:
    """Return k, the number of a pool's largest rewards that fit the tail: √M, rounded, but less than M. int64."""
    m = np.asarray(num_samples, np.int64)
    return np.asarray(np.minimum(np.round(np.sqrt(m)), m - 1), np.int64)


def tail_cdf(largest: Float, at: Float, num_samples: int) -> Float:
    """F̂ at rewards above the threshold.

    Args:
        largest: the k + 1 largest rewards of a pool, ascending, (k + 1,); the first is the threshold.
        at: rewards above the threshold, (B,).
        num_samples: M of the pool.

    Returns:
        float64 (B,), below 1, so that no tilt's log-weight is −∞; NaN where all k + 1 rewards are equal.
    """
    threshold, k = largest[0], len(largest) - 1
    mean_excess = np.mean(largest[1:] - threshold) or np.nan
    above = (k + 0.5) / (num_samples + 1) * np.exp(-(at - threshold) / mean_excess)
    return np.asarray(1 - np.maximum(above, np.finfo(np.float64).epsneg))


class TailCDF:
    """Ranks of completions as `RewardCDF` gives them, but for untied rewards in the pool's upper tail.

    Args:
        pools: the reference's samples, without tie keys.
    """

    def __init__(self, pools: RewardCDF):
        self.pools, self.num_samples = pools, pools.num_samples
        ordered = np.lexsort((pools.rewards, np.repeat(np.arange(len(pools)), pools.num_samples)))
        self._sorted: Float = pools.rewards[ordered]
        self._order: Int = ordered

    def __len__(self) -> int:
        return len(self.pools)

    def counts(self, pool_index: ArrayLike, rewards: ArrayLike, tie_keys: ArrayLike | None = None) -> tuple[Int, Int]:
        """Count (k_<, k_=), the samples below and equal to each reward within its pool; int64 (B,) each."""
        return self.pools.counts(pool_index, rewards, tie_keys)

    def interval(self, pool_index: ArrayLike, rewards: ArrayLike, tie_keys: ArrayLike | None = None) -> Interval:
        """Compute (F_<, F_≤) of fresh completions. All arguments are (B,)."""
        index, values = np.asarray(pool_index, np.int64), np.asarray(rewards, np.float64)
        found = self.pools.interval(index, values, tie_keys)
        untied = self.pools.counts(index, values, tie_keys)[1] == 0
        point = np.full(len(values), np.nan)
        for pool in np.unique(index[untied]):
            mine, ranked = (index == pool) & untied, self._ranked(int(pool))
            k = int(tail_size(len(ranked)))
            chosen = mine & (values > ranked[-k - 1])
            if k:
                point[chosen] = tail_cdf(ranked[-k - 1 :], values[chosen], len(ranked))
        return _with_points(found, point)

    def pool_interval(self) -> Interval:
        """Compute (F_<, F_≤) of the pools' own completions, each ranked among the others of its pool. (ΣM,)."""
        point = np.full(len(self._sorted), np.nan)
        for pool, first in enumerate(self.pools.offsets[:-1]):
            ranked = self._ranked(pool)
            k = int(tail_size(len(ranked) - 1)) if len(ranked) > 1 else 0
            for place in range(len(ranked) - k - 1, len(ranked)) if k else ():
                others = np.delete(ranked, place)
                if ranked[place] not in others and ranked[place] > others[-k - 1]:
                    row = self._order[first + place]
                    point[row] = tail_cdf(others[-k - 1 :], ranked[place : place + 1], len(others))[0]
        return _with_points(self.pools.pool_interval(), point)

    def _ranked(self, pool: int) -> Float:
        return self._sorted[self.pools.offsets[pool] : self.pools.offsets[pool + 1]]


def with_tail(cdf: Any, tail: Tail) -> Any:
    """The CDF, or with `tail` "exponential" the `TailCDF` of it, which must then be a `RewardCDF` without tie keys."""
    return TailCDF(cdf) if tail == "exponential" else cdf


def tail_mean(rewards: ArrayLike, n: int) -> float:
    """Estimate the mean reward of best-of-N from the M rewards of one prompt, also for an N above M.

    The lowest M − k samples share the mass below the threshold evenly. The part above it has a closed form,

        E[(max − r_(M−k))⁺] = σ̂·Σ_{i=1..N} (1 − (1 − p)^i)/i,    p = (k + ½)/(M + 1)

    Args:
        rewards: (M,), any order; NaN is returned where there is no tail: M < 3, or ties among the k + 1 largest.
        n: N, a whole number.
    """
    ordered = np.sort(np.asarray(rewards, np.float64))
    k = int(tail_size(len(ordered)))
    body, excess = ordered[: len(ordered) - k], np.diff(ordered[len(ordered) - k - 1 :])
    if not k or not excess.all():
        return float("nan")
    p = (k + 0.5) / (len(ordered) + 1)
    mass = np.diff(((1 - p) * np.arange(len(body) + 1) / len(body)) ** n, append=1.0)
    steps = np.arange(1, n + 1)
    mean_excess = np.mean(ordered[-k:] - body[-1])
    return float(mass @ np.append(body, body[-1]) + mean_excess * np.sum((1 - (1 - p) ** steps) / steps))


def kl_floor(num_samples: int, target: Target, tail: Tail = "counts") -> float:
    """Compute what the plug-in estimate of KL(π_θ‖π) reads at π_θ = π itself, where the true KL is 0; nats.

    With the tail, which depends on the rewards, it is simulated for rewards that are exponential; since Ŵ does not
    have mean 1 then, it can be a little below 0.

    Args:
        num_samples: M of the pool.
        target: N of best-of-N, or another tilt.
        tail: how the largest rewards are ranked.
    """
    if tail == "counts":
        return rank_tilts.kl_floor(num_samples, target)
    tilt, rng = as_tilt(target), seeds.generator(0)
    pools = RewardCDF(rng.exponential(size=num_samples * _POOLS), np.full(_POOLS, num_samples))
    edges = 1 - np.geomspace(1, 1e-12, 8001)
    u = (edges[1:] + edges[:-1]) / 2
    mass = np.diff(edges) * np.exp(rank_tilts.log_weight(u, u, tilt))
    u = rng.choice(u, _POOLS * _DRAWS, p=mass / mass.sum())
    found = TailCDF(pools).interval(np.repeat(np.arange(_POOLS), _DRAWS), -np.log1p(-u))
    gap = rank_tilts.log_weight(u, u, tilt) - rank_tilts.log_weight(found.cdf_lt, found.cdf_le, tilt)
    return float(gap.mean())


def _with_points(interval: Interval, point: Float) -> Interval:
    """The interval, replaced by a point where there is one (not NaN): a continuous reward has no atom there."""
    lower, upper = (np.where(np.isnan(point), edge, point) for edge in (interval.cdf_lt, interval.cdf_le))
    return Interval(lower, upper, interval.sample_mass)
