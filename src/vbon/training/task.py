"""The task: the pool's prompts, and how completions are drawn, scored and ranked; checks before training starts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from vbon.artifacts.run import Provenance
from vbon.config.train import TrainConfig
from vbon.core import seeds, stats
from vbon.core.objectives import OBJECTIVES, BoundObjective, tilted
from vbon.core.rank_combination import Combination, RankCombination, middle
from vbon.core.rank_tilts import RankTilt, parse
from vbon.core.refined_cdf import RefinedCDF
from vbon.core.reward_cdf import Interval, RewardCDF
from vbon.core.tail_cdf import Tail, TailCDF, with_tail
from vbon.errors import VbonError
from vbon.models import load
from vbon.models.batch import Completions
from vbon.models.generate import NonFiniteLogits, Sampling, generate_in_chunks
from vbon.models.prompts import decode
from vbon.pool.combined_rewards import CombinedRewards, Criterion, settle
from vbon.pool.known_rewards import KnownRewards
from vbon.pool.pairwise_ranks import PairwiseRanks
from vbon.pool.prompts import Prompt, reward_columns, shorten
from vbon.pool.sampling import check_completion_ids, encode_within, room_of_model
from vbon.pool.store import ReferencePool, tie_keys
from vbon.pool.writer import hash_prompt_ids
from vbon.rewards import Reward

RANK_TEST_DRAWS = 512
RANK_TEST = "rank_test"  # its name among the mismatches that may be allowed


@dataclass(frozen=True)
class Task:
    """Prompts with a pool, and everything needed to turn a prompt into ranked completions."""

    pool: ReferencePool
    cdf: RewardCDF | TailCDF | RefinedCDF | RankCombination | PairwiseRanks
    tie_rule: str
    prompt_ids: list[list[int]]
    tokenizer: PreTrainedTokenizerBase
    reward: Reward
    sampling: Sampling
    known: KnownRewards | CombinedRewards | PairwiseRanks | None = None
    """What the pool has scored; None for a pool that is made up, of which no completion is known."""

    @property
    def prompts(self) -> list[Prompt]:
        """The pool's prompts, in its order."""
        return self.pool.prompts

    def __len__(self) -> int:
        return len(self.prompt_ids)

    def draw(
        self, policy: nn.Module, prompt_index: Tensor, uniforms: Tensor, value_head: nn.Module | None = None
    ) -> Completions:
        """Draw K completions of each of these prompts, a function of `uniforms` (`models.generate`).

        Args:
            policy: model to draw from.
            prompt_index: int64 (P,), into `prompts`.
            uniforms: (P, K, T), in [0, 1).
            value_head: if given, its values of the completions' tokens are returned, too.

        Returns:
            P·K completions, prompt by prompt.

        Raises:
            NonFiniteLogits: the policy gives no finite logits for a prompt, which the message names.
        """
        try:
            prompt_ids = [self.prompt_ids[i] for i in prompt_index]
            return generate_in_chunks(policy, prompt_ids, uniforms, self.sampling, value_head)
        except NonFiniteLogits as error:
            where = shorten(self.prompts[int(prompt_index[error.prompt])].prompt)
            raise NonFiniteLogits(error.prompt, error.dtype, where) from None

    def score(
        self, prompt_index: NDArray[np.int64], completion_ids: list[list[int]]
    ) -> tuple[NDArray[np.float64], Interval]:
        """Compute rewards, float64 (B,), and ranks, (B,), of fresh completions; int64 (B,) prompts, B id lists.

        The reward of several that are combined, and of a pairwise judge, is the rank itself.
        """
        rewards = self.rewards(prompt_index, completion_ids)
        interval = self.cdf.interval(prompt_index, rewards, self.keys(completion_ids))
        return (rewards if rewards.ndim == 1 else middle(interval)), interval

    def rewards(self, prompt_index: NDArray[np.int64], completion_ids: list[list[int]]) -> NDArray[np.float64]:
        """Compute rewards of completions: the pool's, where it holds the completion.

        float64 (B,), or (B, R) where several rewards are combined, or (wins, ties), (B, 2).
        """
        texts = decode(self.tokenizer, [self.prompt_ids[i] for i in prompt_index], completion_ids)
        if self.known is not None:
            return self.known.score(prompt_index, texts, completion_ids)
        prompts = [self.prompts[i] for i in prompt_index]
        return self.reward([p.prompt for p in prompts], texts, **reward_columns(prompts))

    def keys(self, completion_ids: Sequence[Sequence[int]]) -> NDArray[np.int64] | None:
        """Compute tie keys of completions under tie rule `order`, else None."""
        return tie_keys(completion_ids) if self.tie_rule == "order" else None


