"""Log-probabilities of given completions under a model, at the sampling temperature."""

import torch
from torch import Tensor, nn

from vbon.models.batch import Sequences
from vbon.models.forward import keep_logits, model_inputs


def completion_logits(model: nn.Module, batch: Sequences) -> Tensor:
    """Logits that predict each completion token, (B, T, V), the model's dtype."""
    input_ids, attention_mask = _joined(batch)
    steps = batch.completion_ids.shape[1]
    output = model(
        input_ids=input_ids, use_cache=False, **model_inputs(model, attention_mask), **keep_logits(model, steps + 1)
    )
    return output.logits[:, -steps - 1 : -1]


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


def _joined(batch: Sequences) -> tuple[Tensor, Tensor]:
    """The last token is an input too: models are called on whole rows, so that a value can be read at every state."""
    return (
        torch.cat([batch.prompt_ids, batch.completion_ids], 1),
        torch.cat([batch.prompt_mask, batch.completion_mask], 1),
    )
