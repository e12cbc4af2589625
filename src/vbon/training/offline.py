"""Training on the pool's own samples, without rollouts: offline methods, the warm start, BOND's forward half."""

import dataclasses
import time

import numpy as np
import torch
from torch import Tensor, nn

from vbon.config.methods import METHODS
from vbon.config.train import TrainConfig
from vbon.core import offline, seeds
from vbon.core.best_of_n import kl_coef_from_n
from vbon.errors import VbonError
from vbon.pool.store import ReferencePool
from vbon.training.micro_batches import accumulate
from vbon.training.offline_methods import OFFLINE_METHODS, PolicyRows, draw_best
from vbon.training.online import PoolLoss, name_prompts
from vbon.training.parallel.learner import Learner, set_learning_rates
from vbon.training.pool_data import PoolData, tilt_log_weights
from vbon.training.schedule import learning_rate_factor
from vbon.training.task import Task, target_of

WARMUP_STEPS = 20
HELD_OUT_DRAWS = 4


def data_of(task: Task, config: TrainConfig, ref_policy: nn.Module) -> PoolData:
    """Make the training rows that the configured methods draw from, with log π_ref where one of them uses it."""
    tilts = config.algorithm != "offline" and not config.targets_best_of_n
    data = PoolData(task, target_of(config), tilt_log_weights(task, config) if tilts else None)
    if OFFLINE_METHODS[config.offline_loss].uses_reference:
        data.fill_ref_logprobs(ref_policy)
    return data


def offline_step(learner: Learner, data: PoolData, config: TrainConfig, step: int) -> dict[str, float]:
    """Take one optimizer step of the policy on pool rows.

    Args:
        learner: the policy and its optimizer.
        data: the pool's completions, with log π_ref where the method uses it.
        config: the configured training, with its defaults filled in.
        step: the number of the step, counted from 0.

    Returns:
        The metrics of the step: loss in nats per token, gradient norm and seconds.

    Raises:
        FloatingPointError: the gradient is not finite; it names the prompts, and the weights are those before the step.
    """
    started = time.perf_counter()
    method = OFFLINE_METHODS[config.offline_loss]
    rows = method.draw(data, config, config.seed, seeds.OFFLINE, step)
    groups = method.groups(data, rows)
    num_groups, mean_length = int(groups.max()) + 1, data.completion_lengths(rows).double().mean()

    def backward(part: Tensor) -> Tensor:
        own = rows[part.numpy()]
        logprobs = data.logprobs(learner.policy, own, learner.accelerator.device)
        share = len(groups[part].unique()) / num_groups
        loss = method.loss(PolicyRows(data, own, logprobs), config) / mean_length * share
        learner.optimizer.backward(loss.float())
        return loss.detach()

    assert config.offline_learning_rate is not None  # filled by `with_defaults`
    rate = offline_factor(config, step) * config.offline_learning_rate
    set_learning_rates(learner, [rate] * len(learner.base_learning_rates))
    try:
        losses = accumulate(learner, data.lengths(rows), backward, groups)
        grad_norm = learner.optimizer.step()["policy"]
    except FloatingPointError as error:
        named = name_prompts(data.task, np.unique(data.prompt_index[rows]).tolist())
        raise FloatingPointError(f"offline step {step + 1} ({named}): {error}") from None
    return {
        "offline_loss": float(torch.stack(losses).sum()),
        "grad_norm": float(grad_norm),
        "seconds_update": time.perf_counter() - started,
    }


def offline_factor(config: TrainConfig, step: int) -> float:
    """Compute the factor of the learning rate at a step, counted from 0: it rises first, then follows the schedule."""
    assert config.offline_steps is not None  # filled by `with_defaults`
    return min(1.0, (step + 1) / WARMUP_STEPS) * learning_rate_factor(config.lr_schedule, step, config.offline_steps)


def best_of_n_loss(learner: Learner, data: PoolData, config: TrainConfig) -> PoolLoss:
    """Make BOND's forward half: cross-entropy on pool samples drawn ∝ Ŵ, which is KL(π_bon‖π_θ) up to a constant.

    It draws as many samples as a minibatch has rollouts, and spreads them over its micro-batches.
    """

    def loss(key: tuple[int, ...], part: Tensor, num_rollouts: int) -> Tensor:
        rows = draw_best(data, config.minibatch_size, *key, seeds.FORWARD_KL)
        own = rows[np.isin(np.arange(len(rows)) % num_rollouts, part.numpy())]
        share = len(own) / len(rows)
        return -data.logprobs(learner.policy, own, learner.accelerator.device).mean() * share

    return loss


@torch.no_grad()
def held_out_loss(policy: nn.Module, data: PoolData, config: TrainConfig) -> float:
    """Compute the offline loss on the same few draws each time; `data` is that of the validation prompts."""
    method, device, losses = OFFLINE_METHODS[config.offline_loss], next(policy.parameters()).device, []
    for draw in range(HELD_OUT_DRAWS):
        rows = method.draw(data, config, config.seed, seeds.VALIDATION, seeds.HELD_OUT_LOSS, draw)
        losses.append(method.loss(PolicyRows(data, rows, data.logprobs(policy, rows, device)), config))
    return float(torch.stack(losses).mean())


def method_objective(
    measured: dict[str, float], policy: nn.Module, data: PoolData, config: TrainConfig
) -> dict[str, float]:
    """Compute the validation objective of a method that trains on pool samples.

    It is −loss for `--algorithm offline`, and −β times the Jeffreys divergence for `--method bond`, of which the
    rollouts measure one half.

    Args:
        measured: the metrics of rollouts on the same prompts; `objective` and `objective_se` are used for bond.
        policy: the policy with all its weights.
        data: the pool's completions for the validation prompts.
        config: the configured training.

    Returns:
        `objective` and `objective_se`, its standard error.
    """
    if config.algorithm == "offline":
        return {"objective": -held_out_loss(policy, data, config), "objective_se": 0.0}
    forward = held_out_loss(policy, data, dataclasses.replace(config, offline_loss="weighted-sft"))
    kl_coef = kl_coef_from_n(config.n)
    divergence = offline.jeffreys(torch.tensor(forward), torch.tensor(-measured["objective"] / kl_coef))
    return {"objective": -kl_coef * float(divergence), "objective_se": measured["objective_se"] / 2}


def check_sets(pool: ReferencePool, config: TrainConfig) -> None:
    """Raise VbonError where the method takes sets of N and a prompt has fewer samples."""
    if METHODS[config.method_name].whole_n and config.n > pool.num_samples.min():
        raise VbonError(
            f"{pool.path}: --method {config.method_name} takes sets of --n {config.n:g} samples, but a prompt has only "
            f"{pool.num_samples.min()}; take a smaller --n"
        )
