"""What every policy of an evaluation shares: prompts, pool, reference, how it is sampled, rewards, N."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedModel

from vbon.core import seeds
from vbon.core.rank_combination import RankCombination
from vbon.core.rank_tilts import RankTilt, log_weight, parse
from vbon.core.reward_cdf import RewardCDF
from vbon.core.tail_cdf import Tail, TailCDF, with_tail
from vbon.evaluation.divergence import sequence_logprobs
from vbon.models import load
from vbon.pool.combined_rewards import CombinedRewards
from vbon.pool.known_rewards import KnownRewards
from vbon.pool.pairwise_ranks import PairwiseRanks
from vbon.pool.predict import sample_weights
from vbon.pool.ref_logprobs import checked_ref_logprobs
from vbon.pool.sampling import Sampler
from vbon.pool.store import ReferencePool
from vbon.rewards import Reward

Float = NDArray[np.float64]
Int = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class EvalTask:
    """P prompts of a held-out pool, and K completions of each policy for each of them."""

    known: KnownRewards | CombinedRewards | PairwiseRanks
    """A held-out pool, and what it has scored."""
    prompt_ids: list[list[int]]
    """Token ids of each prompt, by the reference's tokenizer."""
    sampler: Sampler
    """The reference model and how it, and every policy, is sampled."""
    reward: Reward
    judges: tuple[Reward, ...]
    n: float
    samples_per_prompt: int
    batch_size: int
    seed: int
    tilt: str = "best"
    """The tilt that policies are compared with, as `vbon train --tilt` spells it; `n` is its strength."""

    tail: Tail = "counts"
    """How the largest rewards are ranked (`core.tail_cdf`)."""

    @property
    def target(self) -> RankTilt:
        """The target of the comparison: best-of-N unless `tilt` says otherwise."""
        return parse(self.tilt, self.n)

    @property
    def pool(self) -> ReferencePool:
        """The pool with its rewards settled."""
        return self.known.pool

    @cached_property
    def cdf(self) -> RewardCDF | TailCDF | RankCombination | PairwiseRanks:
        return with_tail(self.known.cdf(), self.tail)

    @cached_property
    def pool_log_weight(self) -> Float:
        """log Ŵ of the pool's own samples, leave-one-out, (ΣM,)."""
        interval = self.cdf.pool_interval()
        return log_weight(interval.cdf_lt, interval.cdf_le, self.target)

    @cached_property
    def bon_cdf(self) -> list[Float]:
        """P(best-of-N is one of the k lowest of the pool's samples), k = 0 … M; (M+1,) of each prompt."""
        ordered = (np.sort(rewards) for rewards in self.pool.per_prompt(self.pool.rewards))
        return [np.concatenate([[0.0], np.cumsum(sample_weights(rewards, self.target))]) for rewards in ordered]

    @cached_property
    def draw_seed(self) -> int:
        """One for all policies, so that they share their random numbers, and never the pool's own."""
        return int(seeds.generator(self.seed, seeds.EVALUATION).integers(2**62))

    @cached_property
    def ref_logprobs(self) -> Float | None:
        """log π_ref of the pool's samples, (ΣM,), as stored or computed anew; None where the pool has no token ids."""
        if not self.pool.has_completion_ids:
            return None
        ids = self.pool.completion_ids
        return checked_ref_logprobs(
            self.pool.ref_logprobs,
            lambda rows: np.array([len(ids[row]) for row in rows]),
            lambda rows: self.pool_logprobs(self.sampler.model, rows),
            self.pool.path,
        )

    def pool_logprobs(self, model: PreTrainedModel, rows: Int | None = None) -> Float:
        """log π(y) of samples of the pool, all of them by default, (ΣM,)."""
        ids = list(self.pool.completion_ids) if rows is None else [self.pool.completion_ids[row] for row in rows]
        index = self.pool.prompt_index if rows is None else self.pool.prompt_index[rows]
        return sequence_logprobs(
            model,
            [self.prompt_ids[prompt] for prompt in index],
            ids,
            temperature=self.sampler.temperature,
            pad_token_id=load.pad_token_id(self.sampler.tokenizer, self.sampler.model),
        )
