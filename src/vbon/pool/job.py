"""The work of `vbon collect` for one shard: draw, score and combine."""

import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from vbon.pool.manifest import Manifest
from vbon.pool.prompt_ids import with_token_ids
from vbon.pool.prompts import Prompt, reward_columns
from vbon.pool.sampled import Engine, Samples
from vbon.pool.shards import PromptSamples
from vbon.rewards import Reward

TRIED_PROMPTS = 2
TRIED_SAMPLES = 2


class Part(NamedTuple):
    """The prompts of a shard and their token ids."""

    prompts: Sequence[Prompt]
    prompt_ids: Sequence[list[int]]


def part_of(whole: Part, manifest: Manifest, index: int) -> Part:
    """Select the prompts of shard `index` by the plan with which the pool was started."""
    assert manifest.plan is not None
    size = manifest.plan.prompts_per_shard
    rows = slice(index * size, (index + 1) * size)
    return Part(whole.prompts[rows], whole.prompt_ids[rows])


def make_shard(
    part: Part, engine: Engine, reward: Reward, manifest: Manifest, advance: Callable[[int], None] = lambda rows: None
) -> list[PromptSamples]:
    """Draw and score M completions of each prompt.

    Args:
        part: the prompts of the shard.
        engine: the sampler.
        reward: the reward.
        manifest: the pool's manifest, for plan, seed and M.
        advance: is called with the number of rows after each batch.

    Returns:
        The scored samples of each prompt, in the order of `part`.

    Raises:
        VbonError: the engine or the reward failed.
    """
    plan, seed, num_samples = manifest.plan, manifest.seed, manifest.num_samples
    assert plan is not None and seed is not None and num_samples is not None
    draws: dict[int, Samples] = {}
    for batch, drawn in engine.draw(part.prompts, part.prompt_ids, plan, seed, num_samples):
        draws |= zip(batch, drawn, strict=True)
        advance(len(batch) * num_samples)
    ordered = [draws[index] for index in range(len(part.prompts))]
    rewards = score(reward, part.prompts, [one.completions for one in ordered])
    prompts = with_token_ids(part.prompts, part.prompt_ids)
    return [
        PromptSamples(prompt, one.completions, one.completion_ids, np.array(values), one.ref_logprobs, one.finished)
        for prompt, one, values in zip(prompts, ordered, rewards, strict=True)
    ]


def try_reward(engine: Engine, reward: Reward, whole: Part, manifest: Manifest) -> None:
    """Score a few samples, so that a reward that cannot be used is known before the long work.

    Args:
        engine: it draws the samples.
        reward: it scores them.
        whole: all prompts of the job; the first few are used.
        manifest: plan and seed of the job.

    Raises:
        VbonError: the engine or the reward failed.
    """
    plan, seed = manifest.plan, manifest.seed
    assert plan is not None and seed is not None
    few = Part(whole.prompts[:TRIED_PROMPTS], whole.prompt_ids[:TRIED_PROMPTS])
    with warnings.catch_warnings(action="ignore"):  # the draws of the pool are enough samples to warn of an engine
        batches = list(engine.draw(few.prompts, few.prompt_ids, plan, seed, TRIED_SAMPLES))
    for batch, drawn in batches:
        score(reward, [few.prompts[index] for index in batch], [one.completions for one in drawn])


def score(reward: Reward, prompts: Sequence[Prompt], completions: Sequence[Sequence[str]]) -> list[list[float]]:
    """Score the completions of each prompt, in one call of the reward."""
    repeated = [prompt for prompt, texts in zip(prompts, completions, strict=True) for _ in texts]
    flat = [text for texts in completions for text in texts]
    rewards = iter(reward([prompt.prompt for prompt in repeated], flat, **reward_columns(repeated)).tolist())
    return [[next(rewards) for _ in texts] for texts in completions]
