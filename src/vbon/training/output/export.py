"""The plain model of a run, checked against the policy that was trained."""

import torch
from torch import nn
from transformers import PreTrainedModel

from vbon.config.train import TrainConfig
from vbon.core import seeds
from vbon.errors import VbonError
from vbon.models.batch import sequences
from vbon.models.logprobs import completion_logprobs
from vbon.training.parallel.adapters import merged
from vbon.training.task import Task

COMPARED_ROWS = 8
MOST_GAP, MOST_GAP_ROUNDED = 1e-3, 0.25
"""Nats per token: merged adapters against adapters beside the weights, in float32 and in types of 16 bits."""


def exported(policy: nn.Module, task: Task, config: TrainConfig) -> PreTrainedModel:
    """Return the plain model to save, its adapters merged. Raises VbonError where it is not the trained policy."""
    if config.lora_rank == 0:
        return policy  # type: ignore[return-value]  # nothing is merged
    index = torch.arange(min(COMPARED_ROWS, len(task)))
    uniforms = seeds.uniforms((len(index), 1, task.sampling.max_new_tokens), config.seed, seeds.VALIDATION)
    draws = task.draw(policy, index, uniforms)
    rows = sequences([task.prompt_ids[i] for i in index], draws.rows(), task.sampling.pad_token_id)
    measured = completion_logprobs(policy, rows, task.sampling.temperature)
    plain: PreTrainedModel = merged(policy)
    gap = float((completion_logprobs(plain, rows, task.sampling.temperature) - measured).abs().max())
    if not gap <= (MOST_GAP if next(plain.parameters()).dtype == torch.float32 else MOST_GAP_ROUNDED):
        raise VbonError(
            f"{config.out}: the model to export differs from the trained policy by {gap:.2g} nats per token and is not "
            "written; the policy itself is in its checkpoints"
        )
    return plain