def objective_of(config: TrainConfig) -> BoundObjective:
    """The configured objective with its N and β bound."""
    if config.objective == "vbon":
        target = target_of(config)
        return lambda rewards, interval: tilted(interval, target)
    objective = OBJECTIVES[config.objective]
    return lambda rewards, interval: objective(rewards, interval, config.n, config.kl_coef)


def target_of(config: TrainConfig) -> RankTilt:
    """The configured rank tilt: best-of-N unless --tilt says otherwise."""
    return parse(config.tilt, config.n)


def sources_of(
    pool: ReferencePool, reward: Reward, provenance: Provenance | None, others: Sequence[Criterion] = ()
) -> dict[str, str]:
    """Compute digests of what a run reads: a run that is continued must read the same.

    Args:
        pool: the reference pool.
        reward: the reward that scored it.
        provenance: what the run is made with, for the model's digest; None where it is not known.
        others: further pools of the same samples with their rewards.

    Returns:
        Digests by the name of what they are of.
    """
    made = None if provenance is None else provenance.fingerprint
    sources = {"pool": pool.digest, "prompts": hash_prompt_ids(pool.prompts), "reward": reward.fingerprint}
    for number, other in enumerate(others, 1):
        sources |= {f"pool {number} beside": other.pool.digest, f"reward {number} beside": other.reward.fingerprint}
    return sources if made is None or made.model is None else sources | {"model": made.model}


def split_pool(pool: ReferencePool, config: TrainConfig) -> tuple[ReferencePool, ReferencePool]:
    """Split the pool into training and validation prompts by the hash of their ids.

    A pool too small to split serves as both; validation then differs by its fresh samples only.
    """
    validation, training = pool.split(config.validation_fraction, config.seed)
    return (pool, pool) if not len(validation) or not len(training) else (training, validation)


def sampling_of(
    policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pool: ReferencePool, config: TrainConfig
) -> Sampling:
    """Decide how completions are drawn: by the flags, else as the pool was.

    Args:
        policy: knows tokens that end a completion, and its vocabulary.
        tokenizer: knows further ones, and the token that pads.
        pool: its fingerprint knows how it was sampled.
        config: the configured training.

    Returns:
        The sampling.

    Raises:
        VbonError: neither says the temperature or the length, or a stop token is not in the vocabulary.
    """
    known = pool.fingerprint
    temperature = config.temperature or known.temperature
    length = config.max_new_tokens or known.max_new_tokens
    for flag, value in (("--temperature", temperature), ("--max-new-tokens", length)):
        if value is None:
            raise VbonError(f"{flag} is needed: the pool {pool.path} does not say how it was sampled")
    assert temperature is not None and length is not None
    given = load.stop_token_ids(policy, tokenizer, config.stop_token_ids or known.stop or ())  # refuses foreign ones
    stop = known.stop if known.stop and not config.stop_token_ids else given
    return Sampling(temperature, length, tuple(stop), load.pad_token_id(tokenizer, policy))


