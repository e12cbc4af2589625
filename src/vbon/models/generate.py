"""Sampling that keeps token ids and log-probabilities: one prefill for each prompt, expanded to its K completions.

This departs from `transformers.generate`: tokens are drawn by inverse CDF from given uniforms, so a completion is a
function of its own row of uniforms and not of the other rows. Log-probabilities are kept, so training needs no second
pass for them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vbon.models.batch import Completions
from vbon.models.batch_size import rows_that_fit
from vbon.models.decode import Decoder, decoders
from vbon.models.out_of_memory import halved_once
from vbon.models.value_head import values_of

MIN_FINISHED_SHARE = 0.25  # dropping finished rows copies the cache: worth it from a quarter of the rows on


class NonFiniteLogits(FloatingPointError):
    """Logits of NaN or +∞, from which nothing can be drawn; −∞ is a probability of 0.

    Args:
        prompt: position of the prompt among those given.
        dtype: of the logits.
    """

    def __init__(self, prompt: int, dtype: torch.dtype, where: str = ""):
        self.prompt, self.dtype = prompt, dtype
        precision = str(dtype).removeprefix("torch.")
        help_ = "the checkpoint is damaged" if dtype == torch.float32 else "--dtype float32 may help"
        where = where or str(prompt)
        super().__init__(f"the model gives logits of NaN or infinity in {precision} for prompt {where}; {help_}")


@dataclass(frozen=True)
class Sampling:
    """Settings by which completions are drawn; they define the distribution that is trained."""

    temperature: float
    max_new_tokens: int
    stop_token_ids: tuple[int, ...]
    pad_token_id: int


@torch.no_grad()
def generate(
    model: nn.Module,
    prompt_ids: Sequence[Sequence[int]],
    uniforms: Tensor,
    *,
    temperature: float,
    stop_token_ids: Sequence[int],
    pad_token_id: int,
    value_head: nn.Module | None = None,
) -> Completions:
    """Draw K completions of each of P prompts at temperature τ, without top-k or top-p.

    Completions of one prompt are adjacent: row = prompt·K + k.

    Args:
        model: a causal language model.
        prompt_ids: P lists of token ids, each of at least one.
        uniforms: float64 (P, K, T) in [0, 1); T is the largest number of new tokens.
        temperature: τ.
        stop_token_ids: token ids that end a completion.
        pad_token_id: token id that fills the rows after their end.
        value_head: a head on the model's hidden states, whose value before each token is kept too.

    Returns:
        P·K completions.

    Raises:
        NonFiniteLogits: the model gives logits of NaN or +∞.
    """
    num_samples, steps = uniforms.shape[1:]
    device = next(model.parameters()).device
    uniforms = uniforms.to(device)
    stop = torch.tensor(list(stop_token_ids), dtype=torch.int64, device=device)
    out = _empty(len(prompt_ids) * num_samples, steps, pad_token_id, device, with_values=value_head is not None)
    rows = torch.arange(len(out.ids), device=device).view(-1, num_samples)
    for prompts, decoder in decoders(model, prompt_ids, num_samples, room=steps - 1):
        _fill(out, decoder, rows[prompts].flatten(), uniforms[prompts].flatten(0, 1), temperature, stop, value_head)
    # One NaN or +∞ among a row's logits makes all of its probabilities NaN, that of the draw too.
    lost = (~torch.isfinite(out.logprobs)).any(1).nonzero()
    if len(lost):
        raise NonFiniteLogits(int(lost[0, 0]) // num_samples, next(model.parameters()).dtype)
    return out


def generate_in_chunks(
    model: nn.Module,
    prompt_ids: Sequence[Sequence[int]],
    uniforms: Tensor,
    sampling: Sampling,
    value_head: nn.Module | None = None,
) -> Completions:
    """Draw as `generate` does, as many rows at a time as memory holds beside training; the draws are the same.

    Args:
        model: a causal language model.
        prompt_ids: P lists of token ids.
        uniforms: float64 (P, K, T) in [0, 1).
        sampling: temperature, stop tokens and padding.
        value_head: as in `generate`.

    Returns:
        P·K completions, in the order of `generate`.

    Raises:
        NonFiniteLogits: the model gives logits of NaN or +∞.
        VbonError: memory runs out with half as many rows, too.
    """
    longest = max(map(len, prompt_ids)) + uniforms.shape[2]

    def part(prompts: slice, samples: slice) -> Completions:
        try:
            return generate(
                model,
                prompt_ids[prompts],
                uniforms[prompts, samples],
                temperature=sampling.temperature,
                stop_token_ids=sampling.stop_token_ids,
                pad_token_id=sampling.pad_token_id,
                value_head=value_head,
            )
        except NonFiniteLogits as error:
            raise NonFiniteLogits(prompts.start + error.prompt, error.dtype) from None

    def attempt() -> list[Completions]:
        rows = rows_that_fit(model, longest, "rollouts")
        prompts, samples = max(1, rows // uniforms.shape[1]), min(rows, uniforms.shape[1])
        return [
            part(slice(prompt, prompt + prompts), slice(sample, sample + samples))
            for prompt in range(0, len(prompt_ids), prompts)
            for sample in range(0, uniforms.shape[1], samples)
        ]

    parts = halved_once("rollouts", attempt, "--max-new-tokens or a smaller model")
    columns: Any = zip(*parts, strict=True)
    joined: list[Any] = [None if column[0] is None else torch.cat(column) for column in columns]
    return Completions(*joined)


def draw(logits: Tensor, uniforms: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Draw from softmax(logits/τ) by inverse CDF, and compute the log-probability of the draw.

    `logits` is (B, V) and `uniforms` (B,); the results are int64 (B,) and float32 (B,).
    """
    logits = logits.float()
    logprobs = torch.log_softmax(logits if temperature == 1.0 else logits / temperature, -1)
    cdf = logprobs.double().exp_().cumsum(-1)
    # u < 1 keeps u·total below the total, so no token of probability 0 is drawn. The clamp is for logits of NaN, whose
    # draw has no finite probability either.
    tokens = torch.searchsorted(cdf, (uniforms * cdf[:, -1])[:, None], right=True).clamp_max(cdf.shape[-1] - 1)
    return tokens[:, 0], logprobs.gather(-1, tokens)[:, 0]


