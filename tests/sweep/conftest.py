"""The enumerable task of tests/training as a sweep: two pools, a SWEEP.yaml, and one sweep run to its end."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.enumerable import PROMPTS, write_enumerable

from vbon.config.pool import CollectConfig
from vbon.pool.collect import collect

HELD_OUT = ["two one", "three two one", "one three", "two two", "three three", "one one"]
COMMAND = [sys.executable, "-m", "vbon", "sweep"]
LIMIT = 500  # seconds for a whole sweep: about 20 on a free core, many times that on a busy one


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model/, reward.py, pool/ (8 prompts) and heldout/ (6 others), 64 samples a prompt."""
    folder = tmp_path_factory.mktemp("sweeps")
    write_enumerable(folder)
    for name, prompts in (("pool", PROMPTS), ("heldout", HELD_OUT)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"prompt": p}) + "\n" for p in prompts))
        collect(
            CollectConfig(
                model=str(folder / "model"),
                reward=f"{folder}/reward.py:score",
                device="cpu",
                seed=1,
                num_samples=64,
                prompts=str(folder / f"{name}.jsonl"),
                out=str(folder / name),
                max_new_tokens=3,
            ),
            progress=False,
        )
    return folder


@pytest.fixture(scope="session")
def settings_of(world: Path) -> Callable[..., dict[str, Any]]:
    """settings_of(out, **changes) → what a SWEEP.yaml holds: 2 methods × 2 N × 2 seeds, and a search for one."""

    def make(out: Path, **changes: Any) -> dict[str, Any]:
        return {
            "model": f"{world}/model",
            "reward": f"{world}/reward.py:score",
            "pool": f"{world}/pool",
            "heldout": f"{world}/heldout",
            "out": str(out),
            "n": [2, 4],
            "seeds": [0, 1],
            "learning_rates": [0.001],
            "offline_learning_rates": [0.001, 0.01],
            "methods": {"vbon": {}, "bonbon": {}},
            "train": {
                "num_iterations": 3,
                "rollouts_per_iteration": 32,
                "samples_per_prompt": 4,
                "minibatch_size": 16,
                "offline_steps": 6,
                "offline_batch_size": 16,
                "validation_every": 2,
                "validation_fraction": 0.25,
                "checkpoint_every": 2,
                "device": "cpu",
            },
            "evaluate": {"samples_per_prompt": 4, "device": "cpu", "judges": [f"{world}/reward.py:levels"]},
        } | changes

    return make


def write_sweep(folder: Path, settings: dict[str, Any]) -> Path:
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump(settings, sort_keys=False))
    return path


@pytest.fixture(scope="session")
def finished(settings_of, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep's folder, never interrupted."""
    folder = tmp_path_factory.mktemp("finished")
    done = subprocess.run(
        [*COMMAND, str(write_sweep(folder, settings_of(folder / "out")))],
        capture_output=True,
        text=True,
        check=False,
        timeout=LIMIT,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "8 of 8 runs done, 0 failed" in done.stdout
    return folder / "out"
