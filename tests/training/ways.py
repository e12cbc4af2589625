"""The same run in several ways: alone, in two processes, with weights shared out between them."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.torch import load_file
from tests.training import ranks
from tests.training.test_processes import FLOAT32 as ONE_UPDATE
from tests.training.test_processes import arguments_of
from tests.training.test_trainer import rows

GUIDE = Path(__file__).parents[2] / "docs/guides/processes.md"
FLOAT32 = 1e-4  # sums over rows in another order, through eight Adam steps of size 1e-3
Way = tuple[int, dict[str, str]]
"""How many processes, and what a launcher tells them beside their ranks."""
ONE: Way = (1, {})
DDP: Way = (2, {})


def update(config, count: int, told: dict[str, str], out: Path) -> None:
    for status, said in ranks.run_ranks(ranks.one_update, count, out.parent, config, out, environment=told):
        assert status == 0, said[-3000:]


def train(config, count: int, told: dict[str, str], folder: Path, *flags: str) -> None:
    arguments = arguments_of(config, folder, *flags)
    for status, said in ranks.run_ranks(ranks.command_line, count, folder, arguments, environment=told):
        assert status == 0, said[-3000:]


def train_cut(config, ways: list[Way], folder: Path) -> None:
    """Train four iterations in one way, cut the run back to its middle and go on in another."""
    train(config, *ways[0], folder)
    shutil.rmtree(Path(config.out) / "vbon/checkpoints/step-000004")
    for name in ("vbon/run.json", "model.safetensors"):
        (Path(config.out) / name).unlink()
    train(config, *ways[1], folder)
    assert [row["iteration"] for row in rows(config.out) if "reward" in row] == [1, 2, 3, 4]


def launch_as_the_guide_says(config, name: str, folder: Path, limit: float = ranks.LIMIT) -> None:
    """`accelerate launch` with the configuration that the guide prints under this name."""
    [printed] = re.findall(rf"```yaml\n# {name}\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    (folder / name).write_text(printed)
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(folder / name)]
    arguments = arguments_of(config, folder, "--json", str(folder / "result.json"))
    done = subprocess.run([*launcher, "-m", "vbon", *arguments], capture_output=True, text=True, timeout=limit)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((folder / "result.json").read_text())["num_processes"] == 2


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


def killed_twice_ends_like_undisturbed(
    configure, way: Way, num_iterations: int, after_rows: tuple[int, int], folder: Path
) -> None:
    """torchrun: first one process is killed, which takes the other down, then all at once; bit for bit."""
    settings = {"algorithm": "ppo", "num_iterations": num_iterations, "checkpoint_every": 4, "validation_every": 8}
    whole, killed = configure(out=str(folder / "whole"), **settings), configure(out=str(folder / "k"), **settings)
    train(whole, *way, folder)
    for count, everyone in ((after_rows[0], False), (after_rows[1], True)):
        assert kill_launched(killed, folder, told=way[1], after_rows=count, everyone=everyone) != 0
        assert not (Path(killed.out) / "model.safetensors").exists()
    status = torchrun(killed, folder, told=way[1]).wait(300)
    assert status == 0, (folder / "torchrun").read_text()[-3000:]
    for name in ("model.safetensors", f"vbon/checkpoints/step-{num_iterations:06}/critic.safetensors"):
        assert (Path(killed.out) / name).read_bytes() == (Path(whole.out) / name).read_bytes()
    assert rows(killed.out) == rows(whole.out)
    assert [row["iteration"] for row in rows(killed.out) if "reward" in row] == list(range(1, num_iterations + 1))


def torchrun(config, folder: Path, *flags: str, told: Mapping[str, str]) -> subprocess.Popen:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "--"]
    with open(folder / "torchrun", "w") as said:
        arguments = arguments_of(config, folder, *flags)
        return subprocess.Popen(
            [*command, "vbon", *arguments], stdout=said, stderr=subprocess.STDOUT, env={**os.environ, **told}
        )


def kill_launched(config, folder: Path, *, told: Mapping[str, str], after_rows: int, everyone: bool) -> int:
    """SIGKILL a process of the group, or all and their launcher, once the diary is that long; the launcher's status."""
    launcher, diary = torchrun(config, folder, told=told), Path(config.out) / "vbon/metrics.jsonl"
    while not diary.exists() or len(diary.read_text().splitlines()) <= after_rows:
        assert launcher.poll() is None, (folder / "torchrun").read_text()[-3000:]
        time.sleep(0.003)
    found = subprocess.run(["pgrep", "-P", str(launcher.pid)], capture_output=True, text=True, check=True)
    ranks_of_launcher = [int(pid) for pid in found.stdout.split()]
    assert len(ranks_of_launcher) == 2
    for pid in [launcher.pid, *ranks_of_launcher] if everyone else ranks_of_launcher[1:]:
        os.kill(pid, signal.SIGKILL)
    return launcher.wait(100)


def one_update_is_that_of_one_process(configure, way: Way, metadata: dict[str, str], folder: Path, **settings) -> None:
    """Sampling, log-probabilities, all networks, clipping and the step: with a minibatch of all rollouts."""
    config = configure(minibatch_size=32, advantage_clip=5.0, max_grad_norm=0.1, **settings)
    update(config, *ONE, folder / "one")
    update(config, *way, folder / "two")
    with safe_open(folder / "two", "np") as file:
        assert file.metadata() == metadata
    one, two = load_file(folder / "one"), load_file(folder / "two")
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        np.testing.assert_allclose(two[name].numpy(), tensor.numpy(), atol=ONE_UPDATE, err_msg=name)


def cut_and_continued_ends_like_one_process(configure, ways: list[Way], folder: Path, **changes) -> None:
    """Cut back to its middle and continued in another way, a run ends where an uncut one of one process does."""
    settings = {"algorithm": "ppo", "minibatch_size": 32, "keep_checkpoints": 4}  # a minibatch is all rollouts
    whole, moved = (configure(out=str(folder / name), **settings, **changes) for name in ("whole", "moved"))
    train(whole, *ONE, folder)
    train_cut(moved, ways, folder)
    assert_same_run(moved.out, whole.out, ("policy", "critic", "optimizer"))


def launched_is_one_process(configure, name: str, folder: Path) -> None:
    """BOND, which runs the policy twice before a gradient, after a warm start, by the guide's file of this name."""
    settings = {"objective": "bond", "warm_start": "offline", "minibatch_size": 32, "keep_checkpoints": 4}
    settings["validation_fraction"] = 0.0  # as many prompts as an iteration takes: none twice, in two processes
    alone, together = (configure(out=str(folder / name), **settings) for name in ("alone", "together"))
    train(alone, *ONE, folder)
    launch_as_the_guide_says(together, name, folder)
    assert_same_run(together.out, alone.out, ("policy", "optimizer"))