def _fill(
    out: Completions,
    decoder: Decoder,
    rows: Tensor,
    uniforms: Tensor,
    temperature: float,
    stop: Tensor,
    value_head: nn.Module | None,
) -> None:
    """Sample the given rows of `out`, whose empty positions hold padding."""
    steps = uniforms.shape[1]
    active = torch.ones_like(rows, dtype=torch.bool)
    for t in range(steps):
        tokens, logprobs = draw(decoder.logits, uniforms[:, t], temperature)
        out.ids[rows, t] = torch.where(active, tokens, out.ids[rows, t])
        out.mask[rows, t] = active
        out.logprobs[rows, t] = torch.where(active, logprobs, 0.0)
        if out.values is not None and value_head is not None:
            out.values[rows, t] = values_of(value_head, decoder.hidden) * active
        stopped = active & torch.isin(tokens, stop)
        out.finished[rows[stopped]] = True
        active = active & ~stopped
        num_active = int(active.sum())
        if t + 1 == steps or num_active == 0:
            return
        if num_active <= (1 - MIN_FINISHED_SHARE) * len(rows):
            kept = active.nonzero()[:, 0]
            decoder.keep(kept)
            rows, tokens, active, uniforms = rows[kept], tokens[kept], active[kept], uniforms[kept]
        decoder.step(tokens)


def _empty(rows: int, steps: int, pad_token_id: int, device: torch.device, *, with_values: bool) -> Completions:
    return Completions(
        ids=torch.full((rows, steps), pad_token_id, device=device),
        mask=torch.zeros(rows, steps, dtype=torch.bool, device=device),
        logprobs=torch.zeros(rows, steps, device=device),
        finished=torch.zeros(rows, dtype=torch.bool, device=device),
        values=torch.zeros(rows, steps, device=device) if with_values else None,
    )
