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


@pytest.mark.parametrize("name", ["FSDP", "DEEPSPEED"])
def test_weights_in_pieces_are_refused_by_name(tmp_path, monkeypatch, name):
    """What `accelerate launch --use_fsdp` and `--use_deepspeed` tell the processes that they start."""
    monkeypatch.setenv(f"ACCELERATE_USE_{name}", "true")
    config = TrainConfig(pool="p", model="m", reward="r", n=8, out=str(tmp_path / "run"), device="cpu")
    with pytest.raises(VbonError, match=f"{name} splits the weights among processes"):
        make_accelerator(config)
