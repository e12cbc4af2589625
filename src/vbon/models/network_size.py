"""The numbers of a model that its memory depends on, from its config alone: its modules are built without weights."""

import math
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from vbon.models import load
from vbon.models.activations import bytes_per_token
from vbon.models.batch_size import cached_values
from vbon.models.forward import architecture
from vbon.models.fused import fuse_activations
from vbon.models.memory_plan import Size


def empty_policy(name: str, *, dtype: str = "float32", trust_remote_code: bool = False) -> PreTrainedModel:
    """Build the modules of a causal language model on the device `meta`, where tensors hold nothing.

    Args:
        name: directory or hub id.
        dtype: floating-point type of the weights, a key of `load.DTYPES`.
        trust_remote_code: True allows Python code that comes with the model to run.

    Raises:
        VbonError: there is no such model.
    """
    return empty_model(load.load_config(name, trust_remote_code=trust_remote_code), dtype=dtype)


def empty_model(config: Any, *, dtype: str = "float32") -> PreTrainedModel:
    """Build the modules of a causal language model from its config, as `empty_policy` does."""
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=load.DTYPES[dtype])
    fuse_activations(model)
    return model.eval()


def sampling_size(model: PreTrainedModel) -> Size:
    """Count the weights of a model that is only sampled."""
    config: Any = model.config.get_text_config()
    return Size(
        parameters=sum(weight.numel() for weight in model.parameters()),
        itemsize=model.dtype.itemsize,
        cached_values=cached_values(config),
        vocab_size=config.vocab_size,
    )


def size_of(policy: nn.Module, critic: nn.Module | None = None, *, checkpointed: bool = False) -> Size:
    """Count the weights of a policy, and of a critic, and measure what a token keeps for its gradient.

    Args:
        policy: a causal language model, with or without adapters.
        critic: a network of its own or a head; with adapters its trunk is counted as the policy's.
        checkpointed: whether the layers are going to keep their inputs only.
    """
    own = sum(weight.numel() for weight in policy.parameters() if weight.requires_grad)
    every = sum(weight.numel() for weight in policy.parameters())
    adapted = own < every
    of_critic = [] if critic is None else [weight for weight in critic.parameters() if weight.requires_grad]
    num_critic = sum(weight.numel() for weight in of_critic)
    config: Any = architecture(policy).config.get_text_config()
    return Size(
        parameters=every - own if adapted else every,
        adapters=own if adapted else 0,
        critic=0 if adapted else num_critic,
        critic_adapters=num_critic if adapted else 0,
        itemsize=max(weight.itemsize for weight in policy.parameters() if adapted != weight.requires_grad),
        cached_values=cached_values(config),
        vocab_size=config.vocab_size,
        kept_per_token=bytes_per_token(policy, checkpointed=checkpointed),
    )


def weights_in(directory: str | Path) -> int:
    """Count the weights in the safetensors files of a directory, from their headers; 0 where it has none."""
    count = 0
    for file in Path(directory).glob("*.safetensors"):
        with safe_open(file, framework="pt") as weights:
            count += sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
    return count
