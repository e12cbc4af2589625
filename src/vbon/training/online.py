"""The online loop, in five numbered steps; PPO with a critic, RLOO without."""

import time
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from vbon.config.train import TrainConfig
from vbon.core import seeds
from vbon.core.objectives import OBJECTIVES
from vbon.errors import VbonError
from vbon.models.value_head import Critic
from vbon.training.rollout import Rollouts, roll_out
from vbon.training.schedule import learning_rate_factor
from vbon.training.task import Task, prompt_slots
from vbon.training.update import UpdateSettings, make_baseline, minibatches, policy_loss, value_loss
from vbon.training.validation import rollout_metrics

MAX_LOGPROB_GAP = 1e-4  # nats a token, float32: sampling and training forward passes differ by shapes only


@dataclass
class Learner:
    """The networks that change, and what changes them. `policy` and `critic` are as accelerate prepared them."""

    policy: nn.Module
    critic: Critic | None
    optimizer: torch.optim.Optimizer
    accelerator: Accelerator
    base_learning_rates: list[float] = field(default_factory=list)

    def modules(self) -> dict[str, nn.Module]:
        """Name → network, for checkpoints."""
        named = {"policy": self.policy, "critic": self.critic}
        return {name: self.accelerator.unwrap_model(m) for name, m in named.items() if m is not None}


def make_learner(policy: nn.Module, config: TrainConfig, accelerator: Accelerator) -> Learner:
    """AdamW over policy and, for PPO, critic; no weight decay, which would pull towards 0 and not towards π_ref."""
    critic = Critic(accelerator.unwrap_model(policy)).to(accelerator.device) if config.algorithm == "ppo" else None
    rates = [config.learning_rate, config.critic_learning_rate or config.learning_rate]
    groups = [
        {"params": [p for p in network.parameters() if p.requires_grad], "lr": rate}
        for network, rate in zip((policy, critic), rates, strict=True)
        if network is not None
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0, eps=1e-5, fused=True)
    policy, optimizer = accelerator.prepare(policy, optimizer)
    critic = None if critic is None else accelerator.prepare(critic)
    return Learner(policy, critic, optimizer, accelerator, [group["lr"] for group in groups])


def run_iteration(
    learner: Learner, ref_policy: nn.Module, task: Task, config: TrainConfig, iteration: int
) -> tuple[dict[str, float], Rollouts]:
    """One iteration, counted from 0: returns its metrics and its rollouts."""
    started = time.perf_counter()
    settings = update_settings(config, task.sampling.temperature)
    # 1. Roll out: this process's share of the iteration's completions, scored, ranked and set against the reference.
    rollouts = sample_rollouts(learner, ref_policy, task, config, iteration)
    rolled_out = time.perf_counter()
    # 2. Baseline: the critic's values, or the other samples of the same prompt.
    baseline = make_baseline(rollouts, learner.critic, settings)
    # 3. Learning rate of this iteration.
    set_learning_rates(learner, learning_rate_factor(config.lr_schedule, iteration, config.num_iterations))
    # 4. Update: clipped steps over minibatches of the rollouts.
    tokens_per_row = learner.accelerator.reduce(rollouts.mask.sum(1).float().mean(), "mean").item()
    steps = [
        _step(learner, batch, settings, config, tokens_per_row)
        for batch in minibatches(rollouts, baseline, settings, config.seed, seeds.ROLLOUT, iteration)
    ]
    # 5. Measure.
    metrics = {
        **rollout_metrics(rollouts, config.n),
        **{key: float(torch.stack([step[key] for step in steps]).mean()) for key in steps[0]},
        "learning_rate": learner.optimizer.param_groups[0]["lr"],
        "seconds_rollout": rolled_out - started,
        "seconds_update": time.perf_counter() - rolled_out,
    }
    if iteration == 0:
        check_first_ratio(float(steps[0]["ratio_gap"]), config.dtype)
    return metrics, rollouts


def sample_rollouts(
    learner: Learner, ref_policy: nn.Module, task: Task, config: TrainConfig, iteration: int
) -> Rollouts:
    """This process's prompts of the iteration; draws are keyed by the slot, so they do not depend on how many share."""
    accelerator = learner.accelerator
    slots = config.rollouts_per_iteration // config.samples_per_prompt
    mine = slice(accelerator.process_index, slots, accelerator.num_processes)
    index = prompt_slots(len(task), iteration * slots, slots, config.seed)[mine]
    shape = (slots, config.samples_per_prompt, task.sampling.max_new_tokens)
    uniforms = seeds.uniforms(shape, config.seed, seeds.ROLLOUT, iteration)[mine]
    return roll_out(
        accelerator.unwrap_model(learner.policy), ref_policy, [task.prompt_ids[i] for i in index], index, uniforms,
        task.sampling, task.score, OBJECTIVES[config.objective], config.n, config.kl_coef,
        keep_ref_log_softmax=config.kl_estimator == "full",
    )  # fmt: skip


def update_settings(config: TrainConfig, temperature: float) -> UpdateSettings:
    """The update's share of the config."""
    shared = {name: getattr(config, name) for name in UpdateSettings.__dataclass_fields__ if name != "temperature"}
    return UpdateSettings(temperature=temperature, **shared)


def set_learning_rates(learner: Learner, factor: float) -> None:
    """Scale every group's base learning rate."""
    for group, rate in zip(learner.optimizer.param_groups, learner.base_learning_rates, strict=True):
        group["lr"] = rate * factor


def check_first_ratio(gap: float, dtype: str) -> None:
    """The first minibatch must see the policy that sampled: |Δ log p| ≤ 1e-4 a token in float32.

    Raises VbonError otherwise: the model then does not compute the same function twice.
    """
    if dtype == "float32" and not gap <= MAX_LOGPROB_GAP:
        raise VbonError(
            f"the policy's log-probabilities in training differ from those in sampling by {gap:.1e} a token before any "
            "update; the model is not deterministic (dropout?) or mishandles padding or its cache"
        )


def _step(
    learner: Learner, batch: Any, settings: UpdateSettings, config: TrainConfig, tokens_per_row: float
) -> dict[str, torch.Tensor]:
    loss, diagnostics = policy_loss(learner.policy, batch, settings, tokens_per_row)
    diagnostics["policy_loss"] = loss.detach()
    if learner.critic is not None:
        diagnostics["value_loss"] = value_loss(learner.critic, batch, settings)
        loss = loss + diagnostics["value_loss"]
        diagnostics["value_loss"] = diagnostics["value_loss"].detach()
    if not torch.isfinite(loss):
        raise FloatingPointError("the loss is not finite")
    learner.optimizer.zero_grad(set_to_none=True)
    learner.accelerator.backward(loss)
    diagnostics["grad_norm"] = nn.utils.clip_grad_norm_(learner.policy.parameters(), config.max_grad_norm)
    if learner.critic is not None:
        nn.utils.clip_grad_norm_(learner.critic.parameters(), config.max_grad_norm)
    learner.optimizer.step()
    return diagnostics
