"""The target, best-of-N of the reference, predicted per prompt from the pool; and what the estimates read there."""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from vbon.core import best_of_n
from vbon.evaluation.metrics import share_worse
from vbon.evaluation.setting import Setting
from vbon.pool.predict import predict, sample_weights
from vbon.pool.prompts import reward_columns
from vbon.rewards import Reward

Float = NDArray[np.float64]


def target_metrics(setting: Setting) -> dict[str, Float]:
    """Best-of-N per prompt, under the keys of a policy: `kl_policy_ref` is KL(π_bon‖π_ref).

    Lengths, ends and judges' rewards are there where the pool has what they need.
    """
    predictions = np.array([predict(rewards, setting.n) for rewards in setting.pool.per_prompt(setting.pool.rewards)])
    keys = ("reward", "win_rate", "kl_policy_ref")
    values = dict(zip(keys, predictions.T, strict=True))
    against_itself = np.full(len(predictions), 0.5)
    worse = share_worse(predictions[:, 1:2])
    return {**values, "win_rate_bon": against_itself, "share_worse": worse, **_of_completions(setting)}


def pool_reward(setting: Setting) -> Float:
    """The reference's mean reward of each prompt: where a share of the gain begins."""
    return np.array([rewards.mean() for rewards in setting.pool.per_prompt(setting.pool.rewards)])


def kl_policy_bon_floor(setting: Setting) -> float:
    """What `kl_policy_bon` reads at best-of-N itself, mean over prompts (core.best_of_n.kl_floor), nats."""
    floor = cache(lambda num_samples: best_of_n.kl_floor(num_samples, setting.n))
    return float(np.mean([floor(int(num_samples)) for num_samples in setting.pool.num_samples]))


def _of_completions(setting: Setting) -> dict[str, Float]:
    pool, columns = setting.pool, {}
    if pool.finished.values.null_count == 0:
        columns["eos_rate"] = np.array(list(pool.finished), np.float64)
    if pool.has_completion_ids:
        columns["completion_length"] = np.array([len(ids) for ids in pool.completion_ids], np.float64)
    if pool.completions.values.null_count == 0:
        columns |= {f"judge_reward/{judge.name}": _score_pool(judge, setting) for judge in setting.judges}
    return {name: _expectation(values, setting) for name, values in columns.items()}


def _score_pool(judge: Reward, setting: Setting) -> Float:
    prompts = [setting.pool.prompts[index] for index in setting.pool.prompt_index]
    return judge([prompt.prompt for prompt in prompts], list(setting.pool.completions), **reward_columns(prompts))


def _expectation(values: Float, setting: Setting) -> Float:
    """E_bon[value] of each prompt."""
    pairs = zip(setting.pool.per_prompt(setting.pool.rewards), setting.pool.per_prompt(values), strict=True)
    return np.array([sample_weights(rewards, setting.n) @ one for rewards, one in pairs])
