"""Several processes: `accelerate launch` as its users run it, and a run continued by another number of processes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.training.test_learning import BOUNDS, N, to_best_of_8
from tests.training.test_processes import arguments_of
from tests.training.ways import DDP, assert_same_run, killed_twice_ends_like_undisturbed, train, train_cut

# `--multi_gpu` is accelerate's name for its launcher of several processes, on CPUs too; with `--cpu` it starts one.
LAUNCH = "--multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no --main_process_port 0"


@pytest.mark.learning
@pytest.mark.timeout(400)
def test_two_processes_by_accelerate_launch_reach_best_of_8(world, configure, tmp_path):
    """The same run and the same bar as one process's, levels of a tied reward."""
    config = to_best_of_8(world, configure, tmp_path, "levels")
    arguments = arguments_of(config, tmp_path, "--json", str(tmp_path / "result.json"))
    command = [sys.executable, "-m", "accelerate.commands.launch", *LAUNCH.split(), "-m", "vbon", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=380)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((tmp_path / "result.json").read_text())["num_processes"] == 2
    assert world.kl_policy_bon(config.out, N, "levels") < BOUNDS["levels"][1]


@pytest.mark.parametrize("sizes", [(2, 1), (1, 2)])
def test_a_checkpoint_moves_between_world_sizes(configure, tmp_path, sizes):
    """Cut back to its middle and continued by another number of processes, a run ends where an uncut one does."""
    settings = {"algorithm": "ppo", "minibatch_size": 32, "keep_checkpoints": 4}  # a minibatch is all rollouts
    whole = configure(out=str(tmp_path / "whole"), **settings)
    moved = configure(out=str(tmp_path / "moved"), **settings)
    train(whole, sizes[1], {}, tmp_path)
    train_cut(moved, [(count, {}) for count in sizes], tmp_path)
    assert_same_run(moved.out, whole.out, ("policy", "critic", "optimizer"))
    result = json.loads((Path(moved.out) / "vbon/run.json").read_text())["result"]
    assert result["num_processes"] == sizes[1]


@pytest.mark.learning
@pytest.mark.timeout(600)
def test_two_processes_killed_and_resumed_end_bit_for_bit_like_two_undisturbed(configure, tmp_path):
    """torchrun as in the guide: first one process is killed, which takes the other down, then all at once."""
    killed_twice_ends_like_undisturbed(configure, DDP, 24, (6, 15), tmp_path)
