"""K fresh completions of a policy for each held-out prompt: drawn, scored, ranked in the pool."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedModel

from vbon.core import best_of_n
from vbon.evaluation import metrics
from vbon.evaluation.divergence import Divergence, divergence
from vbon.evaluation.result import estimates
from vbon.evaluation.setting import Setting
from vbon.models import load
from vbon.models.prompts import decode
from vbon.pool.prompts import reward_columns
from vbon.pool.sampling import Draws, draw_shard, make_plan
from vbon.rewards import Reward

Float = NDArray[np.float64]
Int = NDArray[np.int64]
Advance = Callable[[int], None]


@dataclass(frozen=True, eq=False)
class Samples:
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


def draw_samples(policy: PreTrainedModel, setting: Setting, advance: Advance = lambda _: None) -> Samples:
    """A function of the policy, the setting and its seed: prompts and samples have random numbers of their own."""
    draws = _draw(policy, setting, advance)
    ids = [row for one in draws for row in one.completion_ids]
    texts = decode(setting.sampler.tokenizer, [setting.prompt_ids[index] for index in _prompt_index(setting)], ids)
    shape = (len(setting.prompt_ids), setting.samples_per_prompt)
    rewards = setting.known.score(_prompt_index(setting), texts, ids)
    k_lt, k_eq = setting.cdf.counts(_prompt_index(setting), rewards)
    interval = setting.cdf.interval(_prompt_index(setting), rewards)
    return Samples(
        completion_ids=ids,
        completions=texts,
        finished=np.array([one.finished for one in draws], np.float64),
        rewards=rewards.reshape(shape),
        judge_rewards={judge.name: _score(judge, setting, texts).reshape(shape) for judge in setting.judges},
        k_lt=k_lt.reshape(shape),
        k_eq=k_eq.reshape(shape),
        log_weight=best_of_n.log_weight(interval.cdf_lt, interval.cdf_le, setting.n).reshape(shape),
        divergence=Divergence(*(values.reshape(shape) for values in _divergence(policy, setting, ids))),
    )


def per_prompt_metrics(samples: Samples, setting: Setting) -> dict[str, Float]:
    """Every metric of fresh samples, one value a prompt."""
    div, weight, rows = samples.divergence, samples.log_weight, _by_prompt(samples, setting)
    lengths = np.array([[len(row) for row in one] for one in rows], np.float64)
    win_rates = sample_win_rates(samples, setting)
    means = {
        "reward": samples.rewards,
        "win_rate": win_rates,
        "win_rate_bon": metrics.win_rate_bon(samples.k_lt, samples.k_eq, setting.bon_cdf),
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
        "length_reward_correlation": metrics.length_reward_correlation(lengths, samples.rewards),
        "distinct_1": np.array([metrics.distinct_n(one, 1) for one in rows]),
        "distinct_2": np.array([metrics.distinct_n(one, 2) for one in rows]),
        "distinct_completions": np.array([metrics.distinct_completions(one) for one in rows]),
    }


def sample_win_rates(samples: Samples, setting: Setting) -> Float:
    """Share of the pool that each completion beats, ties half, (P, K)."""
    return metrics.win_rate(samples.k_lt, samples.k_eq, setting.pool.num_samples)


def best_of_k(samples: Samples, setting: Setting) -> list[dict[str, Any]]:
    """Reward and win rate of the best of k of the policy's own samples, k = 1 … min(N, K), with intervals."""
    values = {"reward": samples.rewards, "win_rate": sample_win_rates(samples, setting)}
    most = min(int(setting.n), setting.samples_per_prompt)
    return [
        {"k": k, **estimates({name: metrics.best_of_k(value, k) for name, value in values.items()}, setting.seed)}
        for k in range(1, most + 1)
    ]


def kl_bon_policy(policy: PreTrainedModel, setting: Setting, ref_logprobs: Float) -> Float:
    """KL(π_bon‖π_θ) of each prompt, from the pool's own samples under the policy. Shape (P,)."""
    logprobs = ref_logprobs if policy is setting.sampler.model else setting.pool_logprobs(policy)
    columns = (setting.pool_log_weight, ref_logprobs, logprobs)
    rows = zip(*(setting.pool.per_prompt(column) for column in columns), strict=True)
    return np.array([metrics.kl_bon_policy(*row) for row in rows])


def _draw(policy: PreTrainedModel, setting: Setting, advance: Advance) -> list[Draws]:
    sampler = setting.sampler._replace(model=policy)
    plan = make_plan(setting.samples_per_prompt, setting.batch_size)
    batches = draw_shard(
        sampler, setting.pool.prompts, setting.prompt_ids, plan, setting.draw_seed, setting.samples_per_prompt
    )
    draws: dict[int, Draws] = {}
    for batch, drawn in batches:
        draws |= zip(batch, drawn, strict=True)
        advance(len(batch))
    return [draws[index] for index in range(len(setting.prompt_ids))]


def _score(reward: Reward, setting: Setting, texts: list[str]) -> Float:
    prompts = [setting.pool.prompts[index] for index in _prompt_index(setting)]
    return reward([prompt.prompt for prompt in prompts], texts, **reward_columns(prompts))


def _divergence(policy: PreTrainedModel, setting: Setting, ids: list[list[int]]) -> Divergence:
    return divergence(
        policy,
        setting.sampler.model,
        [setting.prompt_ids[index] for index in _prompt_index(setting)],
        ids,
        temperature=setting.sampler.temperature,
        pad_token_id=load.pad_token_id(setting.sampler.tokenizer, setting.sampler.model),
    )


def _prompt_index(setting: Setting) -> Int:
    return np.repeat(np.arange(len(setting.prompt_ids)), setting.samples_per_prompt)


def _by_prompt(samples: Samples, setting: Setting) -> list[list[list[int]]]:
    size = setting.samples_per_prompt
    return [samples.completion_ids[i : i + size] for i in range(0, len(samples.completion_ids), size)]
