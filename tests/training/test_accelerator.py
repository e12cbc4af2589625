"""Where training runs: the device that was asked for, or a refusal."""

import pytest
import torch

from vbon.config.train import TrainConfig
from vbon.errors import VbonError
from vbon.training.accelerator import make_accelerator


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_a_device_that_is_not_there_is_refused(tmp_path):
    config = TrainConfig(pool="p", model="m", reward="r", n=8, out=str(tmp_path / "run"), device="cuda")
    with pytest.raises(VbonError, match="--device cuda: no CUDA device"):
        make_accelerator(config)


@pytest.mark.parametrize(
    ("told", "named"),
    [
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "DEEPSPEED is not supported"),
        ({"ACCELERATE_USE_FSDP": "true"}, "FSDP of version 1 is not supported: set fsdp_version: 2"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_OFFLOAD_PARAMS": "true"}, "offloaded to the CPU"),
    ],
)
def test_what_cannot_share_the_weights_out_is_refused_by_name(tmp_path, monkeypatch, told, named):
    """What `accelerate launch --use_fsdp` and `--use_deepspeed` tell the processes that they start."""
    monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "false")  # restored afterwards
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    config = TrainConfig(pool="p", model="m", reward="r", n=8, out=str(tmp_path / "run"), device="cpu")
    with pytest.raises(VbonError, match=named):
        make_accelerator(config)
