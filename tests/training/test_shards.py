"""FSDP2 on two CPU processes: one process's sums, checkpoints that know nothing of shards, the real launcher."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.torch import load_file
from tests.training import processes
from tests.training.runs import DDP, ONE, Group, arguments_of, assert_same_run, train, train_cut

GUIDE = Path(__file__).parents[2] / "docs/guides/processes.md"
ONE_UPDATE = 1e-5  # sums over rows in another order, through two Adam steps of size 1e-3
FSDP2 = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP"}
GROUPS = {"one": ONE, "ddp": DDP, "fsdp2": (2, FSDP2)}
IN_SHARDS = {"num_processes": "2", "in_shards": "True"}


def launch_as_the_guide_says(config, name: str, folder: Path) -> None:
    """`accelerate launch` with the configuration that the guide prints under this name."""
    [printed] = re.findall(rf"```yaml\n# {name}\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    (folder / name).write_text(printed)
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(folder / name)]
    arguments = arguments_of(config, folder, "--json", str(folder / "result.json"))
    done = subprocess.run([*launcher, "-m", "vbon", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((folder / "result.json").read_text())["num_processes"] == 2


def one_update_is_that_of_one_process(
    configure, group: Group, metadata: dict[str, str], folder: Path, **settings
) -> None:
    """Sampling, log-probabilities, all networks, clipping and the step: with a minibatch of all rollouts."""
    config = configure(minibatch_size=32, advantage_clip=5.0, max_grad_norm=0.1, **settings)
    update(config, *ONE, folder / "one")
    update(config, *group, folder / "two")
    with safe_open(folder / "two", "np") as file:
        assert file.metadata() == metadata
    one, two = load_file(folder / "one"), load_file(folder / "two")
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        np.testing.assert_allclose(two[name].numpy(), tensor.numpy(), atol=ONE_UPDATE, err_msg=name)


def cut_and_continued_ends_like_one_process(configure, groups: list[Group], folder: Path, **changes) -> None:
    """Cut back to its middle and continued in another way, a run ends where an uncut one of one process does."""
    settings = {"algorithm": "ppo", "minibatch_size": 32, "keep_checkpoints": 4}  # a minibatch is all rollouts
    whole, moved = (configure(out=str(folder / name), **settings, **changes) for name in ("whole", "moved"))
    train(whole, *ONE, folder)
    train_cut(moved, groups, folder)
    assert_same_run(moved.out, whole.out, ("policy", "critic", "optimizer"))


def launched_is_one_process(configure, name: str, folder: Path) -> None:
    """BOND, which runs the policy twice before a gradient, after a warm start, by the guide's file of this name."""
    settings = {"objective": "bond", "warm_start": "offline", "minibatch_size": 32, "keep_checkpoints": 4}
    settings["validation_fraction"] = 0.0  # as many prompts as an iteration takes: none twice, in two processes
    alone, together = (configure(out=str(folder / name), **settings) for name in ("alone", "together"))
    train(alone, *ONE, folder)
    launch_as_the_guide_says(together, name, folder)
    assert_same_run(together.out, alone.out, ("policy", "optimizer"))


def update(config, count: int, environment: dict[str, str], out: Path) -> None:
    for status, said in processes.run_group(
        processes.one_update, count, out.parent, config, out, environment=environment
    ):
        assert status == 0, said[-3000:]


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
    environment = FSDP2 | {"FSDP_ACTIVATION_CHECKPOINTING": activation_checkpointing}
    one_update_is_that_of_one_process(configure, (2, environment), IN_SHARDS, tmp_path, **settings)


@pytest.mark.parametrize("groups", [("fsdp2", "one"), ("ddp", "fsdp2")], ids="-to-".join)
def test_a_checkpoint_moves_between_shards_and_whole_networks(configure, tmp_path, groups):
    cut_and_continued_ends_like_one_process(configure, [GROUPS[name] for name in groups], tmp_path)


def test_shards_by_accelerate_launch_and_its_configuration(configure, tmp_path):
    launched_is_one_process(configure, "fsdp2.yaml", tmp_path)


def test_a_gradient_that_is_not_finite_is_refused_and_changes_no_weight(configure, tmp_path):
    """It is not finite in one of two processes only; both refuse."""
    for environment in (DDP[1], FSDP2):
        arguments = (processes.exploding_update, 2, tmp_path, configure(algorithm="rloo"))
        for status, said in processes.run_group(*arguments, environment=environment):
            assert status == 0, said[-3000:]
