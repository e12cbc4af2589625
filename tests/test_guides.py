"""The code of two guides runs as printed: the reward server, the judge, and the templates of an extension."""

import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from vbon.core.objectives import OBJECTIVES
from vbon.core.reward_cdf import RewardCDF
from vbon.rewards import load_reward

GUIDES = Path(__file__).resolve().parents[1] / "docs" / "guides"
WAIT = 30.0  # seconds for a server to come up


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
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = [sys.executable, str(named("rewards.md", "server.py", tmp_path)), str(port)]
    with subprocess.Popen(server, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + WAIT
        while time.monotonic() < deadline and not answers(port):
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


def test_the_templates_of_an_extension_run(monkeypatch):
    reward_code, objective_code = blocks("extending.md")
    names: dict = {}
    exec(reward_code, names)
    np.testing.assert_array_equal(names["reward"](["p", "p"], ["a!", "b!!"]), [1, 2])
    monkeypatch.setattr("vbon.core.objectives.OBJECTIVES", OBJECTIVES.copy())
    exec(objective_code, names)
    interval = RewardCDF(np.arange(99.0), [99]).interval([0, 0, 0], [10.5, 95.5, 98.5])
    signal = names["OBJECTIVES"]["capped"](np.zeros(3), interval, 5.0)
    np.testing.assert_allclose(signal.sequence_reward, np.log([0.115, 0.9, 0.9]))
    assert signal.kl_coef == 0.25 and "capped" not in OBJECTIVES
