"""K fresh completions of a policy for each held-out prompt: drawn, scored, ranked in the pool."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedModel

from vbon.core.rank_combination import middle
from vbon.core.rank_tilts import log_weight
from vbon.evaluation import metrics
from vbon.evaluation.divergence import Divergence, divergence
from vbon.evaluation.result import estimates
from vbon.evaluation.task import EvalTask
from vbon.models import load
from vbon.models.prompts import decode
from vbon.pool.prompts import reward_columns
from vbon.pool.sampling import Draws, draw_shard, make_plan
from vbon.rewards import Reward

Float = NDArray[np.float64]
Int = NDArray[np.int64]
Advance = Callable[[int], None]


@dataclass(frozen=True, eq=False)
class PolicySamples:
    """P·K completions, those of a prompt adjacent. Arrays (P, K), lists flat."""

    completion_ids: list[list[int]]
    completions: list[str]
    finished: Float
    rewards: Float
    judge_rewards: dict[str, Float]
    k_lt: Int
    k_eq: Int
    log_weight: Float
    """log Ŵ_N among the pool's samples."""
    divergence: Divergence
    """(P, K) each."""


def draw_samples(policy: PreTrainedModel, task: EvalTask, advance: Advance = lambda _: None) -> PolicySamples:
    """A function of the policy, the task and its seed: prompts and samples have random numbers of their own."""
    draws = _draw(policy, task, advance)
    ids = [row for one in draws for row in one.completion_ids]
    texts = decode(task.sampler.tokenizer, [task.prompt_ids[index] for index in _prompt_index(task)], ids)
    shape = (len(task.prompt_ids), task.samples_per_prompt)
    rewards = task.known.score(_prompt_index(task), texts, ids)
    k_lt, k_eq = task.cdf.counts(_prompt_index(task), rewards)
    interval = task.cdf.interval(_prompt_index(task), rewards)
    return PolicySamples(
        completion_ids=ids,
        completions=texts,
        finished=np.array([one.finished for one in draws], np.float64),
        rewards=(rewards if rewards.ndim == 1 else middle(interval)).reshape(shape),
        judge_rewards={judge.name: _score(judge, task, texts).reshape(shape) for judge in task.judges},
        k_lt=k_lt.reshape(shape),
        k_eq=k_eq.reshape(shape),
        log_weight=log_weight(interval.cdf_lt, interval.cdf_le, task.target).reshape(shape),
        divergence=Divergence(*(values.reshape(shape) for values in _divergence(policy, task, ids))),
    )


def per_prompt_metrics(samples: PolicySamples, task: EvalTask) -> dict[str, Float]:
    """Every metric of fresh samples, one value a prompt."""
    div, weight, rows = samples.divergence, samples.log_weight, _by_prompt(samples, task)
    lengths = np.array([[len(row) for row in one] for one in rows], np.float64)
    win_rates = sample_win_rates(samples, task)
    means = {
        "reward": samples.rewards,
        "win_rate": win_rates,
        "win_rate_bon": metrics.win_rate_bon(samples.k_lt, samples.k_eq, task.bon_cdf),
        "kl_policy_ref": div.kl,
        "kl_policy_ref_k1": div.log_ratio,
        "eos_rate": samples.finished,
        "completion_length": lengths,
        "entropy": div.entropy,
        **{f"judge_reward/{name}": rewards for name, rewards in samples.judge_rewards.items()},
    }
    return {
        **{name: values.mean(1) for name, values in means.items()},
        "share_worse": metrics.share_worse(win_rates),
        "kl_policy_bon": metrics.kl_policy_bon(div.kl, weight),
        "kl_policy_bon_k1": metrics.kl_policy_bon(div.log_ratio, weight),
        "kl_policy_bon_cv": metrics.kl_policy_bon_cv(div.log_ratio, weight),
        "length_reward_correlation": metrics.length_reward_correlation(lengths, samples.rewards),
        "distinct_1": np.array([metrics.distinct_n(one, 1) for one in rows]),
        "distinct_2": np.array([metrics.distinct_n(one, 2) for one in rows]),
        "distinct_completions": np.array([metrics.distinct_completions(one) for one in rows]),
    }


def sample_win_rates(samples: PolicySamples, task: EvalTask) -> Float:
    """Share of the pool that each completion beats, ties half, (P, K)."""
    return metrics.win_rate(samples.k_lt, samples.k_eq, task.pool.num_samples)


def best_of_k(samples: PolicySamples, task: EvalTask) -> list[dict[str, Any]]:
    """Reward and win rate of the best of k of the policy's own samples, k = 1 … min(N, K), with intervals."""
    values = {"reward": samples.rewards, "win_rate": sample_win_rates(samples, task)}
    most = min(int(task.n), task.samples_per_prompt)
    return [
        {"k": k, **estimates({name: metrics.best_of_k(value, k) for name, value in values.items()}, task.seed)}
        for k in range(1, most + 1)
    ]


def kl_bon_policy(policy: PreTrainedModel, task: EvalTask, ref_logprobs: Float) -> Float:
    """KL(π_bon‖π_θ) of each prompt, from the pool's own samples under the policy. Shape (P,)."""
    logprobs = ref_logprobs if policy is task.sampler.model else task.pool_logprobs(policy)
    columns = (task.pool_log_weight, ref_logprobs, logprobs)
    rows = zip(*(task.pool.per_prompt(column) for column in columns), strict=True)
    return np.array([metrics.kl_bon_policy(*row) for row in rows])


def _draw(policy: PreTrainedModel, task: EvalTask, advance: Advance) -> list[Draws]:
    sampler = task.sampler._replace(model=policy)
    plan = make_plan(task.samples_per_prompt, task.batch_size)
    batches = draw_shard(sampler, task.pool.prompts, task.prompt_ids, plan, task.draw_seed, task.samples_per_prompt)
    draws: dict[int, Draws] = {}
    for batch, drawn in batches:
        draws |= zip(batch, drawn, strict=True)
        advance(len(batch))
    return [draws[index] for index in range(len(task.prompt_ids))]


def _score(reward: Reward, task: EvalTask, texts: list[str]) -> Float:
    prompts = [task.pool.prompts[index] for index in _prompt_index(task)]
    return reward([prompt.prompt for prompt in prompts], texts, **reward_columns(prompts))


def _divergence(policy: PreTrainedModel, task: EvalTask, ids: list[list[int]]) -> Divergence:
    return divergence(
        policy,
        task.sampler.model,
        [task.prompt_ids[index] for index in _prompt_index(task)],
        ids,
        temperature=task.sampler.temperature,
        pad_token_id=load.pad_token_id(task.sampler.tokenizer, task.sampler.model),
    )


def _prompt_index(task: EvalTask) -> Int:
    return np.repeat(np.arange(len(task.prompt_ids)), task.samples_per_prompt)


def _by_prompt(samples: PolicySamples, task: EvalTask) -> list[list[list[int]]]:
    size = task.samples_per_prompt
    return [samples.completion_ids[i : i + size] for i in range(0, len(samples.completion_ids), size)]
