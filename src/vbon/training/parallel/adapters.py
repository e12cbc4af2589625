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
        VbonError: no module of the model has a name in `lora_target_modules`, or peft has no choice for it; or a module
            shares its weight with another one.
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
        holders = _holders(model)
        # of tied weights, which are refused here
        warnings.filterwarnings("ignore", message="Model has `tie_word_embeddings=True`")
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to True but the target module is")
        try:
            adapted = get_peft_model(model, lora).eval()
        except ValueError as error:
            raise VbonError(f"--lora-target-modules: {' '.join(str(error).split())}") from None
    _refuse_shared(adapted, holders)
    for one in adapted.peft_config.values():
        one.base_model_name_or_path = config.model  # not where it was converted to
    return adapted


def _holders(model: nn.Module) -> dict[int, list[str]]:
    """Names of the modules that hold each weight, by its identity: several where weights are tied."""
    holders: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        for weight in module.parameters(recurse=False):
            holders.setdefault(id(weight), []).append(name)
    return holders


def _refuse_shared(adapted: nn.Module, holders: dict[int, list[str]]) -> None:
    """Refuse adapters of tied weights: merged into the weight that two modules share, one would change the other."""
    for module in adapted.modules():
        base = getattr(module, "base_layer", None)
        names = [] if base is None else holders.get(id(getattr(base, "weight", None)), [])
        if len(names) > 1:
            raise VbonError(
                f"--lora-target-modules: {' and '.join(names)} share one weight, so that an adapter of one cannot be "
                "merged for export without changing the other; leave them out"
            )


def merged(model: nn.Module) -> Any:
    """Return the plain model, with its adapters, if it has any, added to the weights."""
    merge = getattr(model, "merge_and_unload", None)
    return model if merge is None else merge()
