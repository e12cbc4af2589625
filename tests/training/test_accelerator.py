"""Where training runs: the device that was asked for, or a refusal."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DistributedType

from vbon.config.train import TrainConfig
from vbon.errors import VbonError
from vbon.training.parallel.accelerator import make_accelerator
from vbon.training.parallel.learner import make_learner
from vbon.training.rounds import train_in_rounds


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_a_device_that_is_not_there_is_refused(tmp_path):
    config = dataclasses.replace(config_of(tmp_path), device="cuda")
    with pytest.raises(VbonError, match="--device cuda: no CUDA device"):
        make_accelerator(config)


@pytest.mark.parametrize(
    ("told", "named"),
    [
        ({"ACCELERATE_USE_FSDP": "true"}, "FSDP of version 1 is not supported: set fsdp_version: 2"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_OFFLOAD_PARAMS": "true"}, "offloaded to the CPU"),
    ],
)
def test_what_fsdp_cannot_do_is_refused_by_name(tmp_path, monkeypatch, told, named):
    """What `accelerate launch --use_fsdp` tells the processes that it starts."""
    monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "false")  # restored afterwards
    refused(tmp_path, monkeypatch, told, named)


@pytest.mark.parametrize("launched", ["accelerator", "rounds", "own accelerator"])
def test_deepspeed_is_refused_in_one_line_that_names_fsdp2_and_trl(tmp_path, monkeypatch, launched):
    """What `accelerate launch --use_deepspeed` sets, and an Accelerator that a caller made with DeepSpeed."""
    if launched != "own accelerator":
        monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    start = {
        "accelerator": lambda: make_accelerator(config_of(tmp_path)),
        "rounds": lambda: train_in_rounds(dataclasses.replace(config_of(tmp_path), rounds=2), None, None),
        "own accelerator": lambda: make_learner(
            None, config_of(tmp_path), SimpleNamespace(distributed_type=DistributedType.DEEPSPEED)
        ),
    }[launched]
    with pytest.raises(
        VbonError, match=r"^DeepSpeed is not supported: .*FSDP2 .*TRL's trainers with vbon's reward"
    ) as e:
        start()
    assert "\n" not in str(e.value)
    assert not (tmp_path / "run").exists()


def refused(tmp_path, monkeypatch, told, named):
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(VbonError, match=named):
        make_accelerator(config_of(tmp_path))


def config_of(tmp_path) -> TrainConfig:
    return TrainConfig(pool="p", model="m", reward="r", n=8, out=str(tmp_path / "run"), device="cpu")
