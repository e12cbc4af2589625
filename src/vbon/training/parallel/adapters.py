"""LoRA: low-rank adapters over frozen weights (arXiv 2106.09685), by the extra `peft`."""

import warnings
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from vbon.config.train import TrainConfig
from vbon.errors import VbonError


def with_adapters(model: nn.Module, config: TrainConfig) -> nn.Module:
    """Freeze the model in place and add adapters that start at 0; where `lora_rank` is 0 return it unchanged.

    Raises:
        VbonError: no module of the model has a name in `lora_target_modules`, or peft has no choice for it.
    """
    if config.lora_rank == 0:
        return model
    from peft import LoraConfig, get_peft_model

    lora = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,  # type: ignore[arg-type]
        lora_dropout=0.0,
        target_modules=list(config.lora_target_modules) or None,
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
    )
    with torch.random.fork_rng(), warnings.catch_warnings():
        torch.manual_seed(config.seed)  # adapters are a function of the seed, and nobody else's draws change
        # peft asks for a property that transformers has renamed
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
        try:
            return get_peft_model(model, lora).eval()
        except ValueError as error:
            raise VbonError(f"--lora-target-modules: {' '.join(str(error).split())}") from None


def merged(model: nn.Module) -> Any:
    """Return the plain model, with its adapters, if it has any, added to the weights."""
    merge = getattr(model, "merge_and_unload", None)
    return model if merge is None else merge()
