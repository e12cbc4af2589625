"""Micro-batches: the rows of one optimizer step in parts whose activations fit; their gradients add up to the whole's.

Every loss is a mean over rows or over groups of rows, so the share of a part in the rows or groups is its weight. What
a loss takes over the whole minibatch (the scale of whitened advantages) is computed before.
"""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from vbon.models.batch_size import rows_at_a_time
from vbon.models.out_of_memory import halved_once
from vbon.training.parallel.learner import Learner

Result = TypeVar("Result")


def accumulate(
    learner: Learner, lengths: Tensor, backward: Callable[[Tensor], Result], groups: Tensor | None = None
) -> list[Result]:
    """Replace all gradients by the sum of those of the micro-batches.

    Args:
        learner: the networks and their optimizer.
        lengths: tokens of each row of the minibatch, int64 (B,).
        backward: adds the gradients of the given rows, int64, each call one micro-batch.
        groups: which rows stay together, as for `micro_batches`.

    Returns:
        What `backward` returned for each micro-batch.
    """

    def attempt() -> list[Result]:
        learner.optimizer.zero_grad()
        return [backward(rows) for rows in micro_batches(learner, lengths, groups)]

    return halved_once("training", attempt, "--gradient-checkpointing, --lora-rank or a smaller model")


def micro_batches(learner: Learner, lengths: Tensor, groups: Tensor | None = None) -> list[Tensor]:
    """Split a minibatch: groups of similar length go together, as many as `rows_at_a_time` lets train at a time.

    Args:
        learner: its networks say how many bytes a token takes; all processes get equally many micro-batches.
        lengths: tokens of each row of the minibatch, int64 (B,).
        groups: int64 (B,), numbers from 0 on; rows of one number stay together. Default: each row by itself.

    Returns:
        The rows of each micro-batch, int64, in ascending order.
    """
    lengths = lengths.cpu()
    groups = torch.arange(len(lengths)) if groups is None else groups
    sizes = groups.bincount().tolist()
    longest = torch.zeros(len(sizes), dtype=lengths.dtype).scatter_reduce(0, groups, lengths, "amax").tolist()
    parts: list[list[int]] = []
    room, device = 0, learner.accelerator.device
    for group in sorted(range(len(sizes)), key=lambda one: -longest[one]):
        if not parts or sizes[group] > room:
            parts.append([])
            room = rows_at_a_time("training", device, learner.bytes_per_token * longest[group])
        parts[-1].append(group)
        room -= sizes[group]
    count = int(learner.gather_rows(torch.tensor([len(parts)])).max())
    while len(parts) < count:
        halved = parts.pop(max(range(len(parts)), key=lambda one: len(parts[one])))
        parts += [halved[: len(halved) // 2], halved[len(halved) // 2 :]]
    return [torch.isin(groups, torch.tensor(part)).nonzero()[:, 0] for part in parts]
