"""The only place where vbon calls a Hugging Face causal language model, whatever its architecture."""

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from vbon.errors import VbonError
from vbon.models.batch import Sequences
from vbon.models.batch_size import rows_at_a_time
from vbon.models.dial import Dial

Forward = Callable[[Tensor, Tensor, Tensor], Sequence[Tensor]]


def per_completion_token(forward: Forward, batch: Sequences, *, split: bool = True) -> list[Tensor]:
    """Apply `forward` at the positions that predict completion tokens, and arrange its results as (B, T, ·).

    Rows are padded on their right end only, where no real token sees the padding, so neither an attention mask nor
    position ids are needed. Results are 0 outside the completion mask.

    Args:
        forward: (ids (R, S), at int64 (N,), token int64 (N,)) → tensors (N, ·). The N completion tokens of these rows:
            `at` is the flat position in (R, S) that predicts each, `token` its flat position in (B, T).
        batch: the prompts and completions.
        split: True if rows of different length may go through the model in separate calls.

    Returns:
        One tensor (B, T, ·) for each tensor that `forward` returns.
    """
    calls, places = [], []
    for rows in _chunks(batch) if split else [torch.arange(len(batch.prompt_ids))]:
        ids, firsts = batch.select(rows).without_gaps()
        at, token = _tokens(rows.to(ids.device), firsts, batch.completion_mask, ids.shape[1])
        calls.append(forward(ids, at, token))
        places.append(token)
    place = torch.cat(places)
    return [_put(torch.cat(measured), place, batch.completion_ids.shape) for measured in zip(*calls, strict=True)]


def head_outputs(model: nn.Module, ids: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
    """Compute logits (N, V) and hidden states (N, H) at flat positions `at` of ids (R, S).

    These are the output and the input of the model's output head; of a `Dial`, the mixed logits.
    """
    if isinstance(model, Dial):
        logits, hidden = head_outputs(model.policy, ids, at)
        return model.mix(head_outputs(model.ref_policy, ids, at)[0], logits), hidden
    with head_input(model, lambda hidden: hidden.flatten(0, 1).index_select(0, at)[None]) as kept:
        output: Tensor = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
    return output[0], kept[0][0]


@contextlib.contextmanager
def head_input(model: nn.Module, keep: Callable[[Tensor], Tensor]) -> Iterator[list[Tensor]]:
    """Restrict the model's output head, inside the context, to the hidden states that `keep` selects from (R, S, H).

    The list that the context gives receives these states. No other logits are computed, and what an architecture does
    to its logits afterwards (soft caps, scales) still applies.

    Raises:
        VbonError: the model has no output head of its own.
    """
    head = unwrapped(model).get_output_embeddings()
    if head is None:
        raise VbonError(f"{type(unwrapped(model)).__name__} has no output head (get_output_embeddings)")
    kept: list[Tensor] = []

    def select(_: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        kept.append(keep(args[0]))
        return (kept[-1],)

    handle = head.register_forward_pre_hook(select)
    try:
        yield kept
    finally:
        handle.remove()


def takes(model: nn.Module, argument: str) -> bool:
    """Return True if the forward method of the model's architecture has this argument."""
    model_class: Any = type(architecture(unwrapped(model)))
    return argument in _parameters(model_class)


def architecture(model: Any) -> Any:
    """Return the model of transformers inside peft's, or the model itself."""
    base = getattr(model, "get_base_model", None)
    return model if base is None else base()


def unwrapped(model: Any) -> Any:
    """Return the model inside DistributedDataParallel and its kin."""
    while hasattr(model, "module"):
        model = model.module
    return model


def is_wrapped(model: nn.Module) -> bool:
    """Return True if the model is inside DistributedDataParallel or sharded.

    All processes must then call it equally often.
    """
    if hasattr(model, "module"):
        return True
    if not torch.distributed.is_initialized():  # asked before every call: alone there is nothing to look for
        return False
    return any(isinstance(module, FSDPModule) for module in model.modules())  # its layers, where it is a trunk


def _chunks(batch: Sequences) -> list[Tensor]:
    """Group row indices by length, in groups of enough tokens."""
    lengths, order = batch.lengths().sort()
    sizes, rows = [], 0
    for length in lengths.tolist():
        rows += 1
        if rows >= rows_at_a_time("forward", lengths.device, length):
            sizes.append(rows)
            rows = 0
    if sizes and rows:  # too few to pay for a call of their own
        sizes[-1] += rows
    return list(order.split(sizes or [rows]))


def _tokens(rows: Tensor, firsts: Tensor, completion_mask: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Compute the flat positions of these rows' completion tokens.

    `at` is the position in (R, width), `token` that in (B, T); int64 (N,) each.
    """
    row, step = completion_mask[rows].nonzero().unbind(1)
    return row * width + firsts[row] + step, rows[row] * completion_mask.shape[1] + step


def _put(values: Tensor, place: Tensor, shape: torch.Size) -> Tensor:
    """Arrange (N, ·) as (*shape, ·) with 0 elsewhere."""
    empty = values.new_zeros(shape.numel(), *values.shape[1:])
    return empty.index_copy(0, place, values).unflatten(0, shape)


@functools.cache
def _parameters(model_class: Any) -> frozenset[str]:
    return frozenset(inspect.signature(model_class.forward).parameters)
