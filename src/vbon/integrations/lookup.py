"""From a reward to the sequence reward ρ: against a pool, or against reference rewards that ride with the prompt."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vbon.artifacts.fingerprint import Fingerprint, check_fingerprint
from vbon.artifacts.json_files import parse_json
from vbon.core import objectives
from vbon.core.best_of_n import kl_coef_from_n
from vbon.core.reward_cdf import Interval, RewardCDF
from vbon.errors import VbonError
from vbon.pool.prompts import Messages, Prompt, canonical_json, reward_columns
from vbon.pool.store import ReferencePool
from vbon.rewards import Reward, load_reward

Float = NDArray[np.float64]
Find = Callable[[str | None, str | Messages | None], Prompt]


class Scores(NamedTuple):
    """Of each completion: its reward r, its sequence reward ρ, and the share of the pool it beats (ties half)."""

    rewards: Float
    sequence_rewards: Float
    win_rates: Float


class Reference(NamedTuple):
    """A prompt as it rides to a host: what the reward reads, and its M reference rewards if they ride along."""

    prompt: Prompt
    rewards: Float | None


def sequence_rewards(rewards: ArrayLike, ref_rewards: Sequence[ArrayLike], n: float) -> Float:
    """ρ = log Ŵ_N/(N−1) of fresh completions, each against the reference rewards of its own prompt. float64 (B,).

    ρ lies in [−log(M+1), log N/(N−1)]. Raises ValueError for an empty or NaN list.
    """
    return _scores(np.asarray(rewards, np.float64), _ridden_interval(rewards, ref_rewards), n).sequence_rewards


@dataclass(frozen=True)
class SequenceReward:
    """A base reward and N, as the reward of a host: scores completions and ranks them among reference samples.

    `pool` is asked for the references that do not ride along, by prompt_id or by the prompt itself.
    Raises VbonError where the pool was scored by another reward, or lacks a prompt.
    """

    reward: Reward
    n: float
    pool: ReferencePool | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        _check_n(self.n)
        if self.pool is not None:
            mine = Fingerprint(reward=self.reward.fingerprint)
            check_fingerprint(self.pool.fingerprint, mine, what=f"reward {self.reward.name}")

    def __call__(self, references: Sequence[Reference], completions: Sequence[str]) -> Scores:
        """Scores of the completions, float64 (B,) each; `references` holds the prompt of each."""
        prompts = [reference.prompt for reference in references]
        texts = [prompt.prompt for prompt in prompts]
        rewards = self.reward(texts, list(completions), **reward_columns(prompts))
        return _scores(rewards, self._interval(rewards, references), self.n)

    def find(self, prompt_id: str | None, prompt: str | Messages | None) -> Prompt:
        """The pool's prompt with this id or, without an id, with this text. Raises VbonError where there is none."""
        if self.pool is None:
            raise VbonError("a prompt came without ref_rewards, and no pool is given to look them up in; give pool=DIR")
        if prompt_id is not None:
            return self.pool.prompts[self.pool.index_of(prompt_id)]
        found = self._by_text.get(canonical_json(prompt), [])
        if len(found) != 1:
            what = "no samples of" if not found else f"{len(found)} entries, told apart by their columns, for"
            raise VbonError(f"{self.pool.path}: has {what} prompt {canonical_json(prompt):.80}; pass its prompt_id")
        return found[0]

    def _interval(self, rewards: Float, references: Sequence[Reference]) -> Interval:
        ridden = [reference.rewards for reference in references if reference.rewards is not None]
        if len(ridden) == len(references):
            return _ridden_interval(rewards, ridden)
        if ridden:
            raise VbonError("some prompts came with ref_rewards and some without; give them to all or to none")
        assert self.pool is not None  # or find() had refused
        index = [self.pool.index_of(reference.prompt.prompt_id) for reference in references]
        return self._cdf.interval(index, rewards)

    @cached_property
    def _cdf(self) -> RewardCDF:
        assert self.pool is not None
        return self.pool.cdf()

    @cached_property
    def _by_text(self) -> dict[str, list[Prompt]]:
        index: dict[str, list[Prompt]] = {}
        for prompt in self.pool.prompts if self.pool is not None else ():
            index.setdefault(canonical_json(prompt.prompt), []).append(prompt)
        return index


def load_sequence_reward(
    reward: str | Reward, n: float, pool: str | ReferencePool | None = None, **options: Any
) -> SequenceReward:
    """A SequenceReward from specifications; `options` go to `load_reward` (device, batch_size, timeout, …)."""
    _check_n(n)
    loaded = load_reward(reward, **options) if isinstance(reward, str) else reward
    return SequenceReward(loaded, n, ReferencePool.open(pool) if isinstance(pool, str) else pool)


def encode_reference(pool: ReferencePool, index: int) -> str:
    """Prompt `index` of a pool with its reference rewards as JSON, for a host's data column. Floats are exact."""
    prompt = pool.prompts[index]
    return canonical_json(
        {
            "prompt_id": prompt.prompt_id,
            "prompt": prompt.prompt,
            "columns": prompt.columns,
            "ref_rewards": pool.rewards[pool.rows_of(index)].tolist(),
        }
    )


def read_reference(payload: str | Mapping[str, Any], find: Find, where: str) -> Reference:
    """The Reference in what `encode_reference` wrote, or in a mapping with prompt_id and, possibly, ref_rewards.

    `find(prompt_id, prompt)` is asked for what did not ride along. Raises VbonError beginning with `where`.
    """
    row = parse_json(payload, where) if isinstance(payload, str) else payload
    if not isinstance(row, Mapping):
        raise VbonError(f"{where}: must hold a JSON object with prompt_id and ref_rewards")
    rewards = row.get("ref_rewards")
    if rewards is None:
        return Reference(find(row.get("prompt_id"), row.get("prompt")), None)
    prompt = Prompt(row.get("prompt_id") or "", row.get("prompt", ""), row.get("columns") or {})
    return Reference(prompt, checked_rewards(rewards, where))


def checked_rewards(values: Any, where: str) -> Float:
    """Reference rewards as float64 (M,). Raises VbonError beginning with `where` unless M ≥ 1 finite numbers."""
    try:
        rewards = np.asarray(values, np.float64)
    except (TypeError, ValueError):
        raise VbonError(f"{where}: ref_rewards must be a list of numbers") from None
    if rewards.ndim != 1 or not len(rewards) or not np.isfinite(rewards).all():
        raise VbonError(f"{where}: ref_rewards must be a list of at least one finite number")
    return rewards


def _ridden_interval(rewards: ArrayLike, ref_rewards: Sequence[ArrayLike]) -> Interval:
    pools = [np.asarray(values, np.float64) for values in ref_rewards]
    flat = np.concatenate([np.empty(0), *pools])
    return RewardCDF(flat, [len(values) for values in pools]).interval(np.arange(len(pools)), rewards)


def _scores(rewards: Float, interval: Interval, n: float) -> Scores:
    signal = objectives.vbon(rewards, interval, n)
    return Scores(rewards, signal.sequence_reward, _win_rates(interval))


def _win_rates(interval: Interval) -> Float:
    """(k_< + k_=/2)/M: the interval's own +1 taken out again."""
    one = interval.sample_mass
    return (interval.cdf_lt + interval.cdf_le - one) / (2 * (1 - one))


def _check_n(n: float) -> None:
    try:
        kl_coef_from_n(n)
    except ValueError:
        raise VbonError(f"n is {n}, but must be a finite number greater than 1") from None