def make_task(
    pool: ReferencePool,
    tokenizer: PreTrainedTokenizerBase,
    reward: Reward,
    sampling: Sampling,
    tie_rule: str,
    policy: PreTrainedModel,
    *,
    resolution: float = 0.0,
    others: Sequence[Criterion] = (),
    combine: Combination = "mean",
    tail: Tail = "counts",
) -> Task:
    """Check a pool's prompts against the model, and settle its rewards.

    Args:
        pool: the scored samples of the reference.
        tokenizer: encodes prompts and decodes completions.
        reward: the reward that scored the pool.
        sampling: how completions are drawn.
        tie_rule: `random` or `order`.
        policy: its context and vocabulary are the limits.
        resolution: of the reward (`known_rewards.score_again`).
        others: further rewards of the same samples, whose ranks are combined with the first one's.
        combine: how they are combined.
        tail: how the largest rewards are ranked (`core.tail_cdf`).

    Returns:
        The task.

    Raises:
        VbonError: the model does not take a prompt with a completion.
    """
    prompt_ids = encode_within(tokenizer, room_of_model(policy), sampling.max_new_tokens, pool.prompts, str(pool.path))
    check_completion_ids(pool, room_of_model(policy).vocabulary)
    known = settle([Criterion(pool, reward, resolution), *others], combine)
    return Task(
        pool=known.pool,
        cdf=with_tail(known.cdf(tie_rule), tail),
        tie_rule=tie_rule,
        prompt_ids=prompt_ids,
        tokenizer=tokenizer,
        reward=reward,
        sampling=sampling,
        known=known,
    )


def prompt_slots(num_prompts: int, first: int, count: int, seed: int) -> Tensor:
    """Assign prompts to slots of an endless series of shuffled passes over all prompts.

    Args:
        num_prompts: how many prompts there are.
        first: the first slot.
        count: the number of slots.
        seed: of the shuffles.

    Returns:
        The prompt of each slot first … first+count−1, int64 (count,).
    """
    epochs = range(first // num_prompts, (first + count - 1) // num_prompts + 1)
    order = torch.cat([seeds.permutation(num_prompts, seed, seeds.PROMPT_ORDER, epoch) for epoch in epochs])
    start = first - epochs[0] * num_prompts
    return order[start : start + count]


@torch.no_grad()
def pool_rank_test(policy: nn.Module, task: Task, seed: int, num_draws: int = RANK_TEST_DRAWS) -> stats.RankTest:
    """Rank fresh samples of the trainer's own sampler against the pool (`core.stats.rank_test`).

    Args:
        policy: the reference, as training samples from it.
        task: prompts, sampling, reward and pool.
        seed: of the samples.
        num_draws: the number of samples over all prompts, at most.

    Returns:
        The test's result.
    """
    num_prompts = min(len(task), num_draws)
    per_prompt = max(1, num_draws // num_prompts)
    index = seeds.permutation(len(task), seed, seeds.RANK_TEST)[:num_prompts]
    shape = (num_prompts, per_prompt, task.sampling.max_new_tokens)
    try:
        completions = task.draw(policy, index, seeds.uniforms(shape, seed, seeds.RANK_TEST, seeds.COMPLETIONS))
    except NonFiniteLogits as error:
        raise VbonError(str(error)) from None
    repeated = index.repeat_interleave(per_prompt).numpy()
    rows = completions.rows()
    k_lt, k_eq = task.cdf.counts(repeated, task.rewards(repeated, rows), task.keys(rows))
    return stats.rank_test(k_lt, k_eq, task.cdf.num_samples[repeated], repeated, seed)


def check_rank_test(result: stats.RankTest, pool: ReferencePool, *, allowed: bool) -> bool:
    """Return True if fresh samples fit the pool.

    Raises VbonError with the p-value and the usual causes where they do not and this is not `allowed`.
    """
    if result.p_value >= stats.RANK_TEST_P_VALUE or allowed:
        return result.p_value >= stats.RANK_TEST_P_VALUE
    raise VbonError(
        f"{pool.path}: fresh samples of the model do not rank like this pool's (p = {result.p_value:.1e}); its model, "
        "temperature, length, stop rule, chat template or reward was another one. Collect the pool again, or accept "
        f"it with --allow-mismatch {RANK_TEST}"
    )
