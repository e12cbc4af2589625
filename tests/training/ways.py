"""The same run in several ways: alone, in two processes, with weights shared out between them."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file
from tests.training import ranks
from tests.training.test_launch import FLOAT32
from tests.training.test_processes import arguments_of
from tests.training.test_trainer import rows

GUIDE = Path(__file__).parents[2] / "docs/guides/processes.md"
Way = tuple[int, dict[str, str]]
"""How many processes, and what a launcher tells them beside their ranks."""


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
    (Path(config.out) / "model.safetensors").unlink()
    train(config, *ways[1], folder, "--resume")
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
