"""Defaults that depend on the model and the pool. The filled config is what a run prints, saves and resumes with."""

import dataclasses
from collections import Counter
from typing import Literal

from transformers import PreTrainedModel

from vbon.config.train import TrainConfig, residual_conflicts
from vbon.models.value_head import layers_of
from vbon.pool.store import ReferencePool

# Adam's best learning rate falls as 1/width; faster in the very narrow. Measured at widths 32 (lab: 8e-4) and 128
# (review task: 1e-4); at 768 this is 1.7e-5, at 2,560 it is 5e-6, near what the paper uses for models of those widths.
ONLINE_RATE_TIMES_WIDTH = 0.0128
NARROW = 128
OFFLINE_RATE_TIMES_WIDTH = 0.128
RESIDUAL_RATE = 3.0  # its gradient is the less noisy one; measured on the lab


# Rollouts of earlier iterations help where completions recur. On the lab (3,906 completions) they bring the policy two
# to three times as near to best-of-N; on generated reviews, where hardly one recurs, they do not (docs/experiments.md).
MIN_RECURRING = 0.2
RECURRING_PROMPTS = 64


# A warm start that reads its useful samples more often than this learns them by heart: on the lab with M = 250 the
# KL to best-of-N rose to 2.1 nats.
MAX_OFFLINE_PASSES = 8
MAX_OFFLINE_STEPS = 200
MIN_WARM_START_STEPS = 10
MAX_CRITIC_PASSES = 2  # a third pass fits the luck of single samples: early values get worse on prompts held out


def with_defaults(config: TrainConfig, policy: PreTrainedModel, pool: ReferencePool) -> TrainConfig:
    """Fill in everything that the model or the pool decides."""
    width = policy.config.get_text_config().hidden_size
    if config.algorithm == "auto":
        config = dataclasses.replace(config, algorithm=_algorithm(config, pool))
    factor = RESIDUAL_RATE if config.algorithm == "residual" else 1.0
    steps = config.offline_steps or _offline_steps(config, pool)
    return dataclasses.replace(
        config,
        warm_start=_warm_start(config, pool, steps),
        offline_steps=steps,
        critic_layers=critic_layers(config, policy),
        learning_rate=config.learning_rate or _rounded(factor * online_rate(width)),
        offline_learning_rate=config.offline_learning_rate or _rounded(OFFLINE_RATE_TIMES_WIDTH / width),
    )


def _algorithm(config: TrainConfig, pool: ReferencePool) -> Literal["residual", "rloo"]:
    fits = not any(is_wrong for is_wrong, _ in residual_conflicts(config))
    return "residual" if fits and share_recurring(pool) >= MIN_RECURRING else "rloo"


def share_recurring(pool: ReferencePool) -> float:
    """Compute the share of the pool's samples that another sample of the same prompt equals, over a few prompts."""
    shares = []
    for prompt in range(min(len(pool), RECURRING_PROMPTS)):
        rows = slice(pool.offsets[prompt], pool.offsets[prompt + 1])
        counts = Counter(text for text in pool.completions[rows] if text is not None)
        shares.append(sum(count for count in counts.values() if count > 1) / max(1, counts.total()))
    return sum(shares) / max(1, len(shares))


def online_rate(width: int) -> float:
    """Compute the learning rate of the policy from the model's hidden size."""
    return ONLINE_RATE_TIMES_WIDTH / width * max(1.0, NARROW / width) ** 0.5


def critic_layers(config: TrainConfig, policy: PreTrainedModel) -> int | None:
    """Decide the layers of a separate critic: as the config says, or half of the model's, rounded up.

    None means all of them; so it is where the model does not say which its layers are, and without such a critic.
    """
    if config.critic_layers is not None or config.algorithm != "ppo" or config.critic == "shared":
        return config.critic_layers
    layers = layers_of(policy.base_model)
    return None if layers is None else (len(layers) + 1) // 2


def _offline_steps(config: TrainConfig, pool: ReferencePool) -> int:
    if config.warm_start == "critic":
        return max(1, min(MAX_OFFLINE_STEPS, MAX_CRITIC_PASSES * len(pool.rewards) // config.offline_batch_size))
    return default_offline_steps(len(pool.rewards), config.n, config.offline_batch_size)


def default_offline_steps(num_rows: int, n: float, batch_size: int) -> int:
    """Compute the number of offline steps: at most 200, and at most 8 passes over the pool's effective samples.

    Of ΣM reference samples, weights W_N leave ΣM/E_ref[W²] = ΣM·(2N−1)/N² effective ones (continuous rewards).
    """
    effective = num_rows * (2 * n - 1) / n**2
    return max(1, min(MAX_OFFLINE_STEPS, int(MAX_OFFLINE_PASSES * effective / batch_size)))


def _warm_start(config: TrainConfig, pool: ReferencePool, steps: int) -> Literal["none", "offline", "critic"]:
    if config.warm_start != "auto":
        return config.warm_start
    # weights by the reward itself have no bound: a few samples may carry them all
    worth_it = config.targets_best_of_n and steps >= MIN_WARM_START_STEPS and pool.has_completion_ids
    return "offline" if worth_it and config.algorithm != "offline" else "none"


def _rounded(rate: float) -> float:
    return float(f"{rate:.2g}")
