"""The reward CDF of every prompt, estimated from its pool of M reference samples: the paper's F̂, extended to ties.

A completion y is ranked among m other draws, of which k_< have a lower reward and k_= the same:

    a = k_</(m+1),    b = (k_< + k_= + 1)/(m+1)

A fresh completion has m = M; a completion of the pool has m = M−1, since it is not counted itself. y is one more
exchangeable draw, so E_ref[W_N(a, b)] = 1 exactly, and log W_N is never −inf. This departs from the one-sided
(k_<+1)/(M+1) of arXiv 2407.06057: an interval instead of a number. Where the best completions carry mass, it is 2 to
100 times closer in KL(π̂_bon‖π_bon), the more so the larger M/N; where no completion carries mass, the two agree
(docs/experiments.md).
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float = NDArray[np.float64]
Int = NDArray[np.int64]


class Interval(NamedTuple):
    """F_< and F_≤ of completions, and the mass of one sample, 1/(m+1). float64 arrays of equal shape."""

    cdf_lt: Float
    cdf_le: Float
    sample_mass: Float


class RewardCDF:
    """Reference rewards of pools of different sizes, sorted once; each batch of look-ups is one binary search.

    Args:
        rewards: float64 (ΣM,), the pools one after another.
        num_samples: int (P,), M of each pool; each at least 1.
        tie_keys: optional int64 (ΣM,), which refine equal rewards into the paper's total order ≺ (tie rule "order").
            Without them ties are shared (tie rule "random": broken uniformly among the samples drawn).

    Raises:
        ValueError: lengths disagree, a pool is empty, or a reward is NaN; in a look-up also: there is no such pool.
    """

    def __init__(self, rewards: ArrayLike, num_samples: ArrayLike, tie_keys: ArrayLike | None = None):
        self.rewards = np.ascontiguousarray(rewards, np.float64)
        self.num_samples = np.ascontiguousarray(num_samples, np.int64)
        self.offsets: Int = np.concatenate([[0], np.cumsum(self.num_samples)])
        self._tie_keys = None if tie_keys is None else np.ascontiguousarray(tie_keys, np.int64)
        if self.rewards.shape != (self.offsets[-1],) or np.any(self.num_samples < 1):
            raise ValueError("rewards must hold num_samples ≥ 1 values for each pool, one pool after another")
        if self._tie_keys is not None and self._tie_keys.shape != self.rewards.shape:
            raise ValueError("tie_keys must hold one key for each reward")
        if np.isnan(self.rewards).any():
            raise ValueError("a reward is NaN")
        self._pool_index = np.repeat(np.arange(len(self.num_samples)), self.num_samples)
        keys = np.zeros(len(self.rewards), np.int64) if self._tie_keys is None else self._tie_keys
        order = np.lexsort((keys, self.rewards, self._pool_index))
        self._sorted, self._sorted_keys = self.rewards[order], keys[order]

    def __len__(self) -> int:
        return len(self.num_samples)

    def counts(self, pool_index: ArrayLike, rewards: ArrayLike, tie_keys: ArrayLike | None = None) -> tuple[Int, Int]:
        """Count (k_<, k_=), the samples below and equal to each reward within its pool.

        All arguments are (B,). Tie keys are required if the pool has them.
        """
        index = np.asarray(pool_index, np.int64)
        values = np.asarray(rewards, np.float64)
        if np.any((index < 0) | (index >= len(self))):
            raise ValueError(f"pool_index must lie in [0, {len(self)})")
        if np.isnan(values).any():
            raise ValueError("a reward is NaN")
        if (tie_keys is None) != (self._tie_keys is None):
            raise ValueError("tie_keys must be given exactly when the pool has them")
        first, count = self.offsets[index], self.num_samples[index]
        k_lt = count_below(self._sorted, first, count, values, np.less)
        k_eq = np.zeros_like(k_lt)
        tied = self._sorted[first + np.minimum(k_lt, count - 1)] == values  # a reward that no pool holds has no equals
        if tied.any():
            first, count = first[tied] + k_lt[tied], count[tied] - k_lt[tied]
            k_eq[tied] = equal = count_below(self._sorted, first, count, values[tied], np.less_equal)
            if tie_keys is not None:
                keys = np.asarray(tie_keys, np.int64)[tied]
                below = count_below(self._sorted_keys, first, equal, keys, np.less)
                k_lt[tied] += below
                k_eq[tied] = count_below(self._sorted_keys, first, equal, keys, np.less_equal) - below
        return k_lt, k_eq

    def interval(self, pool_index: ArrayLike, rewards: ArrayLike, tie_keys: ArrayLike | None = None) -> Interval:
        """Compute (F_<, F_≤) of fresh completions, for which m = M. All arguments are (B,)."""
        k_lt, k_eq = self.counts(pool_index, rewards, tie_keys)
        return _interval(k_lt, k_eq + 1, self.num_samples[np.asarray(pool_index, np.int64)] + 1)

    def pool_interval(self) -> Interval:
        """Compute (F_<, F_≤) of the pool's own completions, each ranked among the others: m = M−1. (ΣM,)."""
        k_lt, k_eq = self.counts(self._pool_index, self.rewards, self._tie_keys)
        # k_= counts the completion itself, which is the +1 of the rule; the +1 of m+1 cancels against M−1
        return _interval(k_lt, k_eq, self.num_samples[self._pool_index])


def count_below(ordered: NDArray[Any], first: Int, count: Int, values: NDArray[Any], below: np.ufunc) -> Int:
    """Count the entries of ordered[first : first + count] that are `below` each value, all in one binary search.

    Steps are powers of two; a step that leaves the range looks at the last entry instead, and if that entry is below,
    all are.

    Args:
        ordered: entries, ascending within each range.
        first: int64 (B,), where each range begins.
        count: int64 (B,), lengths of the ranges, ≥ 1.
        values: (B,), one value for each range.
        below: np.less for "smaller than", np.less_equal for "at most".

    Returns:
        The counts, int64 (B,).
    """
    last = first + count - 1
    before = first - 1
    for step in (1 << bit for bit in reversed(range(int(count.max(initial=0)).bit_length()))):
        before += step * below(ordered[np.minimum(before + step, last)], values)
    counted: Int = np.minimum(before - first + 1, count)
    return counted


def _interval(k_lt: Int, width: Int, m_plus_1: Int) -> Interval:
    return Interval(k_lt / m_plus_1, (k_lt + width) / m_plus_1, 1.0 / m_plus_1)
