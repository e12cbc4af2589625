"""Ranks for N near M and above it: the policy's own samples, weighted by π_ref/π_θ, refine the upper tail of F̂.

A pool of M samples cannot resolve 1 − F below 1/M. The policy samples there, and each of its samples y stands for
π_ref(y)/π_θ(y) reference samples: 1 − F_≤(R) = E_{π_θ}[π_ref/π_θ · 1{r > R}]. Pool and policy samples together are a
sample of the mixture (M·π_ref + K·π_θ)/(M+K), each weighted by π_ref over the mixture (the balance heuristic of
multiple importance sampling, Veach and Guibas 1995). Weights are at most (M+K)/M, so a sample outside the policy's
support does no harm. Not in the paper (arXiv 2407.06057); docs/experiments.md measures the gain.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vbon.core.reward_cdf import Interval, RewardCDF

Float = NDArray[np.float64]
Int = NDArray[np.int64]
_MOST_LOG_RATIO = 700.0  # exp of more is no float64


def balance_weights(log_ratio: Float, num_ref: int, num_policy: int) -> Float:
    """Compute π_ref over the mixture, (M+K)/(M + K·π_θ/π_ref), for samples of the reference or of the policy.

    `log_ratio` is log π_θ/π_ref of the samples in nats, any shape; `num_ref` is M and `num_policy` is K.
    """
    ratio = np.exp(np.minimum(log_ratio, _MOST_LOG_RATIO))
    return np.asarray((num_ref + num_policy) / (num_ref + num_policy * ratio))


def weighted_interval(rewards: Float, weights: Float, at: Float, resolution: float = 0.0) -> tuple[Float, Float]:
    """Compute (F̂_<, F̂_≤) at the rewards `at` from weighted reference draws.

    Equal weights give the rule of `RewardCDF`. Rewards no further apart than `resolution` are equal.

    Upper tails are summed from the top, so that a small 1 − F keeps its relative precision.

    Args:
        rewards: float64 (K,), of the draws.
        weights: float64 (K,), of the draws; their sum need not be 1.
        at: float64 (B,), rewards of other completions.
        resolution: largest difference of two rewards that counts as a tie.

    Returns:
        F̂_< and F̂_≤, float64 (B,) each.
    """
    order = np.argsort(rewards)
    ordered, mass = rewards[order], weights[order] / weights.sum()
    from_top = np.concatenate([np.cumsum(mass[::-1])[::-1], [0.0]])
    above = from_top[np.searchsorted(ordered, at + resolution, "right")]
    not_below = from_top[np.searchsorted(ordered, at - resolution, "left")]
    own = 1.0 / len(rewards)
    # y itself is one more draw; in the tail, where draws weigh little, it weighs what they do
    near = np.minimum(own, np.interp(at, ordered, mass))
    total = 1.0 + near
    return np.clip(1 - (not_below + near) / total, 0, 1), np.clip(1 - above / total, 0, 1)


class RefinedCDF:
    """Ranks of fresh completions among a pool and the policy's samples for the same prompt, in place of `RewardCDF`.

    A policy sample keeps the ratio π_θ/π_ref of the policy that drew it; the pool's ratios are those of the last
    `refresh`.

    Args:
        pools: the reference's samples, without tie keys: samples of equal reward share their rank.
        size: the number of policy samples that are kept over all prompts; the latest are.
        resolution: the largest difference between equal rewards (core.resolution).
    """

    def __init__(self, pools: RewardCDF, size: int, resolution: float = 0.0):
        self.pools, self.num_samples, self.resolution = pools, pools.num_samples, resolution
        self.state: Mapping[str, NDArray[Any]] = MappingProxyType(
            {
                "pool_log_ratio": np.zeros(len(pools.rewards)),
                "index": np.full(size, -1),
                "rewards": np.zeros(size),
                "log_ratio": np.zeros(size),
            }
        )
        """All that changes, as arrays that are written in place and never replaced: a checkpoint saves and fills them.

        pool_log_ratio (ΣM,): log π_θ/π_ref of the pools' completions. index, rewards and log_ratio (size,): of each
        policy sample its pool, −1 where there is no sample yet, its reward, and log π_θ/π_ref of the policy that drew
        it.
        """

    def __len__(self) -> int:
        return len(self.pools)

    def counts(self, pool_index: ArrayLike, rewards: ArrayLike, tie_keys: ArrayLike | None = None) -> tuple[Int, Int]:
        """Count (k_<, k_=), the samples below and equal to each reward within its pool alone; int64 (B,) each."""
        return self.pools.counts(pool_index, rewards, tie_keys)

    def pool_interval(self) -> Interval:
        """Compute (F_<, F_≤) of the pools' own completions from the pools alone, (ΣM,) each."""
        return self.pools.pool_interval()

    def refresh(self, pool: int, log_ratio: ArrayLike) -> None:
        """Store log π_θ/π_ref of one pool's completions under the latest policy, (M,)."""
        self.state["pool_log_ratio"][self._own(pool)] = log_ratio

    def add(self, pool_index: ArrayLike, rewards: ArrayLike, log_ratio: ArrayLike) -> None:
        """Add fresh policy samples with log π_θ/π_ref of each, all (B,); as many of the oldest samples are dropped."""
        for name, rows in {"index": pool_index, "rewards": rewards, "log_ratio": log_ratio}.items():
            kept = self.state[name]
            kept[:] = np.concatenate([kept, np.asarray(rows)])[-len(kept) :]

    def interval(self, pool_index: ArrayLike, rewards: ArrayLike, tie_keys: ArrayLike | None = None) -> Interval:
        """Compute (F_<, F_≤) of fresh completions. All arguments are (B,).

        Raises:
            ValueError: tie keys are given, which weighted samples cannot use.
        """
        if tie_keys is not None:
            raise ValueError("weighted samples share their ties: tie_keys cannot be used")
        index, values = np.asarray(pool_index, np.int64), np.asarray(rewards, np.float64)
        lower, upper = np.empty(len(values)), np.empty(len(values))
        for pool in np.unique(index):
            chosen = index == pool
            lower[chosen], upper[chosen] = weighted_interval(*self._draws(int(pool)), values[chosen], self.resolution)
        return Interval(lower, upper, upper - lower)

    def _draws(self, pool: int) -> tuple[Float, Float]:
        """Collect rewards and weights of a pool's completions and of the policy's samples for its prompt."""
        state, own = self.state, self._own(pool)
        policy = state["index"] == pool
        log_ratio = np.concatenate([state["pool_log_ratio"][own], state["log_ratio"][policy]])
        weights = balance_weights(log_ratio, int(self.num_samples[pool]), int(policy.sum()))
        return np.concatenate([self.pools.rewards[own], state["rewards"][policy]]), weights

    def _own(self, pool: int) -> slice:
        return slice(int(self.pools.offsets[pool]), int(self.pools.offsets[pool + 1]))
