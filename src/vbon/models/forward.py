"""The one way vbon calls a Hugging Face causal LM, whatever its architecture."""

import functools
import inspect
from typing import Any

from torch import Tensor, nn

from vbon.models.batch import position_ids


@functools.cache
def _parameters(model_class: type[nn.Module]) -> frozenset[str]:
    return frozenset(inspect.signature(model_class.forward).parameters)


def model_inputs(model: nn.Module, attention_mask: Tensor, new_tokens: int | None = None) -> dict[str, Any]:
    """attention_mask and, where the architecture takes them, the position ids of the last `new_tokens` columns."""
    inputs: dict[str, Any] = {"attention_mask": attention_mask.long()}
    if "position_ids" in _parameters(_unwrapped_class(model)):
        positions = position_ids(attention_mask)
        inputs["position_ids"] = positions if new_tokens is None else positions[:, -new_tokens:]
    return inputs


def keep_logits(model: nn.Module, count: int) -> dict[str, int]:
    """Ask for the last `count` logits only, where the architecture can leave the others out."""
    return {"logits_to_keep": count} if "logits_to_keep" in _parameters(_unwrapped_class(model)) else {}


def _unwrapped_class(model: Any) -> type[nn.Module]:
    while hasattr(model, "module"):  # DistributedDataParallel and its kin
        model = model.module
    base = getattr(model, "get_base_model", None)  # peft
    return type(base() if base is not None else model)
