"""Several pools over the same samples, each scored by its own reward: their ranks combined (core.rank_combination)."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from vbon.artifacts.fingerprint import FIELDS, Fingerprint, check_fingerprint
from vbon.config import EvaluateConfig, TrainConfig
from vbon.core.rank_combination import Combination, RankCombination
from vbon.errors import VbonError
from vbon.pool.known_rewards import KnownRewards, score_again, texts_of
from vbon.pool.pairwise_ranks import PairwiseRanks
from vbon.pool.prompt_ids import prompt_ids_of
from vbon.pool.prompts import shorten
from vbon.pool.store import ReferencePool, tie_keys
from vbon.rewards import Reward, load_configured_reward
from vbon.rewards.pairwise import PairwiseReward

Float = NDArray[np.float64]
Int = NDArray[np.int64]


class Criterion(NamedTuple):
    """One of several rewards, the pool that it scored, and its resolution (`known_rewards.score_again`)."""

    pool: ReferencePool
    reward: Reward
    resolution: float = 0.0


class CombinedRewards:
    """In the place of `KnownRewards`: R rewards of a completion, and their combined rank among its pool.

    Args:
        parts: what is known of each reward; their pools hold the same samples in the same order.
        how: how the ranks are combined.
    """

    resolution = 0.0

    def __init__(self, parts: Sequence[KnownRewards], how: Combination):
        self._parts = parts
        rewards = np.stack([part.pool.rewards for part in parts], 1)
        self._ranks = RankCombination(rewards, parts[0].pool.num_samples, how)
        self.pool = replace(parts[0].pool, settled=self._ranks.rewards)
        """The first pool, with combined ranks in place of its rewards."""

    def cdf(self, tie_rule: str = "random") -> RankCombination:
        """Return the combined ranks; ties are shared (tie rule `random`)."""
        assert tie_rule == "random"  # the configs see to it
        return self._ranks

    def score(self, pool_index: Int, texts: Sequence[str], ids: Sequence[Sequence[int]] | None = None) -> Float:
        """Compute every reward of completions, float64 (B, R); the arguments are those of `KnownRewards.score`."""
        return np.stack([part.score(pool_index, texts, ids) for part in self._parts], 1)


def settle(criteria: Sequence[Criterion], how: Combination) -> KnownRewards | CombinedRewards | PairwiseRanks:
    """Settle the rewards of one pool, or of several that are combined. The prompts are those of the first pool."""
    paired = [one.reward for one in criteria if isinstance(one.reward, PairwiseReward)]
    if paired and len(criteria) > 1:
        raise VbonError(f"{paired[0].name}: a pairwise reward cannot be combined: it ranks among k opponents, not all")
    if paired:
        return PairwiseRanks(criteria[0].pool, paired[0])
    names = [prompt.prompt_id for prompt in criteria[0].pool.prompts]
    pools = [criteria[0].pool, *(one.pool.select(names) for one in criteria[1:])]
    parts = [KnownRewards(pool, one.reward, one.resolution) for pool, one in zip(pools, criteria, strict=True)]
    return parts[0] if len(parts) == 1 else CombinedRewards(parts, how)


def tried(
    criteria: Sequence[Criterion], tokenizer: PreTrainedTokenizerBase, config: TrainConfig | EvaluateConfig
) -> list[Criterion]:
    """Score a few samples of each pool again, and set the resolution of each reward.

    Raises:
        VbonError: a reward is not the one that scored its pool, or the pools do not hold the same samples.
    """
    for other in criteria[1:]:
        check_samples_match(criteria[0].pool, other.pool)
    ids = [prompt_ids_of(tokenizer, one.pool.prompts, str(one.pool.path)) for one in criteria]
    allowed = "reward" in config.allow_mismatch
    return [
        one._replace(resolution=score_again(one.pool, one.reward, texts_of(one.pool, own, tokenizer), allowed=allowed))
        for one, own in zip(criteria, ids, strict=True)
    ]


def check_samples_match(pool: ReferencePool, other: ReferencePool) -> None:
    """Raise VbonError, naming a prompt, unless `other` holds the same completions of the pool's prompts, in order."""
    own = other.select([prompt.prompt_id for prompt in pool.prompts])
    where = f"{other.path}: does not hold the samples of {pool.path}"
    fix = "rewards are combined on the same samples; make the pool with `vbon rescore`"
    if pool.has_completion_ids != own.has_completion_ids or None in (pool.completions[0], own.completions[0]):
        raise VbonError(f"{where}, or one of them does not know its completions; {fix}")
    counts = pool.num_samples != own.num_samples
    if not counts.any():
        columns = [one.completion_ids if one.has_completion_ids else one.completions for one in (pool, own)]
        moved = tie_keys(columns[0]) != tie_keys(columns[1])
        counts = np.array([part.any() for part in pool.per_prompt(moved)])
    if counts.any():
        raise VbonError(f"{where} for prompt {shorten(pool.prompts[int(counts.argmax())].prompt)}; {fix}")


def load_criteria(
    config: TrainConfig | EvaluateConfig, device: str, open_pool: Callable[[str], ReferencePool]
) -> list[Criterion]:
    """Load the pools and rewards of --combine-with.

    Raises:
        VbonError: a pool or reward cannot be used, or the reward is not the one that scored the pool.
    """
    criteria = []
    for number, path in enumerate(config.combine_with):
        pool = open_pool(path)
        spec = config.combine_rewards[number] if config.combine_rewards else pool.manifest.reward
        if spec is None:
            raise VbonError(f"{pool.path}: does not say which reward scored it; name it with --combine-reward")
        reward = load_configured_reward(spec, config, device)
        now = Fingerprint(reward=reward.fingerprint)
        check_fingerprint(pool.fingerprint, now, allow_mismatch=fields_of(config), what=f"--combine-with {path}")
        criteria.append(Criterion(pool, reward))
    return criteria


def fields_of(config: TrainConfig | EvaluateConfig) -> list[str]:
    """The fields of a fingerprint among the mismatches that may be allowed."""
    return [field for field in config.allow_mismatch if field in FIELDS]
