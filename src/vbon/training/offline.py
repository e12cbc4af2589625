"""Offline vBoN: the pool's own samples as training data, no rollouts, no critic. Also a warm start.

Completions are drawn from the pool by weight instead of carrying it: a minibatch drawn ∝ Ŵ has the expectation of the
all-sample loss Σ_i Ŵ_i·ℓ(y_i)/M at the cost of its useful rows alone.
"""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vbon.config.train import TrainConfig
from vbon.core import offline, seeds
from vbon.core.best_of_n import log_weight
from vbon.errors import VbonError
from vbon.models.batch import Sequences, sequences
from vbon.models.logprobs import completion_logits, completion_logprobs, token_logprobs
from vbon.training.online import Learner, descend, name_prompts, set_learning_rates
from vbon.training.schedule import learning_rate_factor
from vbon.training.task import Task

WARMUP_STEPS = 20
MAX_RESIDUAL = 10.0  # nats: a target of −53 nats must not decide the step


def pool_log_weights(task: Task, n: float) -> NDArray[np.float64]:
    """log Ŵ_N of every pool completion among the others of its pool, float64 (ΣM,)."""
    interval = task.cdf.pool_interval()
    return log_weight(interval.cdf_lt, interval.cdf_le, n)


class PoolData:
    """The pool's completions as training rows, with log Ŵ and log π_ref of each."""

    def __init__(self, task: Task, n: float):
        if not task.pool.has_completion_ids:
            raise VbonError(f"{task.pool.path}: holds no token ids, which offline training needs; use --algorithm rloo")
        self.task = task
        self.completion_ids: list[list[int]] = list(task.pool.completion_ids)
        self.prompt_index = task.pool.prompt_index
        self.log_weights = pool_log_weights(task, n)
        self.ref_logprobs = task.pool.ref_logprobs.copy()

    def batch(self, rows: NDArray[np.int64]) -> Sequences:
        prompts = [self.task.prompt_ids[i] for i in self.prompt_index[rows]]
        return sequences(prompts, [self.completion_ids[i] for i in rows], self.task.sampling.pad_token_id)

    def fill_ref_logprobs(self, ref_policy: nn.Module) -> None:
        """Compute the reference log-probabilities that the pool does not know."""
        missing = np.flatnonzero(np.isnan(self.ref_logprobs))
        for rows in np.split(missing, range(2048, len(missing), 2048)) if len(missing) else []:
            logprobs = completion_logprobs(ref_policy, self.batch(rows), self.task.sampling.temperature)
            self.ref_logprobs[rows] = logprobs.double().sum(1).numpy()


def offline_step(learner: Learner, data: PoolData, config: TrainConfig, step: int) -> dict[str, float]:
    """One optimiser step on the pool, counted from 0. The rate warms up, then falls as the schedule says."""
    rows = draw_rows(data, config, step)
    batch = data.batch(rows).to(learner.accelerator.device)
    logits = completion_logits(learner.policy, batch)
    token = token_logprobs(logits, batch.completion_ids, data.task.sampling.temperature)
    logprobs = (token * batch.completion_mask).sum(1, dtype=torch.float64)
    loss = _loss(logprobs, rows, data, config) / batch.completion_mask.sum(1).double().mean()
    assert config.offline_learning_rate is not None and config.offline_steps is not None  # filled by `with_defaults`
    warmup = min(1.0, (step + 1) / WARMUP_STEPS)
    factor = warmup * learning_rate_factor(config.lr_schedule, step, config.offline_steps)
    set_learning_rates(learner, [factor * config.offline_learning_rate] * len(learner.base_learning_rates))
    try:
        grad_norm = descend(learner, loss.float(), config.max_grad_norm)
    except FloatingPointError as error:
        named = name_prompts(data.task, np.unique(data.prompt_index[rows]).tolist())
        raise FloatingPointError(f"offline step {step + 1} ({named}): {error}") from None
    return {"offline_loss": float(loss.detach()), "grad_norm": float(grad_norm)}


def draw_rows(data: PoolData, config: TrainConfig, step: int) -> NDArray[np.int64]:
    """Pool rows of this step. weighted-sft: ∝ Ŵ. regression: half ∝ Ŵ, half uniform. listwise: groups of one prompt."""
    key = (config.seed, seeds.OFFLINE, step)
    size = config.offline_batch_size
    if config.offline_loss == "weighted-sft":
        return systematic_draw(np.exp(data.log_weights), size, *key)
    if config.offline_loss == "regression":
        best = systematic_draw(np.exp(data.log_weights), size // 2, *key, 0)
        return np.concatenate([best, systematic_draw(np.ones_like(data.log_weights), size - len(best), *key, 1)])
    return np.concatenate(list(_groups(data, size, config.samples_per_prompt, *key)))


def systematic_draw(weights: NDArray[np.float64], count: int, *key: int) -> NDArray[np.int64]:
    """`count` rows with expected multiplicity ∝ weight, evenly spread over the pool: low variance across prompts."""
    cumulative = np.cumsum(weights)
    points = (np.arange(count) + seeds.generator(*key).random()) / count * cumulative[-1]
    return np.minimum(np.searchsorted(cumulative, points, side="right"), len(weights) - 1)


def _groups(data: PoolData, size: int, per_prompt: int, *key: int) -> Iterator[NDArray[np.int64]]:
    random = seeds.generator(*key)
    offsets = data.task.pool.offsets
    for prompt in random.choice(len(data.task), max(1, size // per_prompt)):
        rows = np.arange(offsets[prompt], offsets[prompt + 1])
        yield random.choice(rows, min(per_prompt, len(rows)), replace=False)


def _loss(logprobs: Tensor, rows: NDArray[np.int64], data: PoolData, config: TrainConfig) -> Tensor:
    if config.offline_loss == "weighted-sft":
        return offline.weighted_sft(logprobs[None], torch.full((1, len(rows)), 1 / len(rows), dtype=torch.float64))
    log_ratio = logprobs - torch.from_numpy(data.ref_logprobs[rows]).to(logprobs.device)
    log_weights = torch.from_numpy(data.log_weights[rows]).to(logprobs.device)
    if config.offline_loss == "regression":
        residual = (log_ratio - log_weights).detach()
        bounded = log_ratio - residual + residual.clamp(-MAX_RESIDUAL, MAX_RESIDUAL)
        return offline.regression(bounded, log_weights, 2.0)
    groups = torch.from_numpy(np.unique(data.prompt_index[rows], return_inverse=True)[1])
    parts = [(log_ratio[groups == g], log_weights[groups == g].softmax(0)) for g in range(int(groups.max()) + 1)]
    return torch.stack([offline.listwise(ratio[None], weight[None]) for ratio, weight in parts]).mean()
