"""Log-ratios, exact per-token KL and entropy of given completions under a policy and the reference."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vbon.core import kl
from vbon.models.batch import Sequences, sequences
from vbon.models.batch_size import rows_at_a_time
from vbon.models.logprobs import completion_logits, completion_logprobs, log_softmax

Float = NDArray[np.float64]


class Divergence(NamedTuple):
    """Sequence-level sums over the completion's tokens, stop token included; float64 (B,), nats."""

    log_ratio: Float
    """Σ_t log π_θ(y_t) − log π_ref(y_t): k1."""
    kl: Float
    """Σ_t KL(π_θ(·|y_<t)‖π_ref(·|y_<t)), exact over the vocabulary."""
    entropy: Float
    """Σ_t entropy of π_θ(·|y_<t)."""


def divergence(
    policy: nn.Module,
    ref_policy: nn.Module,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    *,
    temperature: float,
    pad_token_id: int,
) -> Divergence:
    """Row i is prompt i and completion i, both token ids. Rows go through in chunks that bound the logits in memory."""
    batch = sequences(prompts, completions, pad_token_id)
    sums = torch.zeros(3, len(completions), dtype=torch.float64)
    for rows in _chunks(batch, ref_policy):
        sums[:, rows] = _sums(policy, ref_policy, batch.select(rows), temperature)
    return Divergence(*sums.numpy())


def sequence_logprobs(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    *,
    temperature: float,
    pad_token_id: int,
) -> Float:
    """log π(y) of each completion at temperature τ, summed in float64. Shape (B,), nats."""
    batch = sequences(prompts, completions, pad_token_id)
    per_chunk = _rows_per_chunk(batch, model)
    return np.asarray(completion_logprobs(model, batch, temperature, per_chunk).double().sum(1).numpy())


@torch.no_grad()
def _sums(policy: nn.Module, ref_policy: nn.Module, batch: Sequences, temperature: float) -> Tensor:
    batch = batch.to(next(policy.parameters()).device)
    log_p = log_softmax(completion_logits(policy, batch), temperature)
    log_q = log_p if policy is ref_policy else log_softmax(completion_logits(ref_policy, batch), temperature)
    tokens = batch.completion_ids[..., None]
    log_ratio = kl.k1(log_p.gather(-1, tokens), log_q.gather(-1, tokens))[..., 0]
    per_token = torch.stack([log_ratio, kl.full_vocabulary_kl(log_p, log_q), kl.entropy(log_p)])
    return (per_token.cpu().double() * batch.completion_mask.cpu()).sum(-1)


def _chunks(batch: Sequences, model: nn.Module) -> Iterator[Tensor]:
    """Rows of like length together."""
    order = (batch.prompt_mask.sum(1) + batch.completion_mask.sum(1)).argsort(stable=True)
    yield from order.split(_rows_per_chunk(batch, model))


def _rows_per_chunk(batch: Sequences, model: nn.Module) -> int:
    device = next(model.parameters()).device
    return rows_at_a_time("divergence", device, batch.completion_ids.shape[1] * _vocabulary_size(model))


def _vocabulary_size(model: nn.Module) -> int:
    return int(model.config.get_text_config().vocab_size)  # type: ignore[operator, union-attr]
