"""The one way from a completion to its reward: a completion that the pool holds for the prompt has the pool's reward.

A reward that is a network gives one text numbers that differ between calls (core.resolution). Ranked by them, a
completion would stand wholly above or below its own copies. So copies are not scored again, and what is new is equal to
the pool's rewards at the reward's resolution. Under an exact reward (resolution 0) only copies are affected.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from vbon.core.resolution import Levels
from vbon.core.reward_cdf import RewardCDF
from vbon.errors import VbonError
from vbon.models.prompts import decode
from vbon.pool.prompts import Prompt, reward_columns, shorten
from vbon.pool.store import ReferencePool, tie_keys
from vbon.rewards import Reward
from vbon.rewards.pairwise import PairwiseReward
from vbon.rewards.resolution import rescore

ROWS_SCORED_AGAIN = 32

Float = NDArray[np.float64]
Int = NDArray[np.int64]


class KnownRewards:
    """A pool's rewards, settled, and the reward that scores what the pool does not hold.

    Args:
        pool: any pool; one of bare rewards knows no completions.
        reward: scores what the pool does not hold.
        resolution: largest difference between equal rewards (`score_again`), 0 for an exact reward.
    """

    def __init__(self, pool: ReferencePool, reward: Reward, resolution: float = 0.0):
        self._stored, self._reward = pool, reward
        keys = pool.tie_keys if pool.has_completion_ids else self._text_keys
        self._settled = SettledRewards(pool.rewards, pool.num_samples, keys, resolution)
        self.pool = replace(pool, settled=self._settled.rewards)
        """The pool with its rewards settled."""

    @property
    def resolution(self) -> float:
        """Largest difference of two rewards that counts as a tie."""
        return self._settled.resolution

    def cdf(self, tie_rule: str = "random") -> RewardCDF:
        """Make the reward CDF of every prompt from the settled rewards."""
        return self.pool.cdf(tie_rule)

    def score(self, pool_index: Int, texts: Sequence[str], ids: Sequence[Sequence[int]] | None = None) -> Float:
        """Rewards of completions, float64 (B,).

        Args:
            pool_index: int64 (B,), the prompt of each in the pool.
            texts: B texts, as their ids are decoded.
            ids: B token id lists; None where they are unknown. They tell completions apart where the pool has them too.
        """
        if ids is not None and self._stored.has_completion_ids:
            settled, keys = self._settled, tie_keys(ids)
        else:
            settled, keys = self._settled_by_text, tie_keys(texts)
        return settled.score(pool_index, keys, lambda new: self._score_new(pool_index[new], [texts[i] for i in new]))

    def _score_new(self, pool_index: Int, texts: list[str]) -> Float:
        prompts = [self._stored.prompts[index] for index in pool_index]
        return self._reward([prompt.prompt for prompt in prompts], texts, **reward_columns(prompts))

    @cached_property
    def _text_keys(self) -> Int | None:
        texts = self._stored.completions
        return None if texts.values.null_count else tie_keys(texts)

    @cached_property
    def _settled_by_text(self) -> "SettledRewards":
        if not self._stored.has_completion_ids:
            return self._settled
        settled = self._settled
        return SettledRewards(settled.rewards, self._stored.num_samples, self._text_keys, settled.resolution)


class SettledRewards:
    """Rewards of ragged pools in which copies of a completion have one reward, and so have rewards that are equal.

    Args:
        rewards: float64 (ΣM,), the pools one after another. num_samples: int (P,), M of each.
        keys: int64 (ΣM,), `tie_keys` of the completions, None where they are unknown.
        resolution: largest difference between equal rewards.
    """

    def __init__(self, rewards: Float, num_samples: Int, keys: Int | None, resolution: float):
        self.resolution = resolution
        if keys is not None:
            mixed = _with_prompt(keys, np.repeat(np.arange(len(num_samples)), num_samples))
            self._keys, self._rows, copy_of = np.unique(mixed, return_index=True, return_inverse=True)
            rewards = rewards[self._rows[copy_of]]  # of the first copy
        else:
            self._keys, self._rows = np.empty(0, np.uint64), np.empty(0, np.int64)
        self._levels = Levels(rewards, num_samples, resolution)

    @property
    def rewards(self) -> Float:
        """(ΣM,)."""
        return self._levels.rewards

    def score(self, pool_index: Int, keys: Int, score: Callable[[Int], Float]) -> Float:
        """Rewards of completions (B,) with these keys; `score` is asked for those of the places that are new."""
        result = np.empty(len(keys))
        row = self._find(_with_prompt(keys, pool_index))
        result[row >= 0] = self.rewards[row[row >= 0]]
        new = np.flatnonzero(row < 0)
        if len(new):
            result[new] = self._levels.snap(pool_index[new], score(new))
        return result

    def _find(self, keys: NDArray[np.uint64]) -> Int:
        if not len(self._keys):
            return np.full(len(keys), -1)
        place = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return np.where(self._keys[place] == keys, self._rows[place], -1)


def score_again(
    pool: ReferencePool, reward: Reward, texts: Callable[[Int], list[str | None]], *, allowed: bool = False
) -> float:
    """Score a few of the pool's completions again.

    Args:
        pool: the pool as stored.
        reward: what is to rank in it.
        texts: rows (b,) → their texts as the policy's samples are decoded; None where unknown.
        allowed: whether another reward than the pool's was asked for.

    Returns:
        The reward's resolution; 0 where no text is known.

    Raises:
        VbonError: the reward gives a completion another number than the pool has, by more than its resolution.
    """
    if isinstance(reward, PairwiseReward):
        return 0.0  # a share of wins among other samples is another number; the rank test compares the two
    rows = np.unique(np.linspace(0, len(pool.rewards) - 1, ROWS_SCORED_AGAIN).astype(np.int64))
    known = [(int(row), text) for row, text in zip(rows, texts(rows), strict=True) if text is not None]
    if not known:
        return 0.0
    rows = np.array([row for row, _ in known])
    prompts = [pool.prompts[index] for index in pool.prompt_index[rows]]
    columns = reward_columns(prompts)
    again = rescore(reward, [prompt.prompt for prompt in prompts], [text for _, text in known], columns)
    difference = np.abs(again.rewards - pool.rewards[rows])
    worst = int(difference.argmax())
    if difference[worst] > again.resolution and not allowed:
        raise VbonError(_mismatch(pool, reward, prompts[worst], float(pool.rewards[rows[worst]]), again.rewards[worst]))
    return again.resolution


def texts_of(
    pool: ReferencePool, prompt_ids: Sequence[list[int]], tokenizer: PreTrainedTokenizerBase
) -> Callable[[Int], list[str | None]]:
    """Rows → texts: what their ids add to their prompts' where the pool knows ids, else the text that it holds."""

    def texts(rows: Int) -> list[str | None]:
        if not pool.has_completion_ids:
            return [pool.completions[row] for row in rows]
        prompts = [prompt_ids[index] for index in pool.prompt_index[rows]]
        return list(decode(tokenizer, prompts, [pool.completion_ids[row] for row in rows]))

    return texts


def _mismatch(pool: ReferencePool, reward: Reward, prompt: Prompt, then: float, now: float) -> str:
    return (
        f"reward mismatch: {reward.name} gives a completion of prompt {shorten(prompt.prompt)} {now:.9g}, but "
        f"{pool.path} has {then:.9g} for it. Another reward scored the pool, or the same one on another text; a "
        "function whose numbers depend on what is in its batch must declare `function.batch_noise = True`. Collect "
        "the pool again, or accept it with --allow-mismatch reward"
    )


def _with_prompt(keys: Int, pool_index: Int) -> NDArray[np.uint64]:
    """64-bit keys that tell the same completion of two prompts apart."""
    odd = np.uint64(0x9E3779B97F4A7C15)
    return keys.astype(np.uint64) ^ ((pool_index.astype(np.uint64) + np.uint64(1)) * odd)
