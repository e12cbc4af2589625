"""The one way vbon calls a Hugging Face causal LM, whatever its architecture."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from vbon.models.batch import Sequences

# Rows of like length go through the model together, at least so many tokens at a time: fewer would be paid for in
# overhead (kernel launches on a GPU), more in padding.
TOKENS_PER_CALL = {"cpu": 384, "cuda": 16384}


def per_completion_token(forward: Callable[[Tensor, int], Tensor], batch: Sequences, *, split: bool = True) -> Tensor:
    """What a causal model gives at the position that predicts each completion token, (B, T, ·); arbitrary off the mask.

    Rows are padded at their right end only, where no real token sees the padding: no attention mask, no position ids.

    Args:
        forward: (ids (R, S), first) → (R, S − first, ·), the model's output at columns first, first + 1, …
        split: whether rows of unlike length may go through the model in separate calls.
    """
    chunks = _chunks(batch) if split else [torch.arange(len(batch.prompt_ids))]
    place = torch.empty_like(batch.completion_ids)
    outputs: list[Tensor] = []
    offset = 0
    for rows in chunks:
        ids, firsts = batch.select(rows).without_gaps()
        start = int(firsts.min())
        output = forward(ids, start)
        outputs.append(output.flatten(0, 1))
        place[rows] = offset + _places(firsts - start, batch.completion_ids.shape[1], output.shape[1])
        offset += len(outputs[-1])
    flat = torch.cat(outputs) if len(outputs) > 1 else outputs[0]
    return flat.index_select(0, place.flatten()).unflatten(0, place.shape)


def takes(model: nn.Module, argument: str) -> bool:
    """Whether the architecture's forward has this argument."""
    return argument in _parameters(_unwrapped_class(model))


def keep_logits(model: nn.Module, count: int) -> dict[str, int]:
    """Ask for the last `count` logits only, where the architecture can leave the others out."""
    return {"logits_to_keep": count} if takes(model, "logits_to_keep") else {}


def is_wrapped(model: nn.Module) -> bool:
    """Whether the model is inside DistributedDataParallel or its kin, which want one forward for each backward."""
    return hasattr(model, "module")


def _chunks(batch: Sequences) -> list[Tensor]:
    """Row indices by length, cut wherever enough tokens are together."""
    lengths, order = batch.lengths().sort()
    enough = TOKENS_PER_CALL.get(lengths.device.type, TOKENS_PER_CALL["cuda"])
    sizes, rows = [], 0
    for length in lengths.tolist():
        rows += 1
        if rows * length >= enough:
            sizes.append(rows)
            rows = 0
    if sizes and rows:  # too few to pay for a call of their own
        sizes[-1] += rows
    return list(order.split(sizes or [rows]))


def _places(firsts: Tensor, steps: int, width: int) -> Tensor:
    """Where the outputs for each row's tokens lie in the flattened (R·width, ·) output. int64 (R, steps)."""
    columns = (firsts[:, None] + torch.arange(steps, device=firsts.device)).clamp_max(width - 1)
    return columns + width * torch.arange(len(firsts), device=firsts.device)[:, None]


@functools.cache
def _parameters(model_class: Any) -> frozenset[str]:
    return frozenset(inspect.signature(model_class.forward).parameters)


def _unwrapped_class(model: Any) -> Any:
    while hasattr(model, "module"):  # DistributedDataParallel and its kin
        model = model.module
    base = getattr(model, "get_base_model", None)  # peft
    return type(base() if base is not None else model)
