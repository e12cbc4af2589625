"""`vbon train` as its users run it: one process killed at random moments, and two processes that share the work."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.torch import load_file
from tests.training import processes
from tests.training.runs import arguments_of, rows, weights

from vbon.artifacts.run import read_rows
from vbon.training.train import train

FLOAT32 = 1e-5  # sums over rows in another order, through two Adam steps of size 1e-3


def kill_after_rows(arguments: list[str], metrics: Path, count: int, how: signal.Signals, errors: Path) -> int:
    """Start the command, signal it once its diary has more than `count` lines, and return its exit status."""
    process = processes.start(processes.command_line, errors, arguments)
    while process.is_alive():
        if metrics.exists() and len(metrics.read_text().splitlines()) > count:
            subprocess.run(["kill", f"-{how.value}", str(process.pid)], check=True)
            break
        time.sleep(0.003)
    process.join(processes.LIMIT)
    return int(process.exitcode or 0)


def test_a_run_killed_again_and_again_ends_bit_for_bit_like_an_untouched_one(configure, tmp_path):
    sizes = {"num_iterations": 40, "offline_steps": 20, "validation_every": 10, "checkpoint_every": 5}
    whole = configure(out=str(tmp_path / "whole"), algorithm="ppo", warm_start="offline", **sizes)
    train(whole)
    killed = configure(algorithm="ppo", warm_start="offline", **sizes)
    metrics, errors = Path(killed.out) / "vbon/metrics.jsonl", tmp_path / "stderr"
    arguments = arguments_of(killed, tmp_path)
    for count, how in ((2, "KILL"), (13, "KILL"), (24, "INT"), (37, "KILL"), (52, "KILL")):
        status = kill_after_rows(arguments, metrics, count, signal.Signals[f"SIG{how}"], errors)
        assert status == (130 if how == "INT" else -signal.SIGKILL), errors.read_text()[-2000:]
        if how == "INT":
            assert "run the same command to continue" in errors.read_text().splitlines()[-1]
    [(status, said)] = processes.run_group(processes.command_line, 1, tmp_path, arguments)
    assert status == 0, said[-2000:]
    assert weights(killed.out) == weights(whole.out)
    assert rows(killed.out) == rows(whole.out)
    assert [row["iteration"] for row in rows(killed.out) if "reward" in row] == list(range(1, 41))


def test_errors_are_one_line_and_exit_status_2(configure, tmp_path):
    arguments = arguments_of(configure(), tmp_path, "--pool", str(tmp_path / "nowhere"))
    done = subprocess.run([sys.executable, "-m", "vbon", *arguments], capture_output=True, text=True, timeout=150)
    assert done.returncode == 2
    line = done.stderr.splitlines()[-1]
    assert line.startswith("vbon: error: ") and "no such pool" in line and "Traceback" not in done.stderr


def test_two_processes_write_one_diary_of_global_means(configure, tmp_path):
    config = configure(algorithm="ppo", warm_start="offline", tracker="tensorboard")
    arguments = arguments_of(config, tmp_path, "--json", str(tmp_path / "result.json"))
    for status, said in processes.run_group(processes.command_line, 2, tmp_path, arguments):
        assert status == 0, said[-3000:]
    assert json.loads((tmp_path / "result.json").read_text())["num_processes"] == 2
    alone = configure(algorithm="ppo", warm_start="offline", out=str(tmp_path / "alone"))
    train(alone)
    together, single = read_rows(Path(config.out) / "vbon/metrics.jsonl"), rows(alone.out)
    assert [row["iteration"] for row in together] == [row["iteration"] for row in single]
    first, expected = (next(row for row in seen if "reward" in row) for seen in (together, single))
    for key in ("reward", "sequence_reward", "win_rate", "kl_policy_ref", "entropy", "objective_se"):
        assert first[key] == pytest.approx(expected[key], abs=1e-4), key


@pytest.mark.parametrize("algorithm", ["rloo", "ppo", "residual"])
def test_one_update_by_two_processes_is_that_of_one(configure, tmp_path, algorithm):
    """With a minibatch of all rollouts the order of rows does not matter, and the sums are the same sums."""
    config = configure(algorithm=algorithm, minibatch_size=32, advantage_clip=5.0)
    for count in (1, 2):
        for status, said in processes.run_group(processes.one_update, count, tmp_path, config, tmp_path / f"{count}"):
            assert status == 0, said[-3000:]
    with safe_open(tmp_path / "2", "np") as file:
        assert file.metadata()["num_processes"] == "2"
    one, two = load_file(tmp_path / "1"), load_file(tmp_path / "2")
    for name, tensor in one.items():
        np.testing.assert_allclose(two[name].numpy(), tensor.numpy(), atol=FLOAT32, err_msg=name)
    start = load_file(Path(config.model) / "model.safetensors")
    assert (one["policy.lm_head.weight"] - start["lm_head.weight"]).abs().max() > 1e-3


def test_rollouts_that_processes_cannot_share_are_refused(configure, tmp_path):
    config = configure(rollouts_per_iteration=12, samples_per_prompt=4)
    for status, said in processes.run_group(processes.command_line, 2, tmp_path, arguments_of(config, tmp_path)):
        assert status == 2
        assert "holds 3 prompts of 4 samples, which 2 processes cannot share equally" in said.splitlines()[-1]
    assert not Path(config.out).exists()
