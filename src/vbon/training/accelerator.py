"""Where a run goes: device, processes, tracker."""

import os

import torch
from accelerate import Accelerator
from accelerate.utils import FullyShardedDataParallelPlugin, disable_fsdp_ram_efficient_loading
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
        accelerator = Accelerator(cpu=config.device == "cpu", fsdp_plugin=sharding, **where)
    if sharding is not None:
        accelerator.state.fsdp_plugin = sharding  # which accelerate leaves out on CPUs
    accelerator.state.deepspeed_plugins = zero
    return accelerator


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
