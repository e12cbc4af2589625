"""How far the policy is from best-of-N on prompts it does not train on, from fresh samples with fixed uniforms."""

import numpy as np
import torch
from torch import nn

from vbon.core import seeds
from vbon.core.best_of_n import log_weight
from vbon.core.objectives import Objective
from vbon.training.rollout import Rollouts, roll_out
from vbon.training.task import Task

MAX_PROMPTS = 64
MIN_COMPLETIONS = 512


@torch.no_grad()
def validate(
    policy: nn.Module,
    ref_policy: nn.Module,
    task: Task,
    objective: Objective,
    n: float,
    kl_coef: float | None,
    seed: int,
) -> dict[str, float]:
    """Metrics of `rollout_metrics` on up to 64 prompts, at least 512 completions; equal seeds draw equal uniforms."""
    index = seeds.permutation(len(task), seed, seeds.VALIDATION)[:MAX_PROMPTS]
    per_prompt = max(4, MIN_COMPLETIONS // len(index))
    rollouts = roll_out(
        policy, ref_policy, [task.prompt_ids[i] for i in index], index,
        seeds.uniforms((len(index), per_prompt, task.sampling.max_new_tokens), seed, seeds.VALIDATION, 1),
        task.sampling, task.score, objective, n, kl_coef,
    )  # fmt: skip
    return rollout_metrics(rollouts, n)


def rollout_metrics(rollouts: Rollouts, n: float) -> dict[str, float]:
    """Means over completions; docs/metrics.md names each estimator and direction."""
    log_ratio = rollouts.log_ratio().cpu().numpy()
    log_w = log_weight(rollouts.interval.cdf_lt, rollouts.interval.cdf_le, n)
    sequence_reward = rollouts.sequence_reward.cpu().numpy()
    objective = sequence_reward - rollouts.kl_coef * log_ratio
    mask = rollouts.mask
    return {
        "reward": float(rollouts.rewards.mean()),
        "sequence_reward": float(sequence_reward.mean()),
        "win_rate": float(np.mean(rollouts.interval.cdf_lt + rollouts.interval.cdf_le) / 2),
        "kl_policy_ref": float(log_ratio.mean()),
        "kl_policy_bon": float((log_ratio - log_w).mean()),
        "objective": float(objective.mean()),
        "objective_se": float(objective.std() / np.sqrt(len(objective))),
        "entropy": float(-(rollouts.old_logprobs.double() * mask).sum(1).mean()),
        "eos_rate": float(rollouts.finished.float().mean()),
        "completion_length": float(mask.sum(1).float().mean()),
    }
