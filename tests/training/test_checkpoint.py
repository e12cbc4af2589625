"""Checkpoints: bit for bit, whole or not there, and no pickle."""

import json
import os
import resource
import shutil

import pytest
import torch
from torch import nn

from vbon.errors import VbonError
from vbon.models import load
from vbon.training.output import checkpoint
from vbon.training.parallel.adapters import with_adapters


class Tied(nn.Module):
    """Two names for one weight, as input and output embeddings often are."""

    def __init__(self, seed: int):
        super().__init__()
        torch.manual_seed(seed)
        self.first = nn.Linear(5, 5)
        self.second = nn.Linear(5, 5)
        self.second.weight = self.first.weight
        self.register_buffer("seen", torch.randn(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.tanh(self.first(x)))


def trained(seed: int, steps: int = 3) -> tuple[Tied, torch.optim.Optimizer]:
    model = Tied(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, betas=(0.8, 0.9), fused=True)
    step(model, optimizer, steps)
    return model, optimizer


def step(model: nn.Module, optimizer: torch.optim.Optimizer, count: int) -> None:
    for index in range(count):
        optimizer.zero_grad()
        model(torch.full((2, 5), 0.1 * index + 0.3)).pow(2).sum().backward()
        optimizer.step()


def bits(model: nn.Module) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in model.state_dict().items()}


def test_training_goes_on_bit_for_bit(tmp_path):
    model, optimizer = trained(0)
    checkpoint.save(tmp_path / "step-000003", {"policy": model}, optimizer, {"iteration": 3, "said": ["π"]})
    other, its_optimizer = trained(1, steps=1)
    progress = checkpoint.load(tmp_path / "step-000003", {"policy": other}, its_optimizer)
    assert progress == {"iteration": 3, "said": ["π"]}
    assert bits(other) == bits(model)
    assert other.second.weight is other.first.weight
    step(model, optimizer, 4)
    step(other, its_optimizer, 4)
    assert bits(other) == bits(model)
    assert its_optimizer.param_groups[0]["lr"] == 0.1 and list(its_optimizer.param_groups[0]["betas"]) == [0.8, 0.9]


def test_an_optimizer_without_moments_is_kept_too(tmp_path):
    model, optimizer = trained(0)
    optimizer.state.clear()
    checkpoint.save(tmp_path / "step-000000", {"policy": model}, optimizer, {})
    other, its_optimizer = trained(1)
    checkpoint.load(tmp_path / "step-000000", {"policy": other}, its_optimizer)
    step(model, optimizer, 2)
    step(other, its_optimizer, 2)
    assert bits(other) == bits(model)


def test_nothing_in_the_folder_is_a_pickle(tmp_path):
    model, optimizer = trained(0)
    checkpoint.save(tmp_path / "step-000003", {"policy": model}, optimizer, {})
    names = sorted(path.name for path in (tmp_path / "step-000003").iterdir())
    assert names == ["optimizer.safetensors", "policy.safetensors", "state.json"]
    json.loads((tmp_path / "step-000003/state.json").read_text())


def test_only_what_is_trained_is_kept_beside_frozen_weights(world, tmp_path, configure):
    policy = with_adapters(load.load_policy(world.model), configure(lora_rank=2))
    checkpoint.save(tmp_path / "a", {"policy": policy}, None, {})
    with pytest.raises(VbonError, match="does not fit this model"):
        checkpoint.load(tmp_path / "a", {"policy": load.load_policy(world.model)}, None)
    kept = (tmp_path / "a/policy.safetensors").stat().st_size
    assert kept < (world.folder / "model/model.safetensors").stat().st_size / 4
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter.add_(1)
    changed = bits(policy)
    checkpoint.load(tmp_path / "a", {"policy": policy}, None)
    assert bits(policy) != changed


