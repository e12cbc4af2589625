"""Measures of the logits at chosen positions; those of a large vocabulary are never held for all positions at once.

In training the chunks are checkpointed: the backward pass computes the logits of each chunk again.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.utils.checkpoint import checkpoint
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from vbon.models.batch_size import rows_at_a_time
from vbon.models.forward import architecture, head_input, head_outputs, unwrapped

Measure = Callable[[Tensor, Tensor, Tensor], Sequence[Tensor]]
"""(logits (N, V), hidden (N, H), token int64 (N,)) → tensors (N, ·); `token`: flat places of N tokens in (B, T)."""


def measured_at_head(model: nn.Module, ids: Tensor, at: Tensor, token: Tensor, measure: Measure) -> list[Tensor]:
    """Apply `measure` to the logits at flat positions `at` of ids (R, S), in chunks where these are too many.

    Args:
        model: a causal language model. One in shards has its head's weights only inside its own forward pass, so its
            logits are computed at once.
        ids: token ids, int64 (R, S).
        at: N positions in the flattened ids.
        token: passed to `measure`, int64 (N,).
        measure: works on each position by itself.

    Returns:
        The results of `measure`, (N, ·) each, differentiable.
    """
    rows = rows_at_a_time("log-softmax", ids.device, unwrapped(model).config.get_text_config().vocab_size)
    if len(at) <= rows or any(isinstance(module, FSDPModule) for module in model.modules()):
        return list(measure(*head_outputs(model, ids, at), token))
    hidden = _hidden(model, ids, at)

    def chunk(states: Tensor, tokens: Tensor) -> Sequence[Tensor]:
        return measure(logits_of(model, states), states, tokens)

    pieces = zip(hidden.split(rows), token.split(rows), strict=True)
    if torch.is_grad_enabled():
        parts = [checkpoint(chunk, *piece, use_reentrant=False, preserve_rng_state=False) for piece in pieces]
    else:
        parts = [chunk(*piece) for piece in pieces]
    return [torch.cat(found) for found in zip(*parts, strict=True)]


def _hidden(model: nn.Module, ids: Tensor, at: Tensor) -> Tensor:
    """Compute the input of the output head at flat positions, (N, H), and no logits."""
    found: list[Tensor] = []

    def keep(states: Tensor) -> Tensor:
        found.append(states.flatten(0, 1).index_select(0, at))
        return states[:1, :0]

    with head_input(model, keep):
        model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    return found[0]


def logits_of(model: nn.Module, hidden: Tensor) -> Tensor:
    """Compute logits (N, V) from the input (N, H) of the output head, and what the architecture does to them then."""
    inner = unwrapped(model)
    with _without_trunk(architecture(inner).base_model, hidden), head_input(inner, lambda _: hidden[None]):
        logits: Tensor = inner(
            input_ids=torch.zeros(1, 1, dtype=torch.int64, device=hidden.device), use_cache=False
        ).logits
    return logits[0]


@contextlib.contextmanager
def _without_trunk(trunk: Any, hidden: Tensor) -> Iterator[None]:
    """Let the layers below the head do nothing inside the context."""
    nothing = BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=hidden[None, :1])
    own = trunk.__dict__.get("forward")
    trunk.forward = lambda *_, **__: nothing
    try:
        yield
    finally:
        del trunk.forward
        if own is not None:
            trunk.forward = own
