"""The task: the pool's prompts, and how completions are drawn, scored and ranked; checks before training starts."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from vbon.config.train import TrainConfig
from vbon.core import seeds, stats
from vbon.core.objectives import OBJECTIVES, BoundObjective
from vbon.core.refined_cdf import RefinedCDF
from vbon.core.reward_cdf import Interval, RewardCDF
from vbon.errors import VbonError
from vbon.models import load
from vbon.models.generate import Sampling, generate
from vbon.models.prompts import decode, encode
from vbon.pool.prompts import Prompt, reward_columns
from vbon.pool.store import ReferencePool, tie_keys
from vbon.rewards import Reward

RANK_TEST_DRAWS = 512
RANK_TEST = "rank_test"  # its name among the mismatches that may be allowed


@dataclass(frozen=True)
class Task:
    """Prompts with a pool, and everything needed to turn a prompt into ranked completions."""

    pool: ReferencePool
    cdf: RewardCDF | RefinedCDF
    tie_rule: str
    prompt_ids: list[list[int]]
    tokenizer: PreTrainedTokenizerBase
    reward: Reward
    sampling: Sampling

    @property
    def prompts(self) -> list[Prompt]:
        """The pool's prompts, in its order."""
        return self.pool.prompts

    def __len__(self) -> int:
        return len(self.prompt_ids)

    def score(
        self, prompt_index: NDArray[np.int64], completion_ids: list[list[int]]
    ) -> tuple[NDArray[np.float64], Interval]:
        """Compute rewards, float64 (B,), and ranks, (B,), of fresh completions; int64 (B,) prompts, B id lists."""
        rewards = self.rewards(prompt_index, completion_ids)
        return rewards, self.cdf.interval(prompt_index, rewards, self.keys(completion_ids))

    def rewards(self, prompt_index: NDArray[np.int64], completion_ids: list[list[int]]) -> NDArray[np.float64]:
        """Compute rewards of completions, decoded as in the pool; float64 (B,)."""
        prompts = [self.prompts[i] for i in prompt_index]
        texts = decode(self.tokenizer, completion_ids)
        return self.reward([p.prompt for p in prompts], texts, **reward_columns(prompts))

    def keys(self, completion_ids: Sequence[Sequence[int]]) -> NDArray[np.int64] | None:
        """Compute tie keys of completions under tie rule `order`, else None."""
        return tie_keys(completion_ids) if self.tie_rule == "order" else None


def objective_of(config: TrainConfig) -> BoundObjective:
    """The configured objective with its N and β bound."""
    objective = OBJECTIVES[config.objective]
    return lambda rewards, interval: objective(rewards, interval, config.n, config.kl_coef)


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
    given = config.stop_token_ids or known.stop or ()
    stop = given or load.stop_token_ids(policy, tokenizer)
    load.stop_token_ids(policy, tokenizer, given)  # for what it refuses
    return Sampling(temperature, length, tuple(stop), load.pad_token_id(tokenizer))


def make_task(
    pool: ReferencePool,
    tokenizer: PreTrainedTokenizerBase,
    reward: Reward,
    sampling: Sampling,
    tie_rule: str,
    policy: PreTrainedModel,
) -> Task:
    """Encode the prompts of a pool and check them against the model's context.

    Args:
        pool: the scored samples of the reference.
        tokenizer: encodes prompts and decodes completions.
        reward: the reward that scored the pool.
        sampling: how completions are drawn.
        tie_rule: `random` or `order`.
        policy: knows the length of the context.

    Returns:
        The task.

    Raises:
        VbonError: a prompt with the completion's tokens exceeds the context.
    """
    prompt_ids = encode(tokenizer, [prompt.prompt for prompt in pool.prompts])
    context = load.context_length(policy)
    for prompt, ids in zip(pool.prompts, prompt_ids, strict=True):
        if context is not None and len(ids) + sampling.max_new_tokens > context:
            raise VbonError(
                f"{pool.path}: prompt {prompt.prompt_id} has {len(ids)} tokens; with {sampling.max_new_tokens} new "
                f"ones it exceeds the model's context of {context}"
            )
    return Task(pool, pool.cdf(tie_rule), tie_rule, prompt_ids, tokenizer, reward, sampling)


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
    completions = generate(
        policy,
        [task.prompt_ids[i] for i in index],
        seeds.uniforms(
            (num_prompts, per_prompt, task.sampling.max_new_tokens), seed, seeds.RANK_TEST, seeds.COMPLETIONS
        ),
        temperature=task.sampling.temperature,
        stop_token_ids=task.sampling.stop_token_ids,
        pad_token_id=task.sampling.pad_token_id,
    )
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
