"""Several rewards combined by rank: the combined order of a completion and its M pool samples.

Each reward ranks the M + 1 completions, ties by their mid-rank, and the ranks are combined: by their mean, by the worst
of them, or lexicographically, where a later reward only decides between completions that the earlier ones tie. The
combined order then takes the place of one reward's: k_< and k_= of the fresh completion, and

    a = k_</(M+1),    b = (k_< + k_= + 1)/(M+1)

as in `core.reward_cdf`. The fresh completion shifts the ranks of the samples above it, so the order of the samples
depends on it. All M + 1 are treated alike, so that E_ref[W_N(a, b)] = 1 exactly, ties included; a fixed order of the
pool's samples into which the completion is placed would not keep that. Only ranks enter: no reward has a scale, and
none a weight. Not in the paper (arXiv 2407.06057), which has one reward.
"""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vbon.core.reward_cdf import Interval, RewardCDF

Float = NDArray[np.float64]
Int = NDArray[np.int64]
Combination = Literal["mean", "worst", "lexicographic"]
_CELLS = 1 << 22  # ranks held at a time


class RankCombination:
    """Pools whose samples have R rewards each; look-ups as in `RewardCDF`, with R rewards per completion.

    Args:
        rewards: float64 (ΣM, R), the pools one after another.
        num_samples: int (P,), M of each pool.
        how: `mean`, `worst` or `lexicographic`.

    Raises:
        ValueError: as `RewardCDF`, or there is no such combination.
    """

    def __init__(self, rewards: ArrayLike, num_samples: ArrayLike, how: Combination):
        if how not in COMBINE:
            raise ValueError(f"how must be one of {', '.join(COMBINE)}, got {how!r}")
        self._columns = [RewardCDF(column, num_samples) for column in np.asarray(rewards, np.float64).T]
        self._combine = COMBINE[how]
        self.num_samples, self.offsets = self._columns[0].num_samples, self._columns[0].offsets
        pools = range(len(self.num_samples))
        self._ranks = np.concatenate([self._ranks_of(pool) for pool in pools])
        """Twice the mid-rank of each sample among its M, an integer; int64 (ΣM, R)."""
        levels = [self._combine(self._ranks[self._own(pool)]) for pool in pools]
        self._among = RewardCDF(np.concatenate(levels), self.num_samples)

    def __len__(self) -> int:
        return len(self.num_samples)

    @property
    def rewards(self) -> Float:
        """Compute the combined rank of each sample as a number, `middle` of its interval; float64 (ΣM,)."""
        return middle(self.pool_interval())

    def counts(self, pool_index: ArrayLike, rewards: ArrayLike, tie_keys: ArrayLike | None = None) -> tuple[Int, Int]:
        """Count (k_<, k_=), the samples below and equal to each completion in the combined order.

        `pool_index` is (B,), `rewards` is (B, R).

        Raises:
            ValueError: tie keys are given, which a combined order does not use.
        """
        if tie_keys is not None:
            raise ValueError("combined rewards share their ties: tie_keys cannot be used")
        index, values = np.asarray(pool_index, np.int64), np.asarray(rewards, np.float64)
        below, equal = np.empty(len(index), np.int64), np.empty(len(index), np.int64)
        own = [cdf.counts(index, column) for cdf, column in zip(self._columns, values.T, strict=True)]
        fresh = np.stack([2 * k_lt + k_eq for k_lt, k_eq in own], 1)
        for pool in np.unique(index):
            chosen = np.flatnonzero(index == pool)
            most = max(1, _CELLS // int(self.num_samples[pool] * values.shape[1]))
            for rows in np.split(chosen, range(most, len(chosen), most)):
                below[rows], equal[rows] = self._compare(int(pool), values[rows], fresh[rows])
        return below, equal

    def interval(self, pool_index: ArrayLike, rewards: ArrayLike, tie_keys: ArrayLike | None = None) -> Interval:
        """Compute (F_<, F_≤) of fresh completions, for which m = M. `pool_index` is (B,), `rewards` is (B, R)."""
        k_lt, k_eq = self.counts(pool_index, rewards, tie_keys)
        m_plus_1 = self.num_samples[np.asarray(pool_index, np.int64)] + 1
        return Interval(k_lt / m_plus_1, (k_lt + k_eq + 1) / m_plus_1, 1.0 / m_plus_1)

    def pool_interval(self) -> Interval:
        """Compute (F_<, F_≤) of the pool's own completions, each ranked among the others: m = M−1. (ΣM,)."""
        return self._among.pool_interval()

    def _compare(self, pool: int, values: Float, fresh: Int) -> tuple[Int, Int]:
        """Count the samples of one pool below and equal to completions with rewards (B, R) and ranks (B, R)."""
        stored = np.stack([cdf.rewards[self._own(pool)] for cdf in self._columns], 1)
        shift = 1 + np.sign(stored[None] - values[:, None]).astype(np.int64)  # 2 above the completion, 1 on its level
        everyone = np.concatenate([self._ranks[self._own(pool)][None] + shift, fresh[:, None]], 1)
        level = self._combine(everyone)
        samples, own = level[:, :-1], level[:, -1:]
        return (samples < own).sum(1), (samples == own).sum(1)

    def _ranks_of(self, pool: int) -> Int:
        counts = [cdf.counts([pool] * self.num_samples[pool], cdf.rewards[self._own(pool)]) for cdf in self._columns]
        return np.stack([2 * k_lt + k_eq - 1 for k_lt, k_eq in counts], 1)

    def _own(self, pool: int) -> slice:
        return slice(int(self.offsets[pool]), int(self.offsets[pool + 1]))


def middle(interval: Interval) -> Float:
    """Compute (F_< + F_≤)/2, the combined rank as one number: its mean under π_ref is 1/2."""
    return np.asarray((interval.cdf_lt + interval.cdf_le) / 2)


def mean_rank(ranks: Int) -> Int:
    """Sum the ranks over the rewards, the last axis: integers, so that equal means are equal."""
    return np.asarray(ranks.sum(-1))


def worst_rank(ranks: Int) -> Int:
    """Take the lowest of the ranks over the rewards, the last axis."""
    return np.asarray(ranks.min(-1))


def lexicographic_level(ranks: Int) -> Int:
    """Number the rows of ranks (…, K, R) in lexicographic order, equal rows alike; int64 (…, K)."""
    order = np.lexsort(np.moveaxis(ranks, -1, 0)[::-1], axis=-1)
    ordered = np.take_along_axis(ranks, order[..., None], -2)
    differs = (ordered[..., 1:, :] != ordered[..., :-1, :]).any(-1)
    level = np.concatenate([np.zeros_like(order[..., :1]), np.cumsum(differs, -1)], -1)
    result = np.empty_like(level)
    np.put_along_axis(result, order, level, -1)
    return result


COMBINE = {"mean": mean_rank, "worst": worst_rank, "lexicographic": lexicographic_level}
"""Twice the mid-ranks of K completions, int64 (…, K, R) → their levels in the combined order, int64 (…, K)."""
