"""Device, processes, precision and tracker of a run, as the config and the launcher say."""

import os
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import nn

from vbon.artifacts.run import RunFolder
from vbon.config.train import TrainConfig
from vbon.errors import VbonError
from vbon.models import load
from vbon.training.output.trackers import tracker_of
from vbon.training.parallel.shards import requested_fsdp


def make_accelerator(config: TrainConfig) -> Accelerator:
    """Make an accelerator on `config.device`, with the launcher's processes, and the tracker that `config` names.

    Raises:
        VbonError: a device that is not on this machine, or a way of sharing the weights that is not supported.
    """
    refuse_deepspeed()
    fsdp = requested_fsdp()
    precision = _precision(config, in_shards=fsdp is not None)
    if fsdp is not None and config.device == "cpu" and torch.accelerator.is_available():
        raise VbonError(
            "--device cpu: weights are sharded over this machine's accelerators; hide them (CUDA_VISIBLE_DEVICES=)"
        )
    device = load.resolve_device(config.device)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    tracker = tracker_of(config)
    options = {} if tracker is None else {"log_with": tracker, "project_dir": RunFolder(config.out).own}
    try:
        return Accelerator(mixed_precision=precision, cpu=config.device == "cpu", fsdp_plugin=fsdp, **options)
    except ValueError as error:
        if "mixed_precision" not in str(error):
            raise
        raise VbonError("--mixed-precision: this process has trained with another; train in a new process") from None


def refuse_deepspeed(accelerator: Accelerator | None = None) -> None:
    """Raise VbonError where the launcher asks for DeepSpeed, or where an accelerator was made with it."""
    requested = os.environ.get("ACCELERATE_USE_DEEPSPEED", "").lower() == "true"
    if requested or (accelerator is not None and accelerator.distributed_type == "DEEPSPEED"):
        raise VbonError(
            "DeepSpeed is not supported: share the weights with FSDP2 (fsdp_version: 2 in accelerate's configuration), "
            "or use TRL's trainers with vbon's reward under DeepSpeed (vbon integrate trl)"
        )


def at_precision(model: nn.Module, accelerator: Accelerator) -> nn.Module:
    """Make a model that is not trained compute in the same dtype as those in training."""
    if not is_mixed(accelerator):
        return model
    prepared: nn.Module = accelerator.prepare_model(model, evaluation_mode=True)
    return prepared


def of_main_process(value: Any) -> Any:
    """Return the main process's value in all processes, so that they decide alike; all call together."""
    [agreed] = broadcast_object_list([value])
    return agreed


def is_mixed(accelerator: Accelerator) -> bool:
    """Return True if matrix products are in another dtype than the weights."""
    return bool(accelerator.mixed_precision != "no")


def _precision(config: TrainConfig, *, in_shards: bool) -> str:
    """`no` or `bf16`: the config's, or the launcher's where the config says `auto`."""
    requested = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    precision = requested if config.mixed_precision == "auto" else config.mixed_precision
    if precision == "no":
        return precision
    if in_shards:
        raise VbonError("FSDP trains in float32 here: set mixed_precision: 'no'")
    if precision != "bf16":
        raise VbonError(f"mixed precision {precision} is not supported: use bf16 or no")
    if config.dtype != "float32":
        raise VbonError(f"mixed precision keeps weights in float32: leave it or --dtype {config.dtype} out")
    return precision
