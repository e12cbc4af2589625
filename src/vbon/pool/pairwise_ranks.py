"""Ranks of fresh completions under a pairwise judge: each meets k samples of its prompt's pool (core.pairwise)."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vbon.core.pairwise import win_interval
from vbon.core.reward_cdf import Interval, RewardCDF
from vbon.errors import VbonError
from vbon.pool.prompts import reward_columns
from vbon.pool.store import ReferencePool
from vbon.rewards.pairwise import PairwiseReward, chosen

Float = NDArray[np.float64]
Int = NDArray[np.int64]


class PairwiseRanks:
    """In the places of `KnownRewards` and of `RewardCDF`: (wins, ties) of completions, and the ranks that they mean.

    Args:
        pool: its rewards are shares of wins among its own samples; they rank those.
        reward: compares.

    Raises:
        VbonError: the pool does not know its completions.
    """

    resolution = 0.0

    def __init__(self, pool: ReferencePool, reward: PairwiseReward):
        if pool.completions.values.null_count:
            raise VbonError(
                f"{pool.path}: a pairwise reward compares with the pool's completions, which it does not know"
            )
        self.pool, self._reward = pool, reward
        self.num_samples = np.minimum(pool.num_samples, reward.num_opponents)
        """k of each prompt."""
        self._texts = [pool.completions[pool.rows_of(prompt)] for prompt in range(len(pool))]

    def __len__(self) -> int:
        return len(self.num_samples)

    def cdf(self, tie_rule: str = "random") -> "PairwiseRanks":
        """Return itself; ties are no preference (tie rule `random`)."""
        assert tie_rule == "random"  # the configs see to it
        return self

    def score(self, pool_index: Int, texts: Sequence[str], ids: Sequence[Sequence[int]] | None = None) -> Float:
        """Compare completions with k samples of their pools, which their text chooses; (wins, ties), (B, 2)."""
        opponents = [
            [self._texts[pool][i] for i in chosen(len(self._texts[pool]), int(self.num_samples[pool]), text)]
            for pool, text in zip(pool_index, texts, strict=True)
        ]
        prompts = [self.pool.prompts[pool] for pool in pool_index]
        columns = reward_columns(prompts)
        won, tied, _ = self._reward.compare([one.prompt for one in prompts], texts, opponents, columns)
        return np.stack([won, tied], 1).astype(np.float64)

    def counts(self, pool_index: ArrayLike, rewards: ArrayLike, tie_keys: ArrayLike | None = None) -> tuple[Int, Int]:
        """Count (k_<, k_=) among the k opponents. `rewards` are the (wins, ties) of `score`, (B, 2)."""
        won, tied = np.asarray(rewards, np.int64).T
        return won, tied

    def interval(self, pool_index: ArrayLike, rewards: ArrayLike, tie_keys: ArrayLike | None = None) -> Interval:
        """Compute (F_<, F_≤) of fresh completions, for which m = k. `rewards` is (B, 2)."""
        return win_interval(*self.counts(pool_index, rewards), self.num_samples[np.asarray(pool_index, np.int64)])

    def pool_interval(self) -> Interval:
        """Compute (F_<, F_≤) of the pool's own completions from their shares of wins, (ΣM,)."""
        return RewardCDF(self.pool.rewards, self.pool.num_samples).pool_interval()


def share_of_cycles(pool: ReferencePool, reward: PairwiseReward) -> tuple[int, int]:
    """Count (cycles, triples) among the samples of each prompt that a judge has compared, over all prompts."""
    counts = [
        reward.cycles(
            prompt.prompt,
            pool.completions[pool.rows_of(index)],
            {name: values[0] for name, values in reward_columns([prompt]).items()},
        )
        for index, prompt in enumerate(pool.prompts)
    ]
    return sum(cycles for cycles, _ in counts), sum(triples for _, triples in counts)
