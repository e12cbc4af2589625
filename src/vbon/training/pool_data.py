"""The pool's completions as training rows: token ids, log π_ref and a log-weight of each, and draws by weight."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vbon.config.train import TrainConfig
from vbon.core import seeds
from vbon.core.rank_tilts import Target, log_weight
from vbon.errors import VbonError
from vbon.models.batch import Sequences, sequences
from vbon.models.batch_size import rows_at_a_time
from vbon.models.logprobs import completion_logprobs, policy_logprobs
from vbon.pool.ref_logprobs import checked_ref_logprobs
from vbon.training.task import Task, objective_of


def pool_log_weights(task: Task, n: Target) -> NDArray[np.float64]:
    """Compute log Ŵ of every pool completion among the others of its pool, float64 (ΣM,)."""
    interval = task.cdf.pool_interval()
    return log_weight(interval.cdf_lt, interval.cdf_le, n)


def tilt_log_weights(task: Task, config: TrainConfig) -> NDArray[np.float64]:
    """Compute the log-weights of the configured objective's optimum π_ref·exp(ρ/β)/Z, of mean weight 1 over each pool.

    float64 (ΣM,). With `vbon` these are the log Ŵ.
    """
    signal = objective_of(config)(task.pool.rewards, task.cdf.pool_interval())
    pools = task.pool.per_prompt(signal.sequence_reward / signal.kl_coef)
    return np.concatenate([one - np.logaddexp.reduce(one) + np.log(len(one)) for one in pools])


class PoolData:
    """The pool's completions as training rows, with log π_ref and a log-weight of each.

    Args:
        task: the prompts with their pool.
        n: the N of the log-weights log Ŵ_N, or another rank tilt.
        log_weights: other log-weights, float64 (ΣM,).

    Raises:
        VbonError: the pool holds no token ids.
    """

    def __init__(self, task: Task, n: Target, log_weights: NDArray[np.float64] | None = None):
        if not task.pool.has_completion_ids:
            raise VbonError(f"{task.pool.path}: holds no token ids, which offline training needs; use --algorithm rloo")
        self.task = task
        self.completion_ids: list[list[int]] = list(task.pool.completion_ids)
        self.prompt_index = task.pool.prompt_index
        self.log_weights = pool_log_weights(task, n) if log_weights is None else log_weights
        self.ref_logprobs = task.pool.ref_logprobs.copy()
        sizes = task.pool.num_samples
        self.row_weights: NDArray[np.float64] = (sizes.mean() / sizes)[self.prompt_index]
        """Weights of the rows under which prompts weigh alike, (ΣM,); all 1 where prompts have equally many samples."""

    def batch(self, rows: NDArray[np.int64]) -> Sequences:
        """Collect prompts and completions of these rows, padded."""
        prompts = [self.task.prompt_ids[i] for i in self.prompt_index[rows]]
        return sequences(prompts, [self.completion_ids[i] for i in rows], self.task.sampling.pad_token_id)

    def completion_lengths(self, rows: NDArray[np.int64]) -> Tensor:
        """Count the tokens of these rows' completions, int64 (B,)."""
        return torch.tensor([len(self.completion_ids[i]) for i in rows])

    def lengths(self, rows: NDArray[np.int64]) -> Tensor:
        """Count the tokens of these rows, prompt and completion, int64 (B,)."""
        prompts = [len(self.task.prompt_ids[i]) for i in self.prompt_index[rows]]
        return torch.tensor(prompts) + self.completion_lengths(rows)

    def logprobs(self, policy: nn.Module, rows: NDArray[np.int64], device: torch.device) -> Tensor:
        """Compute log π_θ of these rows, float64 (B,), differentiable."""
        token = policy_logprobs(policy, self.batch(rows).to(device), self.task.sampling.temperature)
        return token.sum(1, dtype=torch.float64)

    def fill_ref_logprobs(self, ref_policy: nn.Module) -> None:
        """Compute the reference log-probabilities that the pool does not know, or that are another model's."""
        count = rows_at_a_time("pool", next(ref_policy.parameters()).device)

        def compute(wanted: NDArray[np.int64]) -> NDArray[np.float64]:
            parts = [self.batch(wanted[start : start + count]) for start in range(0, len(wanted), count)]
            logprobs = [completion_logprobs(ref_policy, part, self.task.sampling.temperature) for part in parts]
            return np.concatenate([part.double().sum(1).numpy() for part in logprobs])

        self.ref_logprobs = checked_ref_logprobs(self.ref_logprobs, self._lengths, compute, self.task.pool.path)

    def _lengths(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.array([len(self.completion_ids[row]) for row in rows])


def systematic_draw(weights: NDArray[np.float64], count: int, *key: int) -> NDArray[np.int64]:
    """Draw `count` rows with expected multiplicity ∝ weight, evenly spread over the prompts of the pool."""
    return seeds.systematic(weights, count, seeds.generator(*key).random())
