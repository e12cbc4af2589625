"""Products in bfloat16, all that is kept in float32: `--mixed-precision`, or what `accelerate launch` says."""

import filecmp
import json
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from vbon.errors import Paused, VbonError
from vbon.training.parallel.accelerator import make_accelerator
from vbon.training.train import train


@pytest.fixture(autouse=True)
def as_in_a_new_process():
    """A process has one precision."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def test_products_are_rounded_and_weights_are_not(configure, world, tmp_path):
    train(configure(algorithm="ppo", out=str(tmp_path / "float32")))
    AcceleratorState._reset_state(reset_partial_state=True)
    train(configure(algorithm="ppo", out=str(tmp_path / "mixed"), mixed_precision="bf16"))
    exact, rounded = (first_iteration(tmp_path / name) for name in ("float32", "mixed"))
    assert rounded["reward"] == pytest.approx(exact["reward"], abs=0.1)  # its spread is 0.5
    assert rounded["approx_kl"] != exact["approx_kl"]
    weights = load_file(tmp_path / "mixed/model.safetensors")
    assert {str(tensor.dtype) for tensor in weights.values()} == {"torch.float32"}
    moments = load_file(next((tmp_path / "mixed/vbon/checkpoints").glob("step-*/optimizer.safetensors")))
    assert {str(tensor.dtype) for tensor in moments.values()} == {"torch.float32"}
    before = load_file(Path(world.model) / "model.safetensors")
    assert any(  # steps that bfloat16 would round away are kept
        ((now != before[name]) & (now.bfloat16() == before[name].bfloat16())).any() for name, now in weights.items()
    )


def test_a_pause_costs_no_bit(configure, tmp_path):
    whole, cut = (configure(mixed_precision="bf16", out=str(tmp_path / name)) for name in ("whole", "cut"))
    train(whole)
    asked = iter([False, True])
    with pytest.raises(Paused):
        train(cut, should_pause=lambda: next(asked))
    train(configure(mixed_precision="bf16", out=cut.out))
    assert filecmp.cmp(f"{whole.out}/model.safetensors", f"{cut.out}/model.safetensors", shallow=False)


def test_the_launcher_says_it(configure, monkeypatch):
    assert make_accelerator(configure()).mixed_precision == "no"
    AcceleratorState._reset_state(reset_partial_state=True)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert make_accelerator(configure()).mixed_precision == "bf16"


@pytest.mark.parametrize(
    ("told", "changes", "named"),
    [
        ({"ACCELERATE_MIXED_PRECISION": "fp16"}, {}, "mixed precision fp16 is not supported: use bf16 or no"),
        ({}, {"mixed_precision": "bf16", "dtype": "bfloat16"}, "leave it or --dtype bfloat16 out"),
        (
            {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"},
            {"mixed_precision": "bf16"},
            "FSDP trains in float32 here",
        ),
    ],
)
def test_what_it_does_not_go_with_is_refused_by_name(configure, monkeypatch, told, changes, named):
    monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "false")  # restored afterwards
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(VbonError, match=named):
        make_accelerator(configure(**changes))


def test_a_second_precision_in_one_process_is_refused(configure):
    make_accelerator(configure(mixed_precision="bf16"))
    with pytest.raises(VbonError, match="--mixed-precision: this process has trained with another"):
        make_accelerator(configure())


def first_iteration(run):
    lines = (run / "vbon/metrics.jsonl").read_text().splitlines()
    return next(row for row in map(json.loads, lines) if "approx_kl" in row)
