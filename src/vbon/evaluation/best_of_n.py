"""Best-of-N itself: draw N from the reference, keep one with the highest reward, ties broken uniformly at random."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vbon.core import seeds
from vbon.models.prompts import completion_texts
from vbon.pool.prompts import Prompt, reward_columns
from vbon.pool.sampling import Draws, Sampler, draw_shard, make_plan
from vbon.rewards import Reward


class Best(NamedTuple):
    """Completions of one prompt, each the best of its N draws; rewards is None where nothing was scored."""

    completion_ids: list[list[int]]
    completions: list[str]
    finished: list[bool]
    rewards: list[float] | None


def choose(rewards: ArrayLike, uniforms: ArrayLike) -> NDArray[np.int64]:
    """Index of the highest reward of each row, one of the tied at random: rewards (G, N), uniforms (G,) in [0, 1)."""
    rewards = np.asarray(rewards, np.float64)
    is_best = rewards == rewards.max(1, keepdims=True)
    chosen = np.floor(np.asarray(uniforms) * is_best.sum(1)).astype(np.int64)
    return np.asarray(np.argmax(np.cumsum(is_best, 1) > chosen[:, None], 1))


def sample_best_of_n(
    sampler: Sampler,
    reward: Reward | None,
    prompts: Sequence[Prompt],
    prompt_ids: Sequence[list[int]],
    *,
    n: int,
    num_samples: int = 1,
    batch_size: int = 256,
    seed: int = 0,
    advance: Callable[[int], None] = lambda _: None,
) -> Iterator[tuple[Prompt, Best]]:
    """Yield each prompt with `num_samples` completions, each the best of n draws of its own; n = 1 is plain sampling.

    A prompt's draws are a function of seed and prompt, and its first completions do not depend on `num_samples`.
    `reward` may be None only where n = 1. `advance` hears the number of prompts done.
    """
    plan = make_plan(n * num_samples, batch_size)
    for first in range(0, len(prompts), plan.prompts_per_shard):
        part = slice(first, first + plan.prompts_per_shard)
        draws: dict[int, Draws] = {}
        for batch, drawn in draw_shard(sampler, prompts[part], prompt_ids[part], plan, seed, n * num_samples):
            draws |= zip(batch, drawn, strict=True)
            advance(len(batch))
        for index, prompt in enumerate(prompts[part]):
            texts = completion_texts(sampler.tokenizer, prompt_ids[first + index], draws[index].completion_ids)
            yield prompt, _best(draws[index], texts, reward, prompt, n, seed)


def _best(draws: Draws, texts: list[str], reward: Reward | None, prompt: Prompt, n: int, seed: int) -> Best:
    if reward is None:
        return Best(draws.completion_ids, texts, draws.finished, None)
    rewards = reward([prompt.prompt] * len(texts), texts, **reward_columns([prompt] * len(texts)))
    groups = rewards.reshape(-1, n)
    uniforms = seeds.generator(seed, int(prompt.prompt_id, 16), 1).random(len(groups))
    rows = (np.arange(len(groups)) * n + choose(groups, uniforms)).tolist()
    return Best(
        [draws.completion_ids[row] for row in rows],
        [texts[row] for row in rows],
        [draws.finished[row] for row in rows],
        rewards[rows].tolist(),
    )
