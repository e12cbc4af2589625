"""`vbon train` as its users run it: one process killed at random moments, and two processes that share the work."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file
from tests.training.test_trainer import rows, weights

from vbon.config.train import TrainConfig
from vbon.config.yaml_file import save_yaml
from vbon.training.metrics import read_rows
from vbon.training.train import train

SCRIPT = Path(__file__).with_name("two_processes.py")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
FLOAT32 = 3e-6  # sums over rows in another order, through one Adam step of size 1e-3


def command(config: TrainConfig, tmp_path: Path, *flags: str) -> list[str]:
    save_yaml(config, tmp_path / "config.yaml")
    return [sys.executable, "-m", "vbon", "train", "--config", str(tmp_path / "config.yaml"), *flags]


def run(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(arguments, env=ENVIRONMENT, capture_output=True, text=True, timeout=120)


def launch(*arguments: str) -> subprocess.CompletedProcess[str]:
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    return run([*launcher, "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", *arguments])


def kill_after_rows(arguments: list[str], metrics: Path, count: int, how: signal.Signals) -> tuple[int, str]:
    """Start the command, signal it once its diary has more than `count` lines, and return status and stderr."""
    process = subprocess.Popen(arguments, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 90
    while process.poll() is None and time.monotonic() < deadline:
        if metrics.exists() and len(metrics.read_text().splitlines()) > count:
            process.send_signal(how)
            break
        time.sleep(0.003)
    return process.wait(30), process.communicate()[1]


@pytest.mark.parametrize("changes", [{"algorithm": "ppo", "warm_start": "offline"}])
def test_a_run_killed_again_and_again_ends_bit_for_bit_like_an_untouched_one(configure, tmp_path, changes):
    sizes = {"num_iterations": 60, "offline_steps": 20, "validation_every": 10, "checkpoint_every": 5}
    whole = configure(out=str(tmp_path / "whole"), **sizes, **changes)
    train(whole)
    killed = configure(**sizes, **changes)
    metrics = Path(killed.out) / "vbon/metrics.jsonl"
    arguments = command(killed, tmp_path)
    for count, how in ((7, signal.SIGKILL), (33, signal.SIGINT), (61, signal.SIGKILL)):
        status, errors = kill_after_rows(arguments, metrics, count, how)
        assert status == (-signal.SIGKILL if how == signal.SIGKILL else 130), errors[-2000:]
        if how == signal.SIGINT:
            assert "the same command with --resume continues" in errors.splitlines()[-1]
            assert "Traceback" not in errors
        arguments = command(killed, tmp_path, "--resume")
    finished = run(arguments)
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert weights(killed.out) == weights(whole.out)
    assert rows(killed.out) == rows(whole.out)
    assert [row["iteration"] for row in rows(killed.out) if "reward" in row] == list(range(1, 61))


def test_errors_are_one_line_and_exit_status_2(configure, tmp_path):
    done = run(command(configure(), tmp_path, "--pool", str(tmp_path / "nowhere")))
    assert done.returncode == 2
    [line] = [line for line in done.stderr.splitlines() if "error" in line]
    assert line.startswith("vbon: error: ") and "no such pool" in line and "Traceback" not in done.stderr


def test_two_processes_write_one_diary_of_global_means(configure, tmp_path):
    config = configure(algorithm="ppo", warm_start="offline", tracker="tensorboard")
    save_yaml(config, tmp_path / "config.yaml")
    done = launch("-m", "vbon", "train", "--config", str(tmp_path / "config.yaml"), "--json", str(tmp_path / "r.json"))
    assert done.returncode == 0, done.stderr[-3000:]
    alone = configure(algorithm="ppo", warm_start="offline", out=str(tmp_path / "alone"))
    train(alone)
    together, single = read_rows(Path(config.out) / "vbon/metrics.jsonl"), rows(alone.out)
    assert [row["iteration"] for row in together] == [row["iteration"] for row in single]
    first, expected = (next(row for row in seen if "reward" in row) for seen in (together, single))
    for key in ("reward", "sequence_reward", "win_rate", "kl_policy_ref", "entropy", "objective_se"):
        assert first[key] == pytest.approx(expected[key], abs=1e-4), key
    assert json.loads((tmp_path / "r.json").read_text())["iterations"] == 4


@pytest.mark.parametrize("algorithm", ["rloo", "ppo"])
def test_one_update_by_two_processes_is_that_of_one(configure, tmp_path, algorithm):
    """With a minibatch of all rollouts the order of rows does not matter, and the sums are the same sums."""
    config = configure(algorithm=algorithm, minibatch_size=32, num_epochs=2, advantage_clip=5.0)
    save_yaml(config, tmp_path / "config.yaml")
    done = launch(str(SCRIPT), str(tmp_path / "config.yaml"), str(tmp_path / "two.safetensors"))
    assert done.returncode == 0, done.stderr[-3000:]
    alone = run([sys.executable, str(SCRIPT), str(tmp_path / "config.yaml"), str(tmp_path / "one.safetensors")])
    assert alone.returncode == 0, alone.stderr[-3000:]
    one, two = (load_file(tmp_path / f"{name}.safetensors") for name in ("one", "two"))
    start = load_file(Path(config.model) / "model.safetensors")
    for name, tensor in one.items():
        np.testing.assert_allclose(two[name].numpy(), tensor.numpy(), atol=FLOAT32, err_msg=name)
    assert (one["policy.lm_head.weight"] - start["lm_head.weight"]).abs().max() > 1e-3


def test_rollouts_that_processes_cannot_share_are_refused(configure, tmp_path):
    config = configure(rollouts_per_iteration=12, samples_per_prompt=4)
    save_yaml(config, tmp_path / "config.yaml")
    done = launch("-m", "vbon", "train", "--config", str(tmp_path / "config.yaml"))
    assert done.returncode != 0
    assert "holds 3 prompts of 4 samples, which 2 processes cannot share equally" in done.stderr
    assert not Path(config.out).exists()
