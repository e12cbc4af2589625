"""The offline methods: for each, the pool rows that it draws and the loss that it takes on them.

A new method is an entry of `OFFLINE_METHODS`, its three functions, a name in `config.train.OfflineLoss` and a test.
Completions are drawn from the pool by weight instead of carrying it: a minibatch drawn ∝ Ŵ has the expectation of the
all-sample loss Σ_i Ŵ_i·ℓ(y_i)/M at the cost of its useful rows alone.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vbon.config.train import TrainConfig
from vbon.core import offline, seeds
from vbon.core.best_of_n import kl_coef_from_n
from vbon.core.path_consistency import with_bounded_residual
from vbon.training.pool_data import PoolData, systematic_draw

Rows = NDArray[np.int64]
FIRST_DRAW, SECOND_DRAW = 0, 1  # the last part of a key, where one batch takes two draws
MAX_RESIDUAL = 10.0  # nats


@dataclass(frozen=True)
class PolicyRows:
    """Drawn pool rows with log π_θ of each, float64 (B,); the other columns follow from the pool."""

    data: PoolData
    rows: Rows
    logprobs: Tensor

    @property
    def log_ratio(self) -> Tensor:
        """log π_θ/π_ref, float64 (B,)."""
        return self.logprobs - torch.from_numpy(self.data.ref_logprobs[self.rows]).to(self.logprobs.device)

    @property
    def log_weights(self) -> Tensor:
        """log Ŵ, float64 (B,)."""
        return torch.from_numpy(self.data.log_weights[self.rows]).to(self.logprobs.device)


@dataclass(frozen=True)
class OfflineMethod:
    """The draw of a method, a function of its key, and its loss on the drawn rows."""

    draw: Callable[..., Rows]
    """(data, config, *key) → int64 rows."""
    loss: Callable[[PolicyRows, TrainConfig], Tensor]
    """The mean over completions, sets or groups."""
    groups: Callable[[PoolData, Rows], Tensor]
    """(data, rows) → for each row the number of its completion, set or group, int64 (B,)."""
    uses_reference: bool = True
    """Whether the loss needs log π_ref of the rows."""


# Draws ---------------------------------------------------------------------------------------------------------------


def draw_by_weight(data: PoolData, config: TrainConfig, *key: int) -> Rows:
    """Rows ∝ Ŵ."""
    return draw_best(data, config.offline_batch_size, *key)


def draw_half_by_weight(data: PoolData, config: TrainConfig, *key: int) -> Rows:
    """One half ∝ Ŵ, the other uniform."""
    best = draw_best(data, config.offline_batch_size // 2, *key, FIRST_DRAW)
    rest = config.offline_batch_size - len(best)
    return np.concatenate([best, systematic_draw(data.row_weights, rest, *key, SECOND_DRAW)])


def draw_best_of_sets(data: PoolData, config: TrainConfig, *key: int) -> Rows:
    """The best row of each set of N."""
    return best_and_worst(data, int(config.n), config.offline_batch_size, *key)[0]


def draw_pairs(data: PoolData, config: TrainConfig, *key: int) -> Rows:
    """The best rows of sets of N, then the worst rows of the same sets."""
    return np.concatenate(best_and_worst(data, int(config.n), max(1, config.offline_batch_size // 2), *key))


def draw_groups(data: PoolData, config: TrainConfig, *key: int) -> Rows:
    """Groups of `samples_per_prompt` distinct rows of one prompt each."""
    random = seeds.generator(*key)
    offsets, groups = data.task.pool.offsets, []
    for prompt in random.choice(len(data.task), max(1, config.offline_batch_size // config.samples_per_prompt)):
        rows = np.arange(offsets[prompt], offsets[prompt + 1])
        groups.append(random.choice(rows, min(config.samples_per_prompt, len(rows)), replace=False))
    return np.concatenate(groups)


def draw_best(data: PoolData, count: int, *key: int) -> Rows:
    """Rows ∝ Ŵ/M: best-of-N as the pool knows it, prompts in even shares."""
    return systematic_draw(data.row_weights * np.exp(data.log_weights), count, *key)


def best_and_worst(data: PoolData, n: int, count: int, *key: int) -> tuple[Rows, Rows]:
    """The best and the worst row of `count` sets of N distinct samples of one prompt; prompts take even shares.

    Ties are broken at random; a set of equals yields one row twice, which tells nothing apart. (count,), (count,).
    """
    random = seeds.generator(*key, SECOND_DRAW)
    offsets = data.task.pool.offsets
    prompts = systematic_draw(np.ones(len(data.task)), count, *key, FIRST_DRAW)
    sets = np.stack([random.choice(np.arange(offsets[p], offsets[p + 1]), n, replace=False) for p in prompts])
    weights, each = data.log_weights[sets], np.arange(count)  # log Ŵ rises with the rank; `choice` shuffles
    return sets[each, weights.argmax(1)], sets[each, weights.argmin(1)]


# Groups of the rows that the loss takes together ---------------------------------------------------------------------


def single(data: PoolData, rows: Rows) -> Tensor:
    """Each row by itself."""
    return torch.arange(len(rows))


def pairs(data: PoolData, rows: Rows) -> Tensor:
    """The best row of a set with the worst one."""
    return torch.arange(len(rows)) % (len(rows) // 2)


def by_prompt(data: PoolData, rows: Rows) -> Tensor:
    """All rows of a prompt."""
    return torch.from_numpy(np.unique(data.prompt_index[rows], return_inverse=True)[1])


# Losses --------------------------------------------------------------------------------------------------------------


def cross_entropy(drawn: PolicyRows, config: TrainConfig) -> Tensor:
    """−log π_θ; the rows are drawn by weight, so that they carry none."""
    share = torch.full_like(drawn.logprobs, 1 / len(drawn.rows))
    return offline.weighted_sft(drawn.logprobs[None], share[None])


def regression(drawn: PolicyRows, config: TrainConfig) -> Tensor:
    """Squared distance of log π_θ/π_ref to log Ŵ, whose gradient is bounded as if it were at most `MAX_RESIDUAL`."""
    log_ratio, log_weights = drawn.log_ratio, drawn.log_weights
    bounded = with_bounded_residual(log_ratio, log_ratio - log_weights, MAX_RESIDUAL)
    return offline.regression(bounded, log_weights, 2.0)


def listwise(drawn: PolicyRows, config: TrainConfig) -> Tensor:
    """Cross-entropy of the policy's shares of each group with those of Ŵ."""
    log_ratio, log_weights = drawn.log_ratio, drawn.log_weights
    groups = by_prompt(drawn.data, drawn.rows)
    parts = [(log_ratio[groups == g], log_weights[groups == g].softmax(0)) for g in range(int(groups.max()) + 1)]
    return torch.stack([offline.listwise(ratio[None], weight[None]) for ratio, weight in parts]).mean()


def dpo(drawn: PolicyRows, config: TrainConfig) -> Tensor:
    """DPO on pairs of best and worst; β as configured, or 1/(N−1)."""
    best, worst = drawn.log_ratio.chunk(2)
    return offline.dpo(best, worst, kl_coef_from_n(config.n) if config.kl_coef is None else config.kl_coef)


def bonbon(drawn: PolicyRows, config: TrainConfig) -> Tensor:
    """BoNBoN on pairs of best and worst."""
    best, worst = drawn.log_ratio.chunk(2)
    return offline.bonbon(drawn.logprobs.chunk(2)[0], best, worst, int(config.n))


OFFLINE_METHODS: dict[str, OfflineMethod] = {
    "weighted-sft": OfflineMethod(draw_by_weight, cross_entropy, single, uses_reference=False),
    "sft": OfflineMethod(draw_best_of_sets, cross_entropy, single, uses_reference=False),
    "regression": OfflineMethod(draw_half_by_weight, regression, single),
    "listwise": OfflineMethod(draw_groups, listwise, by_prompt),
    "dpo": OfflineMethod(draw_pairs, dpo, pairs),
    "bonbon": OfflineMethod(draw_pairs, bonbon, pairs),
}
"""The values of `--offline-loss`."""
