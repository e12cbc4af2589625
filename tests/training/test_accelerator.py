"""Where training runs: the device that was asked for, or a refusal."""

import dataclasses
import importlib.util
import json

import pytest
import torch

from vbon.config.train import TrainConfig
from vbon.errors import VbonError
from vbon.training.accelerator import make_accelerator
from vbon.training.zero_config import read_deepspeed


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


@pytest.mark.parametrize(
    ("told", "named"),
    [
        ({"ACCELERATE_DEEPSPEED_ZERO_STAGE": "0"}, "set zero_stage to 1, 2 or 3"),
        ({"ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "cpu"}, "set offload_optimizer_device: none"),
        ({"ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": "nvme"}, "set offload_param_device: none"),
        ({"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"}, "gradient_accumulation_steps is 4, which vbon decides"),
        ({"ACCELERATE_GRADIENT_CLIPPING": "0.5"}, "gradient_clipping is 0.5, which vbon decides: set it to auto"),
        ({"ACCELERATE_MIXED_PRECISION": "bf16"}, "set mixed_precision: 'no'"),
        ({"ACCELERATE_DEEPSPEED_CONFIG_FILE": "nowhere.json"}, "DeepSpeed's configuration: .*nowhere.json"),
        ({"train_micro_batch_size_per_gpu": 8}, "train_micro_batch_size_per_gpu is 8, which vbon decides"),
        ({"optimizer": {"type": "Adam", "params": {"lr": "auto"}}}, "DeepSpeed's optimizer is vbon's --learning-rate"),
        ({"fp16": {"enabled": True}}, "and leave fp16, bf16 and --dtype out"),
    ],
)
def test_what_vbon_decides_beside_deepspeed_is_refused_by_name(tmp_path, monkeypatch, told, named):
    """What `accelerate launch --use_deepspeed` tells the processes that it starts, or a file of DeepSpeed's own."""
    if not all(name.startswith("ACCELERATE") for name in told):
        (tmp_path / "deepspeed.json").write_text(json.dumps({"zero_optimization": {"stage": 2}, **told}))
        told = {"ACCELERATE_DEEPSPEED_CONFIG_FILE": str(tmp_path / "deepspeed.json")}
    refused(tmp_path, monkeypatch, {"ACCELERATE_USE_DEEPSPEED": "true", **told}, named)


@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is not None, reason="DeepSpeed is installed")
def test_missing_deepspeed_is_said_in_one_line(tmp_path, monkeypatch):
    refused(tmp_path, monkeypatch, {"ACCELERATE_USE_DEEPSPEED": "true"}, "not installed: pip install deepspeed, or")


def test_what_deepspeed_is_told_has_no_word_of_accelerates(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    told = {"zero_optimization": {"stage": 3, "reduce_bucket_size": "auto"}, "gradient_clipping": "auto"}
    (tmp_path / "deepspeed.json").write_text(json.dumps({**told, "bf16": {"enabled": "auto"}, "scheduler": "auto"}))
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_CONFIG_FILE", str(tmp_path / "deepspeed.json"))
    read = read_deepspeed(config_of(tmp_path))
    assert read["zero_optimization"] == {"stage": 3}
    assert read["gradient_clipping"] == config_of(tmp_path).max_grad_norm
    assert not {"bf16", "scheduler"} & set(read)


def refused(tmp_path, monkeypatch, told, named):
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(VbonError, match=named):
        make_accelerator(config_of(tmp_path))


def config_of(tmp_path) -> TrainConfig:
    return TrainConfig(pool="p", model="m", reward="r", n=8, out=str(tmp_path / "run"), device="cpu")
