"""Sampling that keeps token ids and log-probabilities: one prefill per prompt, expanded to its K completions.

Departs from `transformers.generate`: draws are by inverse CDF from given uniforms, so a completion is a function of
its own row of uniforms and not of the rows beside it; log-probabilities are kept, so training needs no second pass.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vbon.models.batch import Completions, pad_left
from vbon.models.forward import keep_logits, model_inputs

MIN_FINISHED_SHARE = 0.25  # dropping finished rows copies the cache: worth it from a quarter of the rows on


@torch.no_grad()
def generate(
    model: nn.Module,
    prompt_ids: Sequence[Sequence[int]],
    uniforms: Tensor,
    *,
    temperature: float,
    stop_token_ids: Sequence[int],
    pad_token_id: int,
) -> Completions:
    """K completions of each of P prompts; rows of one prompt are adjacent (row = prompt·K + k). Plain sampling at τ.

    Args:
        prompt_ids: P token id lists, each at least one long.
        uniforms: float64 (P, K, T) in [0, 1): T is the largest number of new tokens.
    """
    num_prompts, num_samples, steps = uniforms.shape
    device = next(model.parameters()).device
    uniforms = uniforms.view(num_prompts * num_samples, steps).to(device)
    stop = torch.tensor(list(stop_token_ids), device=device)
    out = _empty(len(uniforms), steps, pad_token_id, device)

    ids, mask = (t.to(device) for t in pad_left(prompt_ids, pad_token_id))
    output = model(input_ids=ids, use_cache=True, **model_inputs(model, mask), **keep_logits(model, 1))
    logits = output.logits[:, -1].repeat_interleave(num_samples, 0)
    mask = mask.repeat_interleave(num_samples, 0)
    cache = output.past_key_values
    if num_samples > 1:
        cache.batch_repeat_interleave(num_samples)

    rows = torch.arange(len(uniforms), device=device)  # rows still in the batch
    active = torch.ones(len(rows), dtype=torch.bool, device=device)
    for t in range(steps):
        tokens, logprobs = draw(logits, uniforms[rows, t], temperature)
        out.ids[rows, t] = torch.where(active, tokens, pad_token_id)
        out.mask[rows, t] = active
        out.logprobs[rows, t] = logprobs * active
        stopped = active & torch.isin(tokens, stop)
        out.finished[rows[stopped]] = True
        active = active & ~stopped
        if t + 1 == steps or not active.any():
            break
        if (~active).float().mean() >= MIN_FINISHED_SHARE:
            kept = active.nonzero()[:, 0]
            cache.batch_select_indices(kept)
            rows, tokens, mask, active = rows[kept], tokens[kept], mask[kept], active[kept]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        output = model(
            input_ids=tokens[:, None], past_key_values=cache, use_cache=True, **model_inputs(model, mask, new_tokens=1)
        )
        logits, cache = output.logits[:, -1], output.past_key_values
    return out


def draw(logits: Tensor, uniforms: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Inverse-CDF draw from softmax(logits/τ) and its log-probability. (B, V), (B,) → int64 (B,), float32 (B,)."""
    logits = logits.float()
    logprobs = torch.log_softmax(logits if temperature == 1.0 else logits / temperature, -1)
    cdf = logprobs.double().exp().cumsum(-1)
    tokens = torch.searchsorted(cdf, (uniforms * cdf[:, -1])[:, None], right=True)[:, 0]
    tokens = tokens.clamp_max(logits.shape[-1] - 1)
    return tokens, logprobs.gather(-1, tokens[:, None])[:, 0]


def _empty(rows: int, steps: int, pad_token_id: int, device: torch.device) -> Completions:
    return Completions(
        ids=torch.full((rows, steps), pad_token_id, device=device),
        mask=torch.zeros(rows, steps, dtype=torch.bool, device=device),
        logprobs=torch.zeros(rows, steps, device=device),
        finished=torch.zeros(rows, dtype=torch.bool, device=device),
    )
