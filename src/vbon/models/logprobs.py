"""Log-probabilities of given completions under a model, at the sampling temperature."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vbon.models.batch import Sequences
from vbon.models.batch_size import rows_at_a_time
from vbon.models.forward import is_wrapped, per_completion_token
from vbon.models.head import Measure, measured_at_head


def at_completion_tokens(model: nn.Module, batch: Sequences, measure: Measure) -> list[Tensor]:
    """Apply `measure` to the logits and hidden states that predict completion tokens; (B, T, ·) each, differentiable.

    Results are 0 outside the completion mask.
    """

    def forward(ids: Tensor, at: Tensor, token: Tensor) -> Sequence[Tensor]:
        return measured_at_head(model, ids, at, token, measure)

    return per_completion_token(forward, batch, split=not is_wrapped(model))


def completion_logits(model: nn.Module, batch: Sequences) -> Tensor:
    """Compute the logits that predict each completion token, (B, T, V) in the model's dtype; 0 outside the mask."""
    return at_completion_tokens(model, batch, lambda logits, hidden, token: [logits])[0]


def policy_logprobs(model: nn.Module, batch: Sequences, temperature: float) -> Tensor:
    """Compute log π(y_t) of each completion token, float32 (B, T), differentiable; 0 outside the mask.

    Of the logits only what the gradient needs is kept. `temperature` is that of sampling.
    """
    ids = batch.completion_ids.flatten()
    return at_completion_tokens(
        model, batch, lambda logits, hidden, token: [token_logprobs(logits, ids[token], temperature)]
    )[0]


def log_softmax(logits: Tensor, temperature: float) -> Tensor:
    """Compute log π(·) at each position in float32 at temperature τ, by which the logits are divided."""
    logits = logits.float()
    return torch.log_softmax(logits if temperature == 1.0 else logits / temperature, dim=-1)


def token_logprobs(logits: Tensor, ids: Tensor, temperature: float) -> Tensor:
    """Compute log π(y_t) of the given ids, float32: logits (..., V), ids (...) → (...).

    The normalised (..., V) never exists as a whole.
    """
    flat: Tensor = _TokenLogprobs.apply(logits.flatten(0, -2), ids.flatten(), temperature)
    return flat.view(ids.shape)


class _TokenLogprobs(torch.autograd.Function):
    """log softmax(z/τ)[y], whose gradient (1[v = y] − p(v))/τ is recomputed from z and log Σ_v exp(z_v/τ)."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, ids: Tensor, temperature: float) -> Tensor:
        logprobs = [log_softmax(part, temperature).gather(-1, of[:, None])[:, 0] for part, of in _parts(logits, ids)]
        result = torch.cat(logprobs)
        ctx.save_for_backward(logits, ids, result)
        ctx.temperature = temperature
        return result

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        logits, ids, logprobs = ctx.saved_tensors
        result = torch.empty_like(logits)
        for into, part, of, logprob, weight in _parts(result, logits, ids, logprobs, grad / ctx.temperature):
            scaled = part.float() / ctx.temperature if ctx.temperature != 1.0 else part.float()
            log_z = scaled.gather(-1, of[:, None]) - logprob[:, None]
            gradient = (scaled - log_z).exp_().mul_(-weight[:, None])
            into.copy_(gradient.scatter_add_(-1, of[:, None], weight[:, None]))
        return result, None, None


def _parts(logits: Tensor, *others: Tensor) -> Any:
    """Split all tensors by rows into parts of a bounded number of logits."""
    rows = rows_at_a_time("log-softmax", logits.device, logits.shape[-1])
    return zip(*(tensor.split(rows) for tensor in (logits, *others)), strict=True)


@torch.no_grad()
def completion_logprobs(
    model: nn.Module, batch: Sequences, temperature: float, rows_per_batch: int | None = None
) -> Tensor:
    """Compute log π(y_t) of each completion token without gradients, in batches of rows of similar length.

    Args:
        model: a causal language model.
        batch: prompts and completions.
        temperature: sampling temperature τ.
        rows_per_batch: rows that go through the model together; default: as `rows_at_a_time` decides.

    Returns:
        float32 (B, T) on the CPU, in nats; 0 outside the completion mask.
    """
    result = torch.zeros(batch.completion_mask.shape, dtype=torch.float32)
    order = (batch.prompt_mask.sum(1) + batch.completion_mask.sum(1)).argsort()
    device = next(model.parameters()).device
    for rows in order.split(rows_per_batch or rows_at_a_time("log-probabilities", device)):
        logprobs = policy_logprobs(model, batch.select(rows).to(device), temperature)
        result[rows.cpu(), : logprobs.shape[1]] = logprobs.cpu()
    return result
