"""The rollouts of the last iterations, drawn from in proportion to what is wrong with them.

Where completions recur, what an earlier policy sampled tells as much about the present one. A row is drawn with a
probability that grows with its residual |log π_θ/π_ref − log W| as it was last seen, and its loss is divided by that
probability (prioritised replay, arXiv 1511.05952): rows that fit already take no time, and the gradient has the same
expectation at a smaller variance.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from vbon.core import seeds
from vbon.models.batch import Sequences, pad_left
from vbon.training.rollout import Rollouts
from vbon.training.task import Task

FLOOR = 0.5  # share of the mean residual that every row's priority has beside its own


class RolloutBuffer(nn.Module):
    """Rows of the last rollouts. It is a module so that checkpoints save and fill it as they do the networks.

    Args:
        task: the prompts with their sampling.
        capacity: how many rows are kept.
        samples_per_prompt: how many rows that are adjacent share a prompt.
        max_residual: nats beyond which a residual counts as this.
    """

    def __init__(self, task: Task, capacity: int, samples_per_prompt: int, max_residual: float):
        super().__init__()
        self._task, self._samples_per_prompt, self._max_residual = task, samples_per_prompt, max_residual
        length = task.sampling.max_new_tokens
        self._columns = {
            "prompt_index": torch.zeros(capacity, dtype=torch.int64),
            "completion_ids": torch.zeros(capacity, length, dtype=torch.int64),
            "lengths": torch.zeros(capacity, dtype=torch.int64),
            "old_logprobs": torch.zeros(capacity, length),
            "ref_logprobs": torch.zeros(capacity, length),
            "log_weights": torch.zeros(capacity, dtype=torch.float64),
            "residuals": torch.zeros(capacity, dtype=torch.float64),
            "added": torch.zeros((), dtype=torch.int64),
        }
        for name, column in self._columns.items():
            self.register_buffer(name, column)

    def __len__(self) -> int:
        return min(int(self._columns["added"]), len(self._columns["lengths"]))

    def add(self, rollouts: Rollouts, gather_rows: Callable[[Tensor], Tensor]) -> None:
        """Add the rollouts of all processes, in the order that one process would give them, over the oldest rows.

        Args:
            rollouts: this process's share: with P processes, every P-th prompt of the iteration.
            gather_rows: collects the rows of all processes, one process after the other.
        """
        length = self._columns["completion_ids"].shape[1]
        log_weights = (rollouts.sequence_reward / rollouts.kl_coef).cpu()

        def padded(tensor: Tensor) -> Tensor:
            return nn.functional.pad(tensor.cpu(), (0, length - tensor.shape[1]))

        rows = {
            "prompt_index": rollouts.prompt_index.cpu(),
            "completion_ids": padded(rollouts.sequences.completion_ids),
            "lengths": rollouts.mask.sum(1).cpu(),
            "old_logprobs": padded(rollouts.old_logprobs),
            "ref_logprobs": padded(rollouts.ref_logprobs),
            "log_weights": log_weights,
            "residuals": self._bounded(rollouts.log_ratio().cpu() - log_weights),
        }
        own = len(rows["lengths"]) // self._samples_per_prompt

        def in_order(column: Tensor) -> Tensor:
            gathered = gather_rows(column).cpu()
            by_process = gathered.view(-1, own, self._samples_per_prompt, *gathered.shape[1:])
            return by_process.transpose(0, 1).reshape(gathered.shape)

        rows = {name: in_order(column) for name, column in rows.items()}
        first = int(self._columns["added"])
        places = torch.arange(first, first + len(rows["lengths"])) % len(self._columns["lengths"])
        for name, column in rows.items():
            self._columns[name][places] = column
        self._columns["added"] += len(places)

    def draw(self, count: int, *key: int) -> tuple[Tensor, Tensor]:
        """Draw `count` rows, a function of the key.

        Returns:
            The rows, int64 (count,), and 1/(probability × number of rows) of each, float64 (count,).
        """
        residuals = self._columns["residuals"][: len(self)]
        share = residuals + FLOOR * residuals.mean().clamp_min(1e-12)
        share = share / share.sum()
        rows = torch.from_numpy(seeds.systematic(share, count, float(seeds.uniforms((1,), *key))))
        rows = rows[seeds.permutation(count, *key, 1)]
        return rows, 1 / (len(self) * share[rows])

    def select(self, rows: Tensor) -> tuple[Sequences, dict[str, Tensor]]:
        """Return prompts and completions of these rows, and their columns, cut to the longest completion."""
        columns = {name: column[rows] for name, column in self._columns.items() if name != "added"}
        steps = int(columns["lengths"].max())
        for name in ("completion_ids", "old_logprobs", "ref_logprobs"):
            columns[name] = columns[name][:, :steps]
        prompts = [self._task.prompt_ids[i] for i in columns["prompt_index"].tolist()]
        mask = torch.arange(steps) < columns["lengths"][:, None]
        return Sequences(*pad_left(prompts, self._task.sampling.pad_token_id), columns["completion_ids"], mask), columns

    def update(self, rows: Tensor, residuals: Tensor) -> None:
        """Note the residuals of these rows, times what the present policy is of the one that sampled, at most 1."""
        self._columns["residuals"][rows] = self._bounded(residuals)

    def _bounded(self, residuals: Tensor) -> Tensor:
        return residuals.double().cpu().abs().clamp_max(self._max_residual)
