"""Log-probabilities of given completions under a model, at the sampling temperature."""

import torch
from torch import Tensor, nn

from vbon.models.batch import Sequences
from vbon.models.forward import is_wrapped, keep_logits, per_completion_token


def completion_logits(model: nn.Module, batch: Sequences) -> Tensor:
    """Logits that predict each completion token, (B, T, V), the model's dtype; arbitrary outside the mask."""

    def forward(ids: Tensor, first: int) -> Tensor:
        kept = ids.shape[1] - first
        output = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, **keep_logits(model, kept))
        return output.logits[:, -kept:]

    return per_completion_token(forward, batch, split=not is_wrapped(model))


def log_softmax(logits: Tensor, temperature: float) -> Tensor:
    """log π(·) at each position, float32, at temperature τ: the logits are divided by τ."""
    logits = logits.float()
    return torch.log_softmax(logits if temperature == 1.0 else logits / temperature, dim=-1)


def token_logprobs(logits: Tensor, ids: Tensor, temperature: float) -> Tensor:
    """log π(y_t) of the given ids, float32: (B, T, V), (B, T) → (B, T). Never holds the normalised (B, T, V)."""
    logits = logits.float()
    logits = logits if temperature == 1.0 else logits / temperature
    return logits.gather(-1, ids[..., None])[..., 0] - logits.logsumexp(-1)


@torch.no_grad()
def completion_logprobs(model: nn.Module, batch: Sequences, temperature: float, rows_per_batch: int = 64) -> Tensor:
    """log π(y_t), float32 (B, T), 0 outside the mask; rows go through the model by length."""
    result = torch.zeros(batch.completion_mask.shape, dtype=torch.float32)
    order = (batch.prompt_mask.sum(1) + batch.completion_mask.sum(1)).argsort()
    device = next(model.parameters()).device
    for rows in order.split(rows_per_batch):
        part = batch.select(rows).to(device)
        logprobs = token_logprobs(completion_logits(model, part), part.completion_ids, temperature)
        result[rows, : logprobs.shape[1]] = (logprobs * part.completion_mask).cpu()
    return result
