"""The online loop, in five numbered steps; PPO with a critic, RLOO and GRPO without."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from vbon.config.train import TrainConfig
from vbon.core import seeds
from vbon.errors import VbonError
from vbon.training.parallel.accelerator import is_mixed
from vbon.training.parallel.learner import Learner, set_learning_rates
from vbon.training.residual import residual_minibatches, residual_step
from vbon.training.rollout import Rollouts, roll_out
from vbon.training.rollout_buffer import RolloutBuffer
from vbon.training.schedule import learning_rate_factor
from vbon.training.step import step
from vbon.training.task import Task, objective_of, prompt_slots, target_of
from vbon.training.update import UpdateSettings, make_baseline, minibatches
from vbon.training.validation import rollout_metrics

PoolLoss = Callable[[tuple[int, ...], torch.Tensor, int], torch.Tensor]
"""(key of the draw, rows, of how many) → the share of these rollouts of a minibatch in the cross-entropy on best-of-N
from the pool, nats per completion: BOND's forward half."""
MAX_LOGPROB_GAP = 1e-4  # nats a token, float32: sampling and training forward passes differ by shapes only


class BadMinibatch(FloatingPointError):
    """A minibatch, counted from 1 in its iteration, whose loss or gradient is not finite or has exploded."""

    def __init__(self, what: str, number: int, prompt_index: torch.Tensor | None):
        super().__init__(what)
        self.number, self.prompt_index = number, prompt_index

    def named(self, task: Task) -> str:
        """Format the error as one line with the minibatch's number and prompts."""
        index = [] if self.prompt_index is None else self.prompt_index.unique().tolist()
        return f"minibatch {self.number} ({name_prompts(task, index)}): {self}"


def name_prompts(task: Task, index: Sequence[int], most: int = 8) -> str:
    """Join the ids of these prompts for a message, at most `most` of them."""
    ids = [task.prompts[i].prompt_id for i in index]
    return "prompts " + ", ".join(ids[:most]) + (f" and {len(ids) - most} more" if len(ids) > most else "")


def run_iteration(
    learner: Learner,
    ref_policy: nn.Module,
    task: Task,
    config: TrainConfig,
    iteration: int,
    pool_loss: PoolLoss | None = None,
    sample: Callable[..., Rollouts] | None = None,
    buffer: RolloutBuffer | None = None,
) -> tuple[dict[str, float], Rollouts]:
    """Run one iteration: sample, set the learning rate, update, measure, and once check the sampler.

    Args:
        learner: policy and critic with their optimizer.
        ref_policy: the model that made the pool.
        task: the training prompts with their pool.
        config: the configured training, with its defaults filled in.
        iteration: the number of the iteration, counted from 0.
        pool_loss: the loss on pool samples that every minibatch adds (bond), or None.
        sample: what gives the rollouts in place of `sample_rollouts`, from the same arguments (training.replay).
        buffer: the rollouts of earlier iterations, to which this one's are added (residual), or None.

    Returns:
        The metrics over all processes, and this process's rollouts.

    Raises:
        FloatingPointError: a loss or gradient is not finite or has exploded; it names the minibatch and its prompts,
            and the weights are those before it.
    """
    started = time.perf_counter()
    # 1. Roll out: this process's share of the iteration's completions, scored, ranked and set against the reference.
    rollouts = (sample or sample_rollouts)(learner, ref_policy, task, config, iteration)
    rolled_out = time.perf_counter()
    # 2. Learning rate of this iteration.
    factor = learning_rate_factor(config.lr_schedule, iteration, config.num_iterations)
    set_learning_rates(learner, [factor * rate for rate in learner.base_learning_rates])
    # 3. Update: a baseline, then clipped steps over minibatches of the rollouts.
    settings = update_settings(config, task.sampling.temperature, learner.accelerator.num_processes)
    try:
        key = (config.seed, seeds.ROLLOUT, iteration)
        steps = update(learner, rollouts, settings, *key, pool_loss=pool_loss, buffer=buffer)
    except BadMinibatch as bad:
        raise FloatingPointError(f"iteration {iteration + 1}, {bad.named(task)}") from None
    # 4. Measure.
    metrics = {
        **rollout_metrics(rollouts, target_of(config), learner.gather_rows),
        **_mean_over_processes(steps, learner),
        "learning_rate": learner.optimizer.param_groups[0]["lr"],
        "seconds_rollout": rolled_out - started,
        "seconds_update": time.perf_counter() - rolled_out,
    }
    # 5. Check, once: the first minibatch must have seen the policy that sampled.
    if iteration == 0 and config.dtype == "float32" and not is_mixed(learner.accelerator):
        check_first_ratio(float(steps[0]["ratio_gap"]))
    return metrics, rollouts