@pytest.mark.parametrize("model", [nn.Linear(5, 5), nn.Sequential(Tied(0)), Tied(0).double(), nn.Linear(4, 4)])
def test_weights_of_another_model_are_refused(tmp_path, model):
    checkpoint.save(tmp_path / "step-000003", {"policy": Tied(0)}, None, {})
    fits = isinstance(model, Tied)  # another dtype is cast
    if fits:
        checkpoint.load(tmp_path / "step-000003", {"policy": model}, None)
        return
    with pytest.raises(VbonError, match=r"policy.safetensors: does not fit this model"):
        checkpoint.load(tmp_path / "step-000003", {"policy": model}, None)


def test_damaged_and_foreign_checkpoints_are_one_line(tmp_path):
    model, optimizer = trained(0)
    folder = tmp_path / "step-000003"

    def refuse(words: str) -> None:
        with pytest.raises(VbonError, match=words) as error:
            checkpoint.load(folder, {"policy": model}, optimizer)
        assert "\n" not in str(error.value)
        shutil.rmtree(folder, ignore_errors=True)

    refuse("no readable checkpoint")
    for file, content, words in (
        ("policy.safetensors", b"\x80\x04pickle", "policy.safetensors: damaged or missing"),
        ("optimizer.safetensors", b"", "optimizer.safetensors: damaged or missing"),
        ("state.json", b'{"format": 99}', "another format"),
        ("state.json", b"[]", "another format"),
        ("state.json", b'{"format"', "no readable checkpoint"),
        ("state.json", b'{"format": 1, "progress": {}, "optimizer": {}}', "optimizer does not fit"),
    ):
        checkpoint.save(folder, {"policy": model}, optimizer, {})
        (folder / file).write_bytes(content)
        refuse(words)


def test_a_kill_while_writing_leaves_the_checkpoint_before(tmp_path, monkeypatch):
    model, _ = trained(0)
    checkpoint.save(tmp_path / "step-000001", {"policy": model}, None, {"iteration": 1})

    def killed(*_):
        raise SystemExit

    monkeypatch.setattr(os, "fsync", killed)
    with pytest.raises(SystemExit):
        checkpoint.save(tmp_path / "step-000002", {"policy": model}, None, {"iteration": 2})
    monkeypatch.undo()
    assert checkpoint.latest(tmp_path) == tmp_path / "step-000001"
    checkpoint.save(tmp_path / "step-000002", {"policy": model}, None, {"iteration": 2})  # over the leftovers
    assert checkpoint.latest(tmp_path) == tmp_path / "step-000002"
    assert not list(tmp_path.glob(".writing-*"))


def test_a_full_disk_is_one_line_and_leaves_no_part(tmp_path):
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(
            VbonError, match=r"step-000002: cannot be written \(.*\); what was written before is intact"
        ):
            checkpoint.save(tmp_path / "step-000002", {"policy": Tied(0)}, None, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert not list(tmp_path.iterdir())


def test_latest_is_the_last_online_one_else_the_last_offline_one(tmp_path):
    def save(prefix: str, count: int) -> None:
        checkpoint.save(checkpoint.numbered(tmp_path, prefix, count), {"policy": Tied(0)}, None, {})

    assert checkpoint.latest(tmp_path) is None
    save(checkpoint.BEST, 9)
    assert checkpoint.latest(tmp_path) is None
    for count in (50, 100):
        save(checkpoint.OFFLINE, count)
    assert checkpoint.latest(tmp_path).name == "offline-000100"
    for count in (0, 5, 10):
        save(checkpoint.ONLINE, count)
    (tmp_path / "step-000099").mkdir()  # nothing in it
    assert checkpoint.latest(tmp_path).name == "step-000010"
    checkpoint.keep_last(tmp_path, 2)
    complete = {path.parent.name for path in tmp_path.glob("*/state.json")}
    assert complete == {"step-000005", "step-000010", "best-000009"}
    save(checkpoint.BEST, 10)
    checkpoint.keep_best(tmp_path, tmp_path / "best-000010")
    assert not (tmp_path / "best-000009").exists() and (tmp_path / "best-000010").exists()
