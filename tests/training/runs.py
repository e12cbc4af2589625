"""Runs of `vbon train` for the tests: their command line, in one process or in several, and what they leave."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file
from tests.enumerable import write_pool
from tests.training import processes

from vbon.artifacts.run import read_rows
from vbon.config.train import TrainConfig
from vbon.config.yaml_file import merged_text
from vbon.errors import VbonError
from vbon.training import trainer
from vbon.training.train import train as train_here

N = 8.0
# Nats at the start, and the most that may be left after 60 iterations of 128 rollouts with F from 4,000 samples.
# Measured with rloo, ppo and its shared critic, seeds 0 and 1: smooth .022 to .048, levels .007 to .014, binary .002 to
# .006.
BOUNDS = {"smooth": (3.756, 0.08), "levels": (1.790, 0.025), "binary": (0.353, 0.012)}
# `--multi_gpu` is accelerate's name for its launcher of several processes, on CPUs too; with `--cpu` it starts one.
LAUNCH = "--multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no --main_process_port 0"
FLOAT32 = 1e-4  # sums over rows in another order, through eight Adam steps of size 1e-3
Group = tuple[int, dict[str, str]]
"""How many processes, and the environment that a launcher gives them beside their ranks."""
ONE: Group = (1, {})
DDP: Group = (2, {})


def arguments_of(config: TrainConfig, folder: Path, *flags: str) -> list[str]:
    (folder / "config.yaml").write_text(merged_text(config), "utf-8")
    return ["train", "--config", str(folder / "config.yaml"), *flags]


def weights(run: str | Path) -> str:
    """A hash over the best policy and the last one."""
    last = max((Path(run) / "vbon/checkpoints").glob("step-*"))
    files = [Path(run) / "model.safetensors", last / "policy.safetensors"]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def rows(run: str | Path) -> list[dict]:
    timed = ("seconds_rollout", "seconds_update")
    return [{k: v for k, v in row.items() if k not in timed} for row in read_rows(Path(run) / "vbon/metrics.jsonl")]


def to_best_of_8(world, configure, folder, function, **host) -> TrainConfig:
    """The run that BOUNDS are for, with a pool of its own."""
    pool = write_pool(world, folder / "pool", 4000, function)
    return configure(
        pool=str(pool),
        reward=world.reward(function),
        n=N,
        **host,
        num_iterations=60,
        num_epochs=4,
        rollouts_per_iteration=128,
        samples_per_prompt=8,
        minibatch_size=64,
        learning_rate=5e-3,
        validation_fraction=0.0,
        validation_every=15,
        checkpoint_every=60,
    )


def train(config, count: int, environment: dict[str, str], folder: Path, *flags: str) -> None:
    arguments = arguments_of(config, folder, *flags)
    for status, said in processes.run_group(processes.command_line, count, folder, arguments, environment=environment):
        assert status == 0, said[-3000:]


def train_cut(config, groups: list[Group], folder: Path) -> None:
    """Train four iterations in one group, cut the run back to its middle and continue it in another."""
    train(config, *groups[0], folder)
    shutil.rmtree(Path(config.out) / "vbon/checkpoints/step-000004")
    for name in ("vbon/run.json", "model.safetensors"):
        (Path(config.out) / name).unlink()
    train(config, *groups[1], folder)
    assert [row["iteration"] for row in rows(config.out) if "reward" in row] == [1, 2, 3, 4]


def assert_same_run(run: str, expected: str, networks: tuple[str, ...]) -> None:
    """The same diary of validations, last checkpoint and model, to float32 rounding over a few steps."""
    for file in (*(f"vbon/checkpoints/step-000004/{name}.safetensors" for name in networks), "model.safetensors"):
        one, other = load_file(Path(run) / file), load_file(Path(expected) / file)
        assert one.keys() == other.keys()
        for key, tensor in one.items():
            np.testing.assert_allclose(tensor, other[key], atol=FLOAT32, err_msg=f"{file} {key}")
    mine, theirs = ([row for row in rows(out) if "validation/reward" in row] for out in (run, expected))
    for row, of in zip(mine, theirs, strict=True):
        for key in ("validation/reward", "validation/kl_policy_ref", "validation/objective"):
            assert row[key] == pytest.approx(of[key], abs=FLOAT32), key


def interrupt_after(monkeypatch, count: int, name: str = "run_iteration") -> None:
    """Ctrl-C in the step after `count`."""
    real, calls = getattr(trainer, name), []

    def interrupted(*args):
        calls.append(1)
        if len(calls) > count:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(trainer, name, interrupted)


def refuse(config: TrainConfig, words: str) -> None:
    with pytest.raises(VbonError, match=words) as error:
        train_here(config)
    assert "\n" not in str(error.value)
