"""FSDP2 on two CPU processes: one process's sums, checkpoints that know nothing of shards, the real launcher."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.torch import load_file
from tests.training import ranks
from tests.training.test_launch import FLOAT32 as SEVERAL_STEPS
from tests.training.test_processes import FLOAT32 as ONE_UPDATE
from tests.training.test_processes import arguments_of
from tests.training.test_trainer import rows

FSDP2 = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP"}
GUIDE = Path(__file__).parents[2] / "docs/guides/processes.md"
WAYS = {"one": (1, {}), "ddp": (2, {}), "fsdp2": (2, FSDP2)}


@pytest.mark.parametrize(
    ("settings", "activation_checkpointing"),
    [
        ({"algorithm": "rloo"}, "false"),
        ({"algorithm": "ppo", "critic": "separate"}, "true"),
        ({"algorithm": "ppo", "critic": "shared", "lora_rank": 2}, "false"),
    ],
    ids=["rloo", "ppo", "ppo-shared-lora"],
)
def test_one_update_in_two_shards_is_that_of_one_process(configure, tmp_path, settings, activation_checkpointing):
    """Sampling, log-probabilities, both networks, clipping and the step: with a minibatch of all rollouts."""
    config = configure(minibatch_size=32, advantage_clip=5.0, max_grad_norm=0.1, **settings)
    update(config, "one", tmp_path)
    update(config, "fsdp2", tmp_path, FSDP_ACTIVATION_CHECKPOINTING=activation_checkpointing)
    with safe_open(tmp_path / "fsdp2", "np") as file:
        assert file.metadata() == {"num_processes": "2", "in_shards": "True"}
    one, two = load_file(tmp_path / "one"), load_file(tmp_path / "fsdp2")
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        np.testing.assert_allclose(two[name].numpy(), tensor.numpy(), atol=ONE_UPDATE, err_msg=name)


@pytest.mark.parametrize("ways", [("fsdp2", "one"), ("ddp", "fsdp2")], ids="-to-".join)
def test_a_checkpoint_moves_between_shards_and_whole_networks(configure, tmp_path, ways):
    """Cut back to its middle and continued in another way, a run ends where an uncut one of one process does."""
    settings = {"algorithm": "ppo", "minibatch_size": 32, "keep_checkpoints": 4}  # a minibatch is all rollouts
    whole, moved = (configure(out=str(tmp_path / name), **settings) for name in ("whole", "moved"))
    train(whole, "one", tmp_path)
    train(moved, ways[0], tmp_path)
    shutil.rmtree(Path(moved.out) / "vbon/checkpoints/step-000004")
    (Path(moved.out) / "model.safetensors").unlink()
    train(moved, ways[1], tmp_path, "--resume")
    assert [row["iteration"] for row in rows(moved.out) if "reward" in row] == [1, 2, 3, 4]
    assert_same_run(moved.out, whole.out, ("policy", "critic", "optimizer"))


def test_shards_by_accelerate_launch_and_its_configuration(configure, tmp_path):
    """BOND, which runs the policy twice before a gradient, after a warm start; against one process."""
    settings = {"objective": "bond", "warm_start": "offline", "minibatch_size": 32, "keep_checkpoints": 4}
    settings["validation_fraction"] = 0.0  # as many prompts as an iteration takes: none twice, in two processes
    alone, together = (configure(out=str(tmp_path / name), **settings) for name in ("alone", "together"))
    train(alone, "one", tmp_path)
    [printed] = re.findall(r"```yaml\n# fsdp2.yaml\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    (tmp_path / "fsdp2.yaml").write_text(printed)
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(tmp_path / "fsdp2.yaml")]
    arguments = arguments_of(together, tmp_path, "--json", str(tmp_path / "result.json"))
    done = subprocess.run([*launcher, "-m", "vbon", *arguments], capture_output=True, text=True, timeout=ranks.LIMIT)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((tmp_path / "result.json").read_text())["num_processes"] == 2
    assert_same_run(together.out, alone.out, ("policy", "optimizer"))


def update(config, way: str, folder: Path, **environment: str) -> None:
    count, told = WAYS[way]
    done = ranks.run_ranks(ranks.one_update, count, folder, config, folder / way, environment=told | environment)
    for status, said in done:
        assert status == 0, said[-3000:]


def train(config, way: str, folder: Path, *flags: str) -> None:
    count, told = WAYS[way]
    arguments = arguments_of(config, folder, *flags)
    for status, said in ranks.run_ranks(ranks.command_line, count, folder, arguments, environment=told):
        assert status == 0, said[-3000:]


def assert_same_run(run: str, expected: str, networks: tuple[str, ...]) -> None:
    """The same diary of validations, last checkpoint and model, to float32 rounding over a few steps."""
    for file in (*(f"vbon/checkpoints/step-000004/{name}.safetensors" for name in networks), "model.safetensors"):
        one, other = load_file(Path(run) / file), load_file(Path(expected) / file)
        assert one.keys() == other.keys()
        for key, tensor in one.items():
            np.testing.assert_allclose(tensor, other[key], atol=SEVERAL_STEPS, err_msg=f"{file} {key}")
    mine, theirs = ([row for row in rows(out) if "validation/reward" in row] for out in (run, expected))
    for row, of in zip(mine, theirs, strict=True):
        for key in ("validation/reward", "validation/kl_policy_ref", "validation/objective"):
            assert row[key] == pytest.approx(of[key], abs=SEVERAL_STEPS), key
