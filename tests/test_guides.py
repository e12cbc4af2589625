"""The code of two guides runs as printed: the reward server, the judge, and the templates of an extension."""

import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tests.enumerable import make_enumerable, write_pool
from tests.ports import free_port

from vbon.config.methods import METHODS
from vbon.config.train import TrainConfig
from vbon.core.objectives import OBJECTIVES
from vbon.core.reward_cdf import Interval, RewardCDF
from vbon.lab.exact import kl, tilted
from vbon.rewards import load_reward
from vbon.training.train import train

GUIDES = Path(__file__).resolve().parents[1] / "docs" / "guides"


def blocks(guide: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (GUIDES / guide).read_text(), re.DOTALL)


def named(guide: str, file: str, folder: Path) -> Path:
    """Write the block that begins with the name of a file."""
    (code,) = [block for block in blocks(guide) if block.startswith(f"# {file}\n")]
    (folder / file).write_text(code)
    return folder / file


def answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
def served(tmp_path):
    """The URL of the guide's server."""
    port = free_port()
    server = [sys.executable, str(named("rewards.md", "server.py", tmp_path)), str(port)]
    with subprocess.Popen(server, stderr=subprocess.DEVNULL) as process:
        while not answers(port):
            assert process.poll() is None
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}/"
        process.terminate()


def test_the_server_answers_in_order(served):
    texts = ["x" * size for size in range(1, 40)]
    reward = load_reward(served, batch_size=3, concurrency=4)
    np.testing.assert_array_equal(reward(["p"] * 39, texts), np.arange(1, 40))


def test_the_function_and_the_judge_are_rewards(tmp_path):
    score = load_reward(f"{named('rewards.md', 'reward.py', tmp_path)}:score")
    np.testing.assert_array_equal(score(["p", "p"], ["a b a", "c"]), [2, 1])
    judge = load_reward(f"pairwise:{named('rewards.md', 'judge.py', tmp_path)}:better")
    np.testing.assert_array_equal(judge(["p"] * 3, ["a", "ccc", "bb"]), [0, 1, 0.5])


@pytest.fixture
def extension():
    """The names that the templates of the guide define, while they are in place."""
    names: dict = {}
    for code in blocks("extending.md"):
        exec(code, names)
    yield names
    for table in (OBJECTIVES, METHODS):
        del table["capped"]


def test_the_templates_of_an_extension_run(extension):
    np.testing.assert_array_equal(extension["reward"](["p", "p"], ["a!", "b!!"]), [1, 2])
    interval = RewardCDF(np.arange(99.0), [99]).interval([0, 0, 0], [10.5, 95.5, 98.5])
    signal = OBJECTIVES["capped"](np.zeros(3), interval, 5.0, None)
    np.testing.assert_allclose(signal.sequence_reward, np.log([0.115, 0.9, 0.9]))
    assert signal.kl_coef == 0.25


@pytest.mark.learning
def test_the_method_of_the_template_trains_towards_the_optimum_of_its_objective(extension, tmp_path):
    world = make_enumerable(tmp_path)
    config = TrainConfig(
        method="capped",
        pool=str(write_pool(world, tmp_path / "pool", 1000)),
        model=world.model,
        reward=world.reward(),
        n=8.0,
        out=str(tmp_path / "run"),
        warm_start="none",
        num_iterations=30,
        num_epochs=4,
        rollouts_per_iteration=128,
        minibatch_size=64,
        learning_rate=5e-3,
        validation_every=30,
        validation_fraction=0.0,
        device="cpu",
        tracker="none",
    )
    result = train(config)
    truth = world.truth()
    lower, upper = truth.cdf
    signal = OBJECTIVES["capped"](truth.rewards, Interval(lower, upper, upper - lower), config.n, None)
    optimum = tilted(truth, signal.sequence_reward, signal.kl_coef)
    assert kl(world.logprobs(result["out"]), optimum) < 0.1 * kl(world.ref_logprobs, optimum)
