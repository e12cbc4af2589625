"""The target, best-of-N of the reference, predicted per prompt from the pool; and what the estimates read there."""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from vbon.core.tail_cdf import kl_floor
from vbon.evaluation.metrics import share_worse
from vbon.evaluation.task import EvalTask
from vbon.pool.predict import predict, sample_weights
from vbon.pool.rescore import score_pool

Float = NDArray[np.float64]


def target_metrics(task: EvalTask) -> dict[str, Float]:
    """Best-of-N per prompt, under the keys of a policy: `kl_policy_ref` is KL(π_bon‖π_ref).

    Lengths, ends and judges' rewards are there where the pool has what they need.
    """
    rewards = task.pool.per_prompt(task.pool.rewards)
    predictions = np.array([predict(one, task.target, task.tail) for one in rewards])
    keys = ("reward", "win_rate", "kl_policy_ref")
    values = dict(zip(keys, predictions.T, strict=True))
    against_itself = np.full(len(predictions), 0.5)
    worse = share_worse(predictions[:, 1:2])
    return {**values, "win_rate_bon": against_itself, "share_worse": worse, **_of_completions(task)}


def pool_reward(task: EvalTask) -> Float:
    """The reference's mean reward of each prompt: where a share of the gain begins."""
    return np.array([rewards.mean() for rewards in task.pool.per_prompt(task.pool.rewards)])


def kl_policy_bon_floor(task: EvalTask) -> float:
    """What `kl_policy_bon` reads at best-of-N itself, mean over prompts (core.tail_cdf.kl_floor), nats."""
    floor = cache(lambda num_samples: kl_floor(num_samples, task.target, task.tail))
    return float(np.mean([floor(int(num_samples)) for num_samples in task.pool.num_samples]))


def _of_completions(task: EvalTask) -> dict[str, Float]:
    pool, columns = task.pool, {}
    if pool.finished.values.null_count == 0:
        columns["eos_rate"] = np.array(list(pool.finished), np.float64)
    if pool.has_completion_ids:
        columns["completion_length"] = np.array([len(ids) for ids in pool.completion_ids], np.float64)
    if pool.completions.values.null_count == 0:
        columns |= {f"judge_reward/{judge.name}": score_pool(task.pool, judge) for judge in task.judges}
    return {name: _expectation(values, task) for name, values in columns.items()}


def _expectation(values: Float, task: EvalTask) -> Float:
    """E_bon[value] of each prompt."""
    pairs = zip(task.pool.per_prompt(task.pool.rewards), task.pool.per_prompt(values), strict=True)
    return np.array([sample_weights(rewards, task.target) @ one for rewards, one in pairs])
