"""Where a run goes: device, processes, tracker."""

import os

import torch
from accelerate import Accelerator

from vbon.config.train import TrainConfig
from vbon.errors import VbonError
from vbon.models import load
from vbon.training.run_folder import RunFolder
from vbon.training.trackers import tracker_of


def make_accelerator(config: TrainConfig) -> Accelerator:
    """Where it runs, as the launcher and `config.device` say, and where curves go.

    Raises:
        VbonError: a device that is not on this machine, or weights in pieces.
    """
    for name in ("FSDP", "DEEPSPEED"):
        if os.environ.get(f"ACCELERATE_USE_{name}", "").lower() == "true":
            raise VbonError(
                f"{name} splits the weights among processes, and vbon samples with whole ones: launch with --multi_gpu "
                "(DDP), or hand over to verl: vbon integrate verl"
            )
    device = load.resolve_device(config.device)
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)
    tracker = tracker_of(config)
    if tracker is None:
        return Accelerator(cpu=config.device == "cpu")
    return Accelerator(cpu=config.device == "cpu", log_with=tracker, project_dir=RunFolder(config.out).own)
