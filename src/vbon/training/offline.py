"""The pool's own samples as training data, no rollouts, no critic. Also a warm start, and BOND's forward half.

Completions are drawn from the pool by weight instead of carrying it: a minibatch drawn ∝ Ŵ has the expectation of the
all-sample loss Σ_i Ŵ_i·ℓ(y_i)/M at the cost of its useful rows alone.
"""

import dataclasses
import time
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vbon.config.methods import METHODS
from vbon.config.train import TrainConfig
from vbon.core import offline, seeds
from vbon.core.best_of_n import kl_coef_from_n, log_weight
from vbon.core.objectives import bind_objective
from vbon.errors import VbonError
from vbon.models.batch import Sequences, sequences
from vbon.models.logprobs import completion_logprobs, policy_logprobs
from vbon.pool.store import ReferencePool
from vbon.training.learner import Learner, descend, set_learning_rates
from vbon.training.online import PoolLoss, name_prompts
from vbon.training.schedule import learning_rate_factor
from vbon.training.task import Task

CROSS_ENTROPIES, PAIRED = ("weighted-sft", "sft"), ("dpo", "bonbon")
WARMUP_STEPS = 20
HELD_OUT_DRAWS = 4
MAX_RESIDUAL = 10.0  # nats: a target of −53 nats must not decide the step


def pool_log_weights(task: Task, n: float) -> NDArray[np.float64]:
    """log Ŵ_N of every pool completion among the others of its pool, float64 (ΣM,)."""
    interval = task.cdf.pool_interval()
    return log_weight(interval.cdf_lt, interval.cdf_le, n)


def tilt_log_weights(task: Task, config: TrainConfig) -> NDArray[np.float64]:
    """ρ/β of every pool completion, of mean weight 1 over each pool: π_ref·exp(ρ/β)/Z, where the objective leads.

    float64 (ΣM,). With `vbon` these are the log Ŵ.
    """
    objective = bind_objective(config.objective, config.n, config.kl_coef)
    signal = objective(task.pool.rewards, task.cdf.pool_interval())
    pools = task.pool.per_prompt(signal.sequence_reward / signal.kl_coef)
    return np.concatenate([one - np.logaddexp.reduce(one) + np.log(len(one)) for one in pools])


class PoolData:
    """The pool's completions as training rows, with log π_ref and a log-weight of each: log Ŵ, unless given."""

    def __init__(self, task: Task, n: float, log_weights: NDArray[np.float64] | None = None):
        if not task.pool.has_completion_ids:
            raise VbonError(f"{task.pool.path}: holds no token ids, which offline training needs; use --algorithm rloo")
        self.task = task
        self.completion_ids: list[list[int]] = list(task.pool.completion_ids)
        self.prompt_index = task.pool.prompt_index
        self.log_weights = pool_log_weights(task, n) if log_weights is None else log_weights
        self.ref_logprobs = task.pool.ref_logprobs.copy()

    def batch(self, rows: NDArray[np.int64]) -> Sequences:
        prompts = [self.task.prompt_ids[i] for i in self.prompt_index[rows]]
        return sequences(prompts, [self.completion_ids[i] for i in rows], self.task.sampling.pad_token_id)

    def logprobs(self, policy: nn.Module, rows: NDArray[np.int64], device: torch.device) -> tuple[Tensor, Tensor]:
        """log π_θ of these rows, float64 and differentiable, and their lengths; (B,), (B,)."""
        batch = self.batch(rows).to(device)
        token = policy_logprobs(policy, batch, self.task.sampling.temperature)
        return token.sum(1, dtype=torch.float64), batch.completion_mask.sum(1)

    def fill_ref_logprobs(self, ref_policy: nn.Module) -> None:
        """Compute the reference log-probabilities that the pool does not know."""
        missing = np.flatnonzero(np.isnan(self.ref_logprobs))
        for rows in np.split(missing, range(2048, len(missing), 2048)) if len(missing) else []:
            logprobs = completion_logprobs(ref_policy, self.batch(rows), self.task.sampling.temperature)
            self.ref_logprobs[rows] = logprobs.double().sum(1).numpy()


def offline_step(learner: Learner, data: PoolData, config: TrainConfig, step: int) -> dict[str, float]:
    """One optimiser step on the pool, counted from 0. The rate warms up, then falls as the schedule says."""
    started = time.perf_counter()
    rows = draw_rows(data, config, config.seed, seeds.OFFLINE, step)
    logprobs, lengths = data.logprobs(learner.policy, rows, learner.accelerator.device)
    loss = _loss(logprobs, rows, data, config) / lengths.double().mean()
    assert config.offline_learning_rate is not None  # filled by `with_defaults`
    rate = offline_factor(config, step) * config.offline_learning_rate
    set_learning_rates(learner, [rate] * len(learner.base_learning_rates))
    try:
        grad_norm = descend(learner, loss.float(), "policy")
    except FloatingPointError as error:
        named = name_prompts(data.task, np.unique(data.prompt_index[rows]).tolist())
        raise FloatingPointError(f"offline step {step + 1} ({named}): {error}") from None
    return {
        "offline_loss": float(loss.detach()),
        "grad_norm": float(grad_norm),
        "seconds_update": time.perf_counter() - started,
    }


