"""Several processes: `accelerate launch` as its users run it, and a run continued by another number of processes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file
from tests.training import ranks
from tests.training.conftest import write_pool
from tests.training.test_learning import BOUNDS
from tests.training.test_processes import arguments_of
from tests.training.test_trainer import rows

# `--multi_gpu` is accelerate's name for its launcher of several processes, on CPUs too; with `--cpu` it starts one.
LAUNCH = "--multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no --main_process_port 0"
FLOAT32 = 1e-4  # sums over rows in another order, through eight Adam steps of size 1e-3


@pytest.mark.learning
@pytest.mark.timeout(400)
def test_two_processes_by_accelerate_launch_reach_best_of_8(world, configure, tmp_path):
    """The same run and the same bar as one process's, levels of a tied reward."""
    config = configure(
        pool=str(write_pool(world, tmp_path / "pool", 4000, "levels")), reward=world.reward("levels"), n=8.0,
        num_iterations=60, num_epochs=4, rollouts_per_iteration=128, samples_per_prompt=8, minibatch_size=64,
        learning_rate=5e-3, validation_fraction=0.0, validation_every=15, checkpoint_every=60,
    )  # fmt: skip
    arguments = arguments_of(config, tmp_path, "--json", str(tmp_path / "result.json"))
    command = [sys.executable, "-m", "accelerate.commands.launch", *LAUNCH.split(), "-m", "vbon", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=380)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((tmp_path / "result.json").read_text())["num_processes"] == 2
    assert world.kl_policy_bon(config.out, 8.0, "levels") < BOUNDS["levels"][1]


@pytest.mark.parametrize("sizes", [(2, 1), (1, 2)])
def test_a_checkpoint_moves_between_world_sizes(configure, tmp_path, sizes):
    """Cut back to its middle and continued by another number of processes, a run ends where an uncut one does."""
    settings = {"algorithm": "ppo", "minibatch_size": 32, "keep_checkpoints": 4}  # a minibatch is all rollouts
    whole = configure(out=str(tmp_path / "whole"), **settings)
    moved = configure(out=str(tmp_path / "moved"), **settings)
    launch(whole, sizes[1], tmp_path)
    launch(moved, sizes[0], tmp_path)
    checkpoints = Path(moved.out) / "vbon/checkpoints"
    shutil.rmtree(checkpoints / "step-000004")
    (Path(moved.out) / "model.safetensors").unlink()
    launch(moved, sizes[1], tmp_path, "--resume")
    assert [row["iteration"] for row in rows(moved.out) if "reward" in row] == [1, 2, 3, 4]
    last = "vbon/checkpoints/step-000004"
    for name in ("policy", "critic", "optimizer"):
        one, other = (load_file(Path(run.out) / last / f"{name}.safetensors") for run in (whole, moved))
        assert one.keys() == other.keys()
        for key in one:
            np.testing.assert_allclose(other[key], one[key], atol=FLOAT32, err_msg=f"{name}.{key}")
    result = json.loads((Path(moved.out) / "vbon/run.json").read_text())["result"]
    assert result["num_processes"] == sizes[1]


def launch(config, count: int, folder: Path, *flags: str) -> None:
    for status, said in ranks.run_ranks(ranks.command_line, count, folder, arguments_of(config, folder, *flags)):
        assert status == 0, said[-3000:]


@pytest.mark.learning
@pytest.mark.timeout(600)
def test_two_processes_killed_and_resumed_end_bit_for_bit_like_two_undisturbed(configure, tmp_path):
    """torchrun as in the guide: first one process is killed, which takes the other down, then all at once."""
    settings = {"algorithm": "ppo", "num_iterations": 24, "checkpoint_every": 4, "validation_every": 8}
    whole, killed = configure(out=str(tmp_path / "whole"), **settings), configure(out=str(tmp_path / "k"), **settings)
    launch(whole, 2, tmp_path)
    for flags, count, everyone in (((), 6, False), (("--resume",), 15, True)):
        assert kill_launched(killed, tmp_path, *flags, after_rows=count, everyone=everyone) != 0
        assert not (Path(killed.out) / "model.safetensors").exists()
    status, said = torchrun(killed, tmp_path, "--resume").wait(300), (tmp_path / "torchrun").read_text()
    assert status == 0, said[-3000:]
    for name in ("model.safetensors", "vbon/checkpoints/step-000024/critic.safetensors"):
        assert (Path(killed.out) / name).read_bytes() == (Path(whole.out) / name).read_bytes()
    assert rows(killed.out) == rows(whole.out)
    assert [row["iteration"] for row in rows(killed.out) if "reward" in row] == list(range(1, 25))


def torchrun(config, folder: Path, *flags: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "--"]
    with open(folder / "torchrun", "w") as said:
        arguments = arguments_of(config, folder, *flags)
        return subprocess.Popen([*command, "vbon", *arguments], stdout=said, stderr=subprocess.STDOUT)


def kill_launched(config, folder: Path, *flags: str, after_rows: int, everyone: bool) -> int:
    """SIGKILL a process of the group, or all and their launcher, once the diary is that long; the launcher's status."""
    launcher, diary = torchrun(config, folder, *flags), Path(config.out) / "vbon/metrics.jsonl"
    while not diary.exists() or len(diary.read_text().splitlines()) <= after_rows:
        assert launcher.poll() is None, (folder / "torchrun").read_text()[-3000:]
        time.sleep(0.003)
    found = subprocess.run(["pgrep", "-P", str(launcher.pid)], capture_output=True, text=True, check=True)
    ranks_of_launcher = [int(pid) for pid in found.stdout.split()]
    assert len(ranks_of_launcher) == 2
    for pid in [launcher.pid, *ranks_of_launcher] if everyone else ranks_of_launcher[1:]:
        os.kill(pid, signal.SIGKILL)
    return launcher.wait(100)
