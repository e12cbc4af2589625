"""Activations: how many bytes a forward pass keeps for its gradient, and layers that keep their inputs only."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vbon.errors import VbonError
from vbon.models.forward import architecture
from vbon.models.logprobs import token_logprobs
from vbon.models.value_head import layers_of

TOKENS = 16  # of the row that is measured, at most; what a token takes does not depend on it


def bytes_per_token(model: nn.Module, *, checkpointed: bool = False) -> int:
    """Measure the bytes that one token's forward pass keeps for the gradient of its log-probability.

    Args:
        model: a causal language model, without checkpointed layers; its weights may be on the device `meta`.
        checkpointed: True if its layers are going to be.
    """
    weights = {_storage(parameter) for parameter in model.parameters()}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[_storage(tensor)] = tensor
        return tensor

    config: Any = architecture(model).config.get_text_config()
    tokens = min(TOKENS, getattr(config, "max_position_embeddings", None) or TOKENS)
    device = next(model.parameters()).device
    ids = torch.zeros(1, tokens, dtype=torch.int64, device=device)
    # transformers reads a mask, or its absence, which `meta` has no values for; it passes on one of four dimensions.
    mask = torch.zeros(1, 1, tokens, tokens, device=device) if device.type == "meta" else None
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        token_logprobs(logits[0], ids[0], 1.0)
    held = sum(tensor.untyped_storage().nbytes() for where, tensor in kept.items() if where not in weights)
    if checkpointed:  # the inputs of all layers, and what one of them keeps while its gradient is taken
        inputs = config.num_hidden_layers * config.hidden_size * next(model.parameters()).itemsize * tokens
        held = held // config.num_hidden_layers + inputs
    return max(1, held // tokens)


def _storage(tensor: Tensor) -> int:
    """The identity of a tensor's storage, which on the device `meta` has no address."""
    return int(tensor.untyped_storage()._cdata)


def checkpoint_layers(trunk: nn.Module) -> None:
    """Let each layer keep only its input for the gradient, and compute the rest again when that is taken; in place.

    transformers' own switch acts in training mode only, where dropout is on and sampling has no cache. This one acts
    wherever a gradient is going to be taken.

    Raises:
        VbonError: the architecture does not show which its layers are.
    """
    layers = layers_of(trunk)
    if layers is None:
        raise VbonError("--gradient-checkpointing: the model does not say which its layers are; leave it out")
    for layer in layers:
        layer.forward = _Checkpointed(layer.forward)


class _Checkpointed:
    """A layer's forward method."""

    def __init__(self, forward: Any):
        self._forward = forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return self._forward(*args, **kwargs)
        return checkpoint(self._forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)
