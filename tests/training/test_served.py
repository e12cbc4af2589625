"""A run served by a stock server gives the distribution that was trained: the RUN folder is all that it is told."""

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from tests import stock_server
from tests.enumerable import COMPLETIONS, PROMPTS, STEPS, TEXTS, VOCABULARY
from tests.stock_server import p_value
from transformers import AutoModelForCausalLM

from vbon.config.pool import CollectConfig
from vbon.config.train import TrainConfig
from vbon.pool.collect import collect
from vbon.training.train import train

PROMPT, TEMPERATURE, REQUESTS = PROMPTS[4], 0.7, 300


class Served(NamedTuple):
    """A trained run, its reference, and the address of a server that was given the run's folder."""

    run: Path
    reference: Path
    url: str


@pytest.fixture(scope="module")
def served(world, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    shared = {"model": world.model, "reward": world.reward(), "device": "cpu"}
    pool = CollectConfig(
        prompts=str(world.folder / "prompts.jsonl"),
        out=str(folder / "pool"),
        num_samples=64,
        temperature=TEMPERATURE,
        max_new_tokens=STEPS,
        **shared,
    )
    run = TrainConfig(
        pool=str(collect(pool, progress=False)),
        n=4.0,
        out=str(folder / "run"),
        num_iterations=8,
        learning_rate=5e-3,
        rollouts_per_iteration=64,
        warm_start="none",
        tracker="none",
        validation_fraction=0.0,
        num_threads=1,
        **shared,
    )
    train(run)
    with stock_server.transformers_serve(folder / "run", folder) as url:
        yield Served(folder / "run", Path(world.model), url)


@torch.no_grad()
def probabilities(model: Path, temperature: float) -> dict[str, float]:
    """The exact probability of each text after PROMPT, by a plain forward pass of the stock model class."""
    policy = AutoModelForCausalLM.from_pretrained(model)
    prompt = [VOCABULARY.index(word) for word in PROMPT.split()]
    probs = {}
    for text, ids in zip(TEXTS, COMPLETIONS, strict=True):
        logits = policy(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1].double() / temperature
        probs[text.strip()] = float(logits.log_softmax(-1)[range(len(ids)), ids].sum().exp())
    return probs


def ask(served: Served, seed: int) -> str:
    """One completion. Temperature, top-p, top-k and stop tokens are the RUN's; its length limit must be asked for."""
    body = {"model": str(served.run), "prompt": PROMPT, "max_tokens": STEPS, "seed": seed}
    request = urllib.request.Request(
        f"{served.url}/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)["choices"][0]["text"].strip()


def test_a_stock_server_samples_the_trained_distribution(served: Served):
    texts = [ask(served, seed) for seed in range(REQUESTS)]
    trained = probabilities(served.run, TEMPERATURE)
    assert sum(trained.values()) == pytest.approx(1, abs=1e-3)
    assert p_value(texts, trained) > 0.01
    assert p_value(texts, probabilities(served.reference, TEMPERATURE)) < 1e-3  # the test has power against
    assert p_value(texts, probabilities(served.run, 1.0)) < 1e-3  # the untrained policy and another temperature


def test_the_folder_says_how_it_was_trained(served: Served):
    settings = json.loads((served.run / "generation_config.json").read_text())
    expected = {"do_sample": True, "temperature": TEMPERATURE, "top_p": 1.0, "top_k": 0, "max_new_tokens": STEPS}
    assert {name: settings[name] for name in expected} == expected and settings["eos_token_id"] == [0]