def update(
    learner: Learner,
    rollouts: Rollouts,
    settings: UpdateSettings,
    *key: int,
    pool_loss: PoolLoss | None = None,
    buffer: RolloutBuffer | None = None,
) -> list[dict[str, torch.Tensor]]:
    """Take steps over minibatches of the rollouts, or of the buffer with them, in an order that the key decides.

    Args:
        learner: policy and critic with their optimizer.
        rollouts: this process's share of the iteration.
        settings: the settings of the update.
        pool_loss: as in `run_iteration`.
        buffer: as in `run_iteration`.

    Returns:
        The diagnostics of each step, scalars.

    Raises:
        BadMinibatch: its loss or gradient is not finite or has exploded.
    """
    tokens_per_row = learner.accelerator.reduce(rollouts.mask.sum(1).float().mean(), "mean").item()
    take: Callable[[Any, int], dict[str, torch.Tensor]]
    batches: Iterator[Any]
    if buffer is None:
        batches = minibatches(rollouts, make_baseline(rollouts, learner.critic, settings), settings, *key)

        def take(batch: Any, number: int) -> dict[str, torch.Tensor]:
            forward = None if pool_loss is None else partial(pool_loss, (*key, number))
            return step(learner, batch, settings, tokens_per_row, forward)
    else:
        buffer.add(rollouts, learner.gather_rows)
        num_steps = settings.num_epochs * math.ceil(len(rollouts.prompt_index) / settings.minibatch_size)
        batches = residual_minibatches(learner, buffer, settings, num_steps, *key)

        def take(batch: Any, number: int) -> dict[str, torch.Tensor]:
            return residual_step(learner, buffer, batch, settings, tokens_per_row)

    steps: list[dict[str, torch.Tensor]] = []
    for batch in batches:
        try:
            steps.append(take(batch, len(steps)))
        except FloatingPointError as error:
            raise BadMinibatch(str(error), len(steps) + 1, batch.prompt_index) from None
    return steps


def sample_rollouts(
    learner: Learner, ref_policy: nn.Module, task: Task, config: TrainConfig, iteration: int
) -> Rollouts:
    """Sample this process's share of the iteration; draws are keyed by slot and independent of the number of processes.

    Args:
        learner: its policy samples, with the values of a shared critic.
        ref_policy: the model that made the pool.
        task: the training prompts with their pool.
        config: the configured training.
        iteration: the number of the iteration, counted from 0.

    Returns:
        The rollouts of this process's prompts.
    """
    accelerator = learner.accelerator
    slots = config.rollouts_per_iteration // config.samples_per_prompt
    mine = slice(accelerator.process_index, slots, accelerator.num_processes)
    index = prompt_slots(len(task), iteration * slots, slots, config.seed)[mine]
    shape = (slots, config.samples_per_prompt, task.sampling.max_new_tokens)
    uniforms = seeds.uniforms(shape, config.seed, seeds.ROLLOUT, iteration)[mine]
    return roll_out(
        learner.module("policy"),
        ref_policy,
        task,
        index,
        uniforms,
        objective_of(config),
        keep_ref_states=config.kl_estimator == "full",
        value_head=learner.module("critic") if config.critic == "shared" else None,
    )


def update_settings(config: TrainConfig, temperature: float, num_processes: int = 1) -> UpdateSettings:
    """Select the settings of the update from the config; each process takes its share of a minibatch."""
    shared = {name: getattr(config, name) for name in UpdateSettings.__dataclass_fields__ if name != "temperature"}
    shared["minibatch_size"] = max(1, config.minibatch_size // num_processes)
    return UpdateSettings(temperature=temperature, **shared)


def check_shares(config: TrainConfig, num_processes: int) -> None:
    """Raise VbonError unless every process can take the same number of whole prompts."""
    slots = config.rollouts_per_iteration // config.samples_per_prompt
    if config.algorithm != "offline" and slots % num_processes:
        raise VbonError(
            f"--rollouts-per-iteration {config.rollouts_per_iteration} holds {slots} prompts of "
            f"{config.samples_per_prompt} samples, which {num_processes} processes cannot share equally"
        )


def check_first_ratio(gap: float) -> None:
    """Check that the first minibatch sees the policy that sampled: |Δ log p| ≤ 1e-4 per token in float32.

    Raises VbonError otherwise: the model then does not compute the same function twice.
    """
    if not gap <= MAX_LOGPROB_GAP:
        raise VbonError(
            f"the policy's log-probabilities in training differ from those in sampling by {gap:.1e} a token before any "
            "update; the model is not deterministic (dropout?) or mishandles padding or its cache"
        )


def _mean_over_processes(steps: list[dict[str, torch.Tensor]], learner: Learner) -> dict[str, float]:
    means = torch.stack([torch.stack([step[key] for step in steps]).mean() for key in steps[0]])
    return dict(zip(steps[0], learner.accelerator.reduce(means, "mean").tolist(), strict=True))