def offline_factor(config: TrainConfig, step: int) -> float:
    """What the learning rate of offline step `step`, counted from 0, is multiplied by: up first, then as scheduled."""
    assert config.offline_steps is not None  # filled by `with_defaults`
    return min(1.0, (step + 1) / WARMUP_STEPS) * learning_rate_factor(config.lr_schedule, step, config.offline_steps)


def best_of_n_loss(learner: Learner, data: PoolData, config: TrainConfig) -> PoolLoss:
    """Cross-entropy on as many pool samples as a minibatch has rollouts, drawn ∝ Ŵ: KL(π_bon‖π_θ) up to a constant."""

    def loss(*key: int) -> Tensor:
        rows = draw_best(data, config.minibatch_size, *key, seeds.FORWARD_KL)
        return -data.logprobs(learner.policy, rows, learner.accelerator.device)[0].mean()

    return loss


@torch.no_grad()
def held_out_loss(policy: nn.Module, data: PoolData, config: TrainConfig) -> float:
    """The loss on the same few draws each time, nats a completion or as the loss is: `data` of validation prompts."""
    losses = []
    for draw in range(HELD_OUT_DRAWS):
        rows = draw_rows(data, config, config.seed, seeds.VALIDATION, 2, draw)
        losses.append(_loss(data.logprobs(policy, rows, next(policy.parameters()).device)[0], rows, data, config))
    return float(torch.stack(losses).mean())


def own_objective(
    measured: dict[str, float], policy: nn.Module, data: PoolData, config: TrainConfig
) -> dict[str, float]:
    """What a method that reads the pool maximises, where `measured` has the objective of rollouts on the same prompts.

    algorithm offline: −loss. bond: −β times its Jeffreys divergence, of which the rollouts measure one half.
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


def draw_rows(data: PoolData, config: TrainConfig, *key: int) -> NDArray[np.int64]:
    """Pool rows for one evaluation of the loss, a function of the key.

    weighted-sft: ∝ Ŵ. regression: half ∝ Ŵ, half uniform. sft: the best of sets of N. dpo, bonbon: the best of sets of
    N, then the worst of the same sets. listwise: groups of one prompt.
    """
    size = config.offline_batch_size
    if config.offline_loss == "weighted-sft":
        return draw_best(data, size, *key)
    if config.offline_loss == "regression":
        best = draw_best(data, size // 2, *key, 0)
        return np.concatenate([best, systematic_draw(np.ones_like(data.log_weights), size - len(best), *key, 1)])
    if config.offline_loss == "sft":
        return best_and_worst(data, int(config.n), size, *key)[0]
    if config.offline_loss in PAIRED:
        return np.concatenate(best_and_worst(data, int(config.n), max(1, size // 2), *key))
    return np.concatenate(list(_groups(data, size, config.samples_per_prompt, *key)))


def draw_best(data: PoolData, count: int, *key: int) -> NDArray[np.int64]:
    """Rows ∝ Ŵ: best-of-N as the pool knows it."""
    return systematic_draw(np.exp(data.log_weights), count, *key)


def best_and_worst(data: PoolData, n: int, count: int, *key: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The best and the worst row of `count` sets of N distinct samples of one prompt; prompts take even shares.

    Ties are broken at random; a set of equals yields one row twice, which tells nothing apart. (count,), (count,).
    """
    random = seeds.generator(*key, 1)
    offsets = data.task.pool.offsets
    prompts = systematic_draw(np.ones(len(data.task)), count, *key, 0)
    sets = np.stack([random.choice(np.arange(offsets[p], offsets[p + 1]), n, replace=False) for p in prompts])
    weights, each = data.log_weights[sets], np.arange(count)  # log Ŵ rises with the rank; `choice` shuffles
    return sets[each, weights.argmax(1)], sets[each, weights.argmin(1)]


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
    """The loss of these rows, mean over completions, sets or groups. `logprobs`: log π_θ of each, float64."""
    if config.offline_loss in CROSS_ENTROPIES:  # the rows are drawn by weight
        return offline.weighted_sft(logprobs[None], torch.full_like(logprobs, 1 / len(rows))[None])
    log_ratio = logprobs - torch.from_numpy(data.ref_logprobs[rows]).to(logprobs.device)
    log_weights = torch.from_numpy(data.log_weights[rows]).to(logprobs.device)
    if config.offline_loss == "dpo":
        kl_coef = kl_coef_from_n(config.n) if config.kl_coef is None else config.kl_coef
        best, worst = log_ratio.chunk(2)
        return offline.dpo(best, worst, kl_coef)
    if config.offline_loss == "bonbon":
        best, worst = log_ratio.chunk(2)
        return offline.bonbon(logprobs.chunk(2)[0], best, worst, int(config.n))
    if config.offline_loss == "regression":
        residual = (log_ratio - log_weights).detach()
        bounded = log_ratio - residual + residual.clamp(-MAX_RESIDUAL, MAX_RESIDUAL)
        return offline.regression(bounded, log_weights, 2.0)
    groups = torch.from_numpy(np.unique(data.prompt_index[rows], return_inverse=True)[1])
    parts = [(log_ratio[groups == g], log_weights[groups == g].softmax(0)) for g in range(int(groups.max()) + 1)]
    return torch.stack([offline.listwise(ratio[None], weight[None]) for ratio, weight in parts]).mean()
