"""The enumerable task, a pool for it, and configs of small runs on it."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.enumerable import Enumerable, make_enumerable, task_of, write_pool

from vbon.config.train import TrainConfig


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Enumerable:
    return make_enumerable(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def pool(world: Enumerable) -> Path:
    """250 samples of each prompt, scored by `score`."""
    return write_pool(world, world.folder / "pool")


@pytest.fixture
def configure(world: Enumerable, pool: Path, tmp_path: Path) -> Callable[..., TrainConfig]:
    """configure(**changes) → a config of few and small iterations on the enumerable task."""

    def make(**changes) -> TrainConfig:
        values = {
            "pool": str(pool),
            "model": world.model,
            "reward": world.reward(),
            "n": 4.0,
            "out": str(tmp_path / "run"),
            "num_iterations": 4,
            "rollouts_per_iteration": 32,
            "samples_per_prompt": 4,
            "minibatch_size": 16,
            "learning_rate": 1e-3,
            "offline_learning_rate": 1e-3,
            "warm_start": "none",
            "num_epochs": 2,
            "validation_every": 2,
            "checkpoint_every": 2,
            "validation_fraction": 0.25,
            "offline_steps": 4,
            "offline_batch_size": 16,
            "device": "cpu",
            "tracker": "none",
            "num_threads": 1,
        }
        return TrainConfig(**{**values, **changes})

    return make


@pytest.fixture
def task(world: Enumerable, pool: Path):
    return task_of(world, pool)
