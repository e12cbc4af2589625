"""N close to M and past it: the upper tail of F̂ refined with the policy's own samples, weighted by π_ref/π_θ.

A pool of M says nothing of 1 − F below 1/M. The policy samples there, and each of its samples y stands for
π_ref(y)/π_θ(y) of the reference: 1 − F_≤(R) = E_{π_θ}[π_ref/π_θ · 1{r > R}]. Pool and policy samples together are one
sample of the mixture (M·π_ref + K·π_θ)/(M+K), each weighted by π_ref over it (the balance heuristic of multiple
importance sampling, Veach and Guibas): weights are at most (M+K)/M, so that a sample off the policy's support is safe.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vbon.core.reward_cdf import Interval

Float = NDArray[np.float64]
Int = NDArray[np.int64]


def balance_weights(log_ratio: Float, num_ref: int, num_policy: int) -> Float:
    """π_ref over the mixture, (M+K)/(M + K·π_θ/π_ref), from log π_θ/π_ref of samples of either."""
    return np.asarray((num_ref + num_policy) / (num_ref + num_policy * np.exp(np.minimum(log_ratio, 700.0))))


def weighted_interval(rewards: Float, weights: Float, at: Float) -> tuple[Float, Float]:
    """(F̂_<, F̂_≤) at `at` from weighted reference draws; equal weights give RewardCDF's rule.

    Upper tails are summed from the top, so that a small 1 − F keeps its relative precision.
    """
    order = np.argsort(rewards)
    ordered, mass = rewards[order], weights[order] / weights.sum()
    from_top = np.concatenate([np.cumsum(mass[::-1])[::-1], [0.0]])
    above = from_top[np.searchsorted(ordered, at, "right")]
    not_below = from_top[np.searchsorted(ordered, at, "left")]
    own = 1.0 / len(rewards)
    # y itself is one more draw; in the tail, where draws weigh little, it weighs what they do
    near = np.minimum(own, np.interp(at, ordered, mass))
    total = 1.0 + near
    return np.clip(1 - (not_below + near) / total, 0, 1), np.clip(1 - above / total, 0, 1)


@dataclass
class RefinedCDF:
    """Ranks of one prompt's completions, from its pool and the policy samples added so far; stands in for RewardCDF.

    `memory` policy samples are kept, the latest; each keeps the ratio π_θ/π_ref of the policy that drew it.
    """

    pool_rewards: Float
    pool_log_ratio: Float
    """log π_θ/π_ref of the pool's completions under the latest policy, to be refreshed by `refresh`."""
    memory: int = 4096
    policy_rewards: Float = field(default_factory=lambda: np.empty(0))
    policy_log_ratio: Float = field(default_factory=lambda: np.empty(0))

    @property
    def num_samples(self) -> Int:
        return np.array([len(self.pool_rewards)])

    def add(self, rewards: ArrayLike, log_ratio: ArrayLike) -> None:
        """Fresh policy samples and their log π_θ/π_ref."""
        self.policy_rewards = np.concatenate([self.policy_rewards, rewards])[-self.memory :]
        self.policy_log_ratio = np.concatenate([self.policy_log_ratio, log_ratio])[-self.memory :]

    def refresh(self, pool_log_ratio: Float) -> None:
        """What the latest policy says of the pool's completions."""
        self.pool_log_ratio = pool_log_ratio

    def interval(self, pool_index: ArrayLike, rewards: ArrayLike, tie_keys: ArrayLike | None = None) -> Interval:
        """(F_<, F_≤) of fresh completions, (B,); one prompt, ties shared."""
        every = np.concatenate([self.pool_rewards, self.policy_rewards])
        ratio = np.concatenate([self.pool_log_ratio, self.policy_log_ratio])
        weights = balance_weights(ratio, len(self.pool_rewards), len(self.policy_rewards))
        lower, upper = weighted_interval(every, weights, np.asarray(rewards, np.float64))
        return Interval(lower, upper, upper - lower)
