"""Validation: the distance to best-of-N on prompts that are not trained on, from fresh samples with fixed uniforms."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vbon.core import seeds, stats
from vbon.core.objectives import BoundObjective
from vbon.core.rank_tilts import Target, log_weight
from vbon.models.logprobs import completion_logprobs
from vbon.training.rollout import Rollouts, roll_out
from vbon.training.task import Task

INTERVALS = ("reward", "win_rate", "kl_policy_ref", "kl_policy_bon", "eos_rate", "completion_length")
MAX_PROMPTS = 64
MIN_COMPLETIONS = 512
FINITE_ROWS = 8


@torch.no_grad()
def validate(
    policy: nn.Module, ref_policy: nn.Module, task: Task, objective: BoundObjective, *, n: Target, seed: int
) -> dict[str, float]:
    """Measure the policy on up to 64 validation prompts with at least 512 fresh completions.

    Args:
        policy: the model that is measured.
        ref_policy: the model that made the pool.
        task: the validation prompts.
        objective: (rewards, interval) → sequence rewards and β.
        n: the N of best-of-N, or the rank tilt, that `kl_policy_bon` is measured against.
        seed: equal seeds draw with equal uniforms.

    Returns:
        The metrics of `rollout_metrics`; those on the model's card also as `NAME_low` and `NAME_high`, a 95 %
        bootstrap interval over these prompts.
    """
    index = prompts_measured(len(task), seed)
    per_prompt = max(4, MIN_COMPLETIONS // len(index))
    rollouts = roll_out(
        policy,
        ref_policy,
        task,
        index,
        seeds.uniforms(
            (len(index), per_prompt, task.sampling.max_new_tokens), seed, seeds.VALIDATION, seeds.COMPLETIONS
        ),
        objective,
    )
    return rollout_metrics(rollouts, n) | _intervals(completion_measures(rollouts, n), per_prompt, seed)


def _intervals(measures: dict[str, Tensor], per_prompt: int, seed: int) -> dict[str, float]:
    """95 % bootstrap intervals over prompts of what the model's card shows."""
    bounds: dict[str, float] = {}
    for name in INTERVALS:
        estimate = stats.mean(measures[name].view(-1, per_prompt).mean(1).numpy(), seed)
        bounds |= {f"{name}_low": estimate.low, f"{name}_high": estimate.high}
    return bounds


def prompts_measured(count: int, seed: int) -> Tensor:
    """Choose up to 64 of `count` validation prompts to measure, the same each time; int64."""
    return seeds.permutation(count, seed, seeds.VALIDATION)[:MAX_PROMPTS]


def rollout_metrics(
    rollouts: Rollouts, n: Target, gather: Callable[[Tensor], Tensor] | None = None
) -> dict[str, float]:
    """Compute means over completions; docs/metrics.md names each estimator and direction.

    `gather` collects the rows of all processes, (B, K) → (ΣB, K).
    """
    measures = completion_measures(rollouts, n)
    rows = torch.stack(list(measures.values()), 1)
    rows = rows if gather is None else gather(rows).cpu()
    values = dict(zip(measures, rows.numpy().T, strict=True))
    return {
        **{name: float(np.mean(column)) for name, column in values.items()},
        "objective_se": float(values["objective"].std() / np.sqrt(len(rows))),
    }


def completion_measures(rollouts: Rollouts, n: Target) -> dict[str, Tensor]:
    """Compute the quantities whose means are `rollout_metrics`, for each completion; float64 (B,), on the CPU."""
    log_ratio = rollouts.log_ratio().cpu()
    interval, mask = rollouts.interval, rollouts.mask
    log_w = torch.from_numpy(log_weight(interval.cdf_lt, interval.cdf_le, n))
    sequence_reward = rollouts.sequence_reward.cpu()
    measures = {
        "reward": torch.from_numpy(rollouts.rewards),
        "sequence_reward": sequence_reward,
        "win_rate": torch.from_numpy(interval.cdf_lt + interval.cdf_le) / 2,
        "kl_policy_ref": log_ratio,
        "kl_policy_bon": log_ratio - log_w,
        "objective": sequence_reward - rollouts.kl_coef * log_ratio,
        "entropy": -(rollouts.old_logprobs.double() * mask).sum(1),
        "eos_rate": rollouts.finished,
        "completion_length": mask.sum(1),
    }
    return {name: values.double().cpu() for name, values in measures.items()}


@torch.no_grad()
def gives_finite_logprobs(policy: nn.Module, rollouts: Rollouts, temperature: float) -> bool:
    """Return True if the policy's log-probabilities of the first few rollouts are finite."""
    few = rollouts.sequences.select(torch.arange(min(FINITE_ROWS, len(rollouts.prompt_index))))
    return bool(torch.isfinite(completion_logprobs(policy, few, temperature)).all())


def kept_line(result: dict[str, Any], out: str) -> str:
    """Write the line with which a run ends on the console: which iteration was kept, and why."""
    best, last = result["best_iteration"], result["iterations"]
    measured = f"win rate {result['validation/win_rate']:.3f}, KL to reference {result['validation/kl_policy_ref']:.3f}"
    if result["is_reference"]:
        return (
            f"{out}: no iteration of {last} was better than the reference on validation, so the REFERENCE was saved "
            f"({measured}); a smaller --learning-rate or more iterations may help"
        )
    why = "the latest within one standard error of the best validation objective"
    kept = "the policy before iteration 1" if best == 0 else f"iteration {best} of {last}"
    return f"{out}: kept {kept}, {why} ({measured})"


def validation_line(row: dict[str, Any]) -> str:
    """Format a validation, a row of the metrics, for the console."""
    return (
        f"validation {row['iteration']:>5}  win rate {row['validation/win_rate']:.3f}  "
        f"KL to reference {row['validation/kl_policy_ref']:.3f}  KL to best-of-N {row['validation/kl_policy_bon']:.3f}"
    )
