"""`vbon verify` against a server of exact draws: the model itself, the same one at another temperature, another one."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

import numpy as np
import pytest
import torch
from tests.enumerable import COMPLETIONS, EOS, PROMPTS, TEXTS, make_enumerable
from tests.loopback import serve_on_loopback

from vbon.cli import main
from vbon.models import load

FLOAT32 = 1e-4


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_enumerable(tmp_path_factory.mktemp("world"))


@contextmanager
def serving(world, *, temperature: float = 1.0, style: str = "silent") -> Iterator[str]:
    """The base URL of a server that draws completions from the enumerated policy.

    style: what it tells of log-probabilities: "silent", "tokens" as vLLM, "content" as llama.cpp.
    """
    tokenizer = load.load_tokenizer(world.model)
    table = world.ref_logprobs / temperature
    probs = np.exp(table) / np.exp(table).sum(1, keepdims=True)
    random = np.random.default_rng(5)
    token_logprobs = _token_logprobs(world)

    def choice(prompt: list[int] | str) -> dict:
        text = prompt if isinstance(prompt, str) else tokenizer.decode(prompt)
        index = PROMPTS.index(text.strip())
        row = int(random.choice(len(COMPLETIONS), p=probs[index]))
        ids, logprobs = COMPLETIONS[row], token_logprobs[index][row]
        told = {
            "silent": {},
            "tokens": {"token_ids": ids, "logprobs": {"token_logprobs": logprobs}},
            "content": {"logprobs": {"content": [{"id": i, "logprob": v} for i, v in zip(ids, logprobs, strict=True)]}},
        }[style]
        return {"text": TEXTS[row], "finish_reason": "stop" if ids[-1] == EOS else "length", **told}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            known = isinstance(body["prompt"], list) or body["prompt"].strip() in PROMPTS
            choices = [choice(body["prompt"]) for _ in range(body["n"])] if known and _is_prompt(body) else [_ANY]
            content = json.dumps({"choices": choices}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    def _is_prompt(body: dict) -> bool:
        prompt = body["prompt"]
        return (prompt if isinstance(prompt, str) else tokenizer.decode(prompt)).strip() in PROMPTS

    with serve_on_loopback(Handler) as address:
        yield f"{address}/v1"


_ANY = {"text": "a", "finish_reason": "length"}  # the answer to a first question that is no prompt


def _token_logprobs(world) -> list[list[list[float]]]:
    """log π of each token of each completion, by a plain forward pass."""
    policy = load.load_policy(world.model)
    found = []
    for prompt in world.world.prompt_ids:
        rows = []
        for ids in COMPLETIONS:
            with torch.no_grad():
                logprobs = policy(torch.tensor([[*prompt, *ids]])).logits.log_softmax(-1)[0, len(prompt) - 1 : -1]
            rows.append([float(logprobs[t, token]) for t, token in enumerate(ids)])
        found.append(rows)
    return found


def verified(world, url: str, folder, *more: str) -> dict:
    result = folder / "result.json"
    command = ["verify", "--model", world.model, "--base-url", url, "--reward", world.reward(), "--device", "cpu"]
    command += ["--prompts", str(world.folder / "prompts.jsonl"), "--num-samples", "200", "--max-new-tokens", "3"]
    assert main([*command, "--out", str(folder / "pools"), "--json", str(result), *more]) == 0
    return json.loads(result.read_text())


@pytest.mark.parametrize("style", ["silent", "tokens", "content"])
def test_the_model_itself_is_found_to_be_the_same(world, tmp_path, style):
    with serving(world, style=style) as url:
        result = verified(world, url, tmp_path)
    assert result["same"] and result["p_value"] > 0.01
    assert result["difference"]["low"] <= 0 <= result["difference"]["high"]
    if style == "silent":
        assert result["logprob_gap"] is None
    else:
        assert result["logprob_gap"] < FLOAT32


def test_a_server_at_another_temperature_is_found_out(world, tmp_path, capsys):
    with serving(world, temperature=2.0) as url:
        result = verified(world, url, tmp_path)
    assert not result["same"] and result["p_value"] < 1e-6
    assert "WHAT IS SERVED IS NOT THIS MODEL" in capsys.readouterr().out


def test_the_same_command_continues_and_says_the_same(world, tmp_path):
    with serving(world) as url:
        first = verified(world, url, tmp_path)
        assert verified(world, url, tmp_path) == first
