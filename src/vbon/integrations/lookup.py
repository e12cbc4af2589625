"""From a reward to the sequence reward ρ: against a pool, or reference rewards that are stored with the prompt."""

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
from vbon.pool.known_rewards import KnownRewards, SettledRewards, score_again
from vbon.pool.prompts import Messages, Prompt, canonical_json, reward_columns
from vbon.pool.store import ReferencePool, tie_keys
from vbon.rewards import Reward, load_reward
from vbon.rewards.resolution import rescore

Float = NDArray[np.float64]
Int = NDArray[np.int64]
Find = Callable[[str | None, str | Messages | None], Prompt]


class Scores(NamedTuple):
    """Of each completion: its reward r, its sequence reward ρ, and the share of the pool it beats (ties half)."""

    rewards: Float
    sequence_rewards: Float
    win_rates: Float


class Reference(NamedTuple):
    """A prompt as it is handed to a host: what the reward reads, and its M reference rewards if they are included.

    `keys`: `tie_keys` of the completions that have these rewards, by which a copy is known. int64 (M,).
    """

    prompt: Prompt
    rewards: Float | None
    keys: Int | None = None


def sequence_rewards(rewards: ArrayLike, ref_rewards: Sequence[ArrayLike], n: float) -> Float:
    """ρ = log Ŵ_N/(N−1) of fresh completions, each against the reference rewards of its own prompt. float64 (B,).

    ρ lies in [−log(M+1), log N/(N−1)]. Raises ValueError for an empty or NaN list.
    """
    return _scores(np.asarray(rewards, np.float64), _ridden_interval(rewards, ref_rewards), n).sequence_rewards


@dataclass(frozen=True)
class SequenceReward:
    """A base reward and N, as the reward of a host: scores completions and ranks them among reference samples.

    `pool` is asked for the references that a row does not hold, by prompt_id or by the prompt itself.
    Raises VbonError where the pool was scored by another reward, or lacks a prompt.
    """

    reward: Reward
    n: float
    pool: ReferencePool | None = field(default=None, repr=False)
    _measured: list[float] = field(default_factory=list, init=False, repr=False)
    """The reward's resolution, once it was measured."""

    def __post_init__(self) -> None:
        _check_n(self.n)
        if self.pool is not None:
            mine = Fingerprint(reward=self.reward.fingerprint)
            check_fingerprint(self.pool.fingerprint, mine, what=f"reward {self.reward.name}")

    def __call__(self, references: Sequence[Reference], completions: Sequence[str]) -> Scores:
        """Scores of the completions, float64 (B,) each; `references` holds the prompt of each."""
        ridden = [reference for reference in references if reference.rewards is not None]
        if ridden and len(ridden) < len(references):
            raise VbonError("some prompts came with ref_rewards and some without; give them to all or to none")
        if ridden:
            return self._among_ridden(ridden, list(completions))
        assert self.pool is not None  # or find() had refused
        index = np.array([self.pool.index_of(reference.prompt.prompt_id) for reference in references], np.int64)
        rewards = self._known.score(index, list(completions))
        return _scores(rewards, self._cdf.interval(index, rewards), self.n)

    def find(self, prompt_id: str | None, prompt: str | Messages | None) -> Prompt:
        """The pool's prompt with this id or, without an id, with this text. Raises VbonError where there is none."""
        if self.pool is None:
            raise VbonError("a prompt came without ref_rewards, and no pool is given to look them up in; give pool=DIR")
        if prompt_id is not None:
            return self.pool.prompts[self.pool.index_of(prompt_id)]
        found = self._by_text.get(canonical_json(prompt), [])
        if len(found) != 1:
            what = "no samples of" if not found else f"{len(found)} entries, distinguished by their columns, for"
            raise VbonError(f"{self.pool.path}: has {what} prompt {canonical_json(prompt):.80}; pass its prompt_id")
        return found[0]

    def _among_ridden(self, references: Sequence[Reference], completions: list[str]) -> Scores:
        prompts = [reference.prompt for reference in references]

        def score(new: Int) -> Float:
            chosen = [prompts[i] for i in new]
            texts = [completions[i] for i in new]
            return self.reward([prompt.prompt for prompt in chosen], texts, **reward_columns(chosen))

        if not self._measured:  # what the row holds does not say how exact the reward is
            texts = [prompt.prompt for prompt in prompts]
            self._measured.append(rescore(self.reward, texts, completions, reward_columns(prompts)).resolution)
        pools = [np.asarray(reference.rewards, np.float64) for reference in references]
        counts = np.array([len(pool) for pool in pools], np.int64)
        known = [reference.keys for reference in references if reference.keys is not None]
        keys = np.concatenate(known) if len(known) == len(references) else None
        settled = SettledRewards(np.concatenate(pools), counts, keys, self._measured[0])
        rewards = settled.score(np.arange(len(pools)), tie_keys(completions), score)
        return _scores(rewards, RewardCDF(settled.rewards, counts).interval(np.arange(len(pools)), rewards), self.n)

    @cached_property
    def _known(self) -> KnownRewards:
        assert self.pool is not None
        texts = self.pool.completions
        resolution = score_again(self.pool, self.reward, lambda rows: [texts[row] for row in rows])
        return KnownRewards(self.pool, self.reward, resolution)

    @cached_property
    def _cdf(self) -> RewardCDF:
        return self._known.pool.cdf()

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
            "columns": {**dict.fromkeys(prompt.absent), **prompt.columns},
            **reference_columns(pool, index),
        }
    )


def reference_columns(pool: ReferencePool, index: int) -> dict[str, Any]:
    """`ref_rewards` of prompt `index`, and `ref_keys` of its completions where the pool holds them."""
    rows = slice(int(pool.offsets[index]), int(pool.offsets[index + 1]))
    texts = pool.completions[rows]
    keys = {} if None in texts else {"ref_keys": tie_keys(texts).tolist()}
    return {"ref_rewards": pool.rewards[rows].tolist(), **keys}


def read_reference(payload: str | Mapping[str, Any], find: Find, where: str) -> Reference:
    """The Reference in what `encode_reference` wrote, or in a mapping with prompt_id and, possibly, ref_rewards.

    `find(prompt_id, prompt)` is asked for what the row does not hold. Raises VbonError beginning with `where`.
    """
    row = parse_json(payload, where) if isinstance(payload, str) else payload
    if not isinstance(row, Mapping):
        raise VbonError(f"{where}: must hold a JSON object with prompt_id and ref_rewards")
    rewards = row.get("ref_rewards")
    if rewards is None:
        return Reference(find(row.get("prompt_id"), row.get("prompt")), None)
    prompt = Prompt(row.get("prompt_id") or "", row.get("prompt", ""), row.get("columns") or {})
    return Reference(prompt, checked_rewards(rewards, where), checked_keys(row.get("ref_keys"), len(rewards), where))


def checked_keys(values: Any, count: int, where: str) -> Int | None:
    """Keys of the completions that reference rewards belong to, int64 (M,), None where the row holds none.

    Raises VbonError beginning with `where` unless they are `count` whole numbers of 64 bits.
    """
    if values is None:
        return None
    try:
        keys = np.asarray(values)
        if keys.shape != (count,) or keys.dtype.kind not in "iu":
            raise ValueError
        return keys.astype(np.int64)
    except (TypeError, ValueError, OverflowError):
        raise VbonError(f"{where}: ref_keys must be {count} whole numbers, one for each of ref_rewards") from None


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
