"""Nothing that training needs stays on the CPU: the same runs on a device whose tensors mix with none of the CPU's."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from vbon.config import merged_text

ROOT = Path(__file__).parents[2]
RUNS = [
    {"algorithm": "ppo", "warm_start": "critic", "offline_steps": 2},
    {"algorithm": "rloo", "warm_start": "offline", "offline_steps": 2, "kl_estimator": "full"},
    {"algorithm": "offline", "offline_loss": "regression", "offline_steps": 2},
]
FLOAT32 = 2e-4  # log-probabilities of two kernels, summed over an iteration or two


def test_a_run_elsewhere_sees_what_a_run_on_the_cpu_sees(configure, tmp_path):
    few = {"num_iterations": 2, "rollouts_per_iteration": 16, "num_epochs": 1, "validation_every": 1}
    for number, changes in enumerate(RUNS):
        (tmp_path / f"{number}.yaml").write_text(
            merged_text(configure(out=str(tmp_path / f"run-{number}"), **few, **changes)), "utf-8"
        )
    configs = [str(tmp_path / f"{number}.yaml") for number in range(len(RUNS))]
    command = [sys.executable, "-W", "ignore", "-m", "tests.training.on_two_devices", *configs]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    for here, there in json.loads(done.stdout.splitlines()[-1]):
        assert len(here) == len(there) > 1
        for mine, theirs in zip(here, there, strict=True):
            assert theirs == pytest.approx(mine, abs=FLOAT32, rel=FLOAT32)
