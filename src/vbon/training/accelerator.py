"""Where a run goes: device, processes, tracker."""

import os
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import FullyShardedDataParallelPlugin, disable_fsdp_ram_efficient_loading
from torch import nn
from torch.distributed.fsdp import CPUOffloadPolicy

from vbon.config.train import TrainConfig
from vbon.errors import VbonError
from vbon.models import load
from vbon.training.run_folder import RunFolder
from vbon.training.trackers import tracker_of
from vbon.training.zero_config import read_deepspeed, unseen_by_accelerate


def make_accelerator(config: TrainConfig) -> Accelerator:
    """Where it runs, as the launcher and `config.device` say, and where curves go.

    Raises:
        VbonError: a device that is not on this machine, or a way of sharing the weights that is not supported.
    """
    precision = _precision(config)
    sharding = _sharding(config)
    zero = read_deepspeed(config) if _is_asked_for("DEEPSPEED") else None
    if (sharding or zero) and config.device == "cpu" and torch.accelerator.is_available():
        raise VbonError(
            "--device cpu: weights are shared out on this machine's accelerators; hide them (CUDA_VISIBLE_DEVICES=)"
        )
    device = load.resolve_device(config.device)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    tracker = tracker_of(config)
    where = {} if tracker is None else {"log_with": tracker, "project_dir": RunFolder(config.out).own}
    with unseen_by_accelerate():
        accelerator = _one_of_its_precision(precision, cpu=config.device == "cpu", fsdp_plugin=sharding, **where)
    if sharding is not None:
        accelerator.state.fsdp_plugin = sharding  # which accelerate leaves out on CPUs
    accelerator.state.deepspeed_plugins = zero
    return accelerator


def at_precision(model: nn.Module, accelerator: Accelerator) -> nn.Module:
    """A model that is not trained, with its products in the type that those in training have theirs in."""
    if not is_mixed(accelerator):
        return model
    prepared: nn.Module = accelerator.prepare_model(model, evaluation_mode=True)
    return prepared


def is_mixed(accelerator: Accelerator) -> bool:
    """Whether products are in another type than weights."""
    return bool(accelerator.mixed_precision != "no")


def _precision(config: TrainConfig) -> str:
    """`no` or `bf16`, as the config says or else the launcher."""
    told = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    precision = told if config.mixed_precision == "auto" else config.mixed_precision
    if precision == "no":
        return precision
    if _is_asked_for("FSDP") or _is_asked_for("DEEPSPEED"):
        raise VbonError("FSDP and DeepSpeed train in float32 here: set mixed_precision: 'no'")
    if precision != "bf16":
        raise VbonError(f"mixed precision {precision} is not supported: use bf16 or no")
    if config.dtype != "float32":
        raise VbonError(f"mixed precision keeps weights in float32: leave it or --dtype {config.dtype} out")
    return precision


def _one_of_its_precision(precision: str, **told: Any) -> Accelerator:
    try:
        return Accelerator(mixed_precision=precision, **told)
    except ValueError as error:
        if "mixed_precision" not in str(error):
            raise
        raise VbonError("--mixed-precision: this process has trained with another; train in a new process") from None


def _sharding(config: TrainConfig) -> FullyShardedDataParallelPlugin | None:
    """How accelerate was configured to share the weights out, or None."""
    if not _is_asked_for("FSDP"):
        return None
    disable_fsdp_ram_efficient_loading()  # reference and reward are whole in every process, not in the first alone
    plugin = FullyShardedDataParallelPlugin()
    if plugin.fsdp_version != 2:
        raise VbonError("FSDP of version 1 is not supported: set fsdp_version: 2 in accelerate's configuration")
    if isinstance(plugin.cpu_offload, CPUOffloadPolicy):
        raise VbonError("FSDP with weights offloaded to the CPU is not supported: set fsdp_offload_params: false")
    return plugin


def _is_asked_for(name: str) -> bool:
    return os.environ.get(f"ACCELERATE_USE_{name}", "").lower() == "true"
