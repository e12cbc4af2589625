"""Several processes: `accelerate launch` as its users run it, and a run continued by another number of processes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from tests.training.runs import (
    BOUNDS,
    DDP,
    LAUNCH,
    Group,
    N,
    arguments_of,
    assert_same_run,
    rows,
    to_best_of_8,
    train,
    train_cut,
)


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


def killed_twice_ends_like_undisturbed(
    configure, group: Group, num_iterations: int, after_rows: tuple[int, int], folder: Path
) -> None:
    """torchrun: first one process is killed, which takes the other down, then all at once; bit for bit."""
    settings = {"algorithm": "ppo", "num_iterations": num_iterations, "checkpoint_every": 4, "validation_every": 8}
    whole, killed = configure(out=str(folder / "whole"), **settings), configure(out=str(folder / "k"), **settings)
    train(whole, *group, folder)
    for count, everyone in ((after_rows[0], False), (after_rows[1], True)):
        assert kill_launched(killed, folder, environment=group[1], after_rows=count, everyone=everyone) != 0
        assert not (Path(killed.out) / "model.safetensors").exists()
    status = torchrun(killed, folder, environment=group[1]).wait(300)
    assert status == 0, (folder / "torchrun").read_text()[-3000:]
    for name in ("model.safetensors", f"vbon/checkpoints/step-{num_iterations:06}/critic.safetensors"):
        assert (Path(killed.out) / name).read_bytes() == (Path(whole.out) / name).read_bytes()
    assert rows(killed.out) == rows(whole.out)
    assert [row["iteration"] for row in rows(killed.out) if "reward" in row] == list(range(1, num_iterations + 1))


def torchrun(config, folder: Path, *flags: str, environment: Mapping[str, str]) -> subprocess.Popen:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "--"]
    with open(folder / "torchrun", "w") as said:
        arguments = arguments_of(config, folder, *flags)
        return subprocess.Popen(
            [*command, "vbon", *arguments], stdout=said, stderr=subprocess.STDOUT, env={**os.environ, **environment}
        )


def kill_launched(config, folder: Path, *, environment: Mapping[str, str], after_rows: int, everyone: bool) -> int:
    """SIGKILL a process of the group, or all and their launcher, once the diary is that long; the launcher's status."""
    launcher, diary = torchrun(config, folder, environment=environment), Path(config.out) / "vbon/metrics.jsonl"
    while not diary.exists() or len(diary.read_text().splitlines()) <= after_rows:
        assert launcher.poll() is None, (folder / "torchrun").read_text()[-3000:]
        time.sleep(0.003)
    found = subprocess.run(["pgrep", "-P", str(launcher.pid)], capture_output=True, text=True, check=True)
    ranks_of_launcher = [int(pid) for pid in found.stdout.split()]
    assert len(ranks_of_launcher) == 2
    for pid in [launcher.pid, *ranks_of_launcher] if everyone else ranks_of_launcher[1:]:
        os.kill(pid, signal.SIGKILL)
    return launcher.wait(100)


@pytest.mark.learning
@pytest.mark.timeout(600)
def test_two_processes_killed_and_resumed_end_bit_for_bit_like_two_undisturbed(configure, tmp_path):
    """torchrun as in the guide: first one process is killed, which takes the other down, then all at once."""
    killed_twice_ends_like_undisturbed(configure, DDP, 24, (6, 15), tmp_path)
