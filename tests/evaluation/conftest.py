"""A policy small enough to enumerate: three letters and EOS, three new tokens at most, 40 completions."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from vbon.config.pool import CollectConfig
from vbon.models import load
from vbon.pool.collect import collect

STEPS, EOS = 3, 0
PROMPTS = ["one", "two", "three", "one two", "two three", "three one"]
VOCABULARY = ["<eos>", "a", "b", "c", "one", "two", "three", "<pad>"]
COMPLETIONS = [
    [*word, *([EOS] if size < STEPS else [])]
    for size in range(STEPS + 1)
    for word in itertools.product((1, 2, 3), repeat=size)
]
REWARD = """
import zlib

def score(prompts, completions):
    return [zlib.crc32((p + ": " + c).encode()) / 2**32 + c.count("a") for p, c in zip(prompts, completions)]

def levels(prompts, completions):
    return [float(c.count("a")) for c in completions]

def length(prompts, completions):
    return [float(len(c.split())) for c in completions]
"""


def save_tokenizer(folder: Path) -> None:
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(VOCABULARY)}, unk_token="<pad>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<eos>", pad_token="<pad>", clean_up_tokenization_spaces=False
    ).save_pretrained(folder)


def save_model(folder: Path, noise: float = 0.0) -> Path:
    """The reference, or with `noise` a policy that differs from it. The prompt's words and <pad> are never sampled."""
    torch.manual_seed(6)
    config = GPT2Config(
        vocab_size=8,
        n_positions=16,
        n_embd=16,
        n_layer=1,
        n_head=2,
        bos_token_id=EOS,
        eos_token_id=EOS,
        initializer_range=0.25,
        tie_word_embeddings=False,
    )
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(noise * torch.randn_like(parameter))
        model.transformer.ln_f.bias.fill_(1.0)
        model.lm_head.weight[4:] = -4.0
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ref/, policy/, reward.py, prompts.jsonl, and pools of 400 samples a prompt: pool/ and, with ties, tied/."""
    folder = tmp_path_factory.mktemp("world")
    save_model(folder / "ref")
    save_model(folder / "policy", noise=0.1)
    (folder / "reward.py").write_text(REWARD)
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": p}) + "\n" for p in PROMPTS))
    for name, function in (("pool", "score"), ("tied", "levels")):
        collect(
            CollectConfig(
                model=str(folder / "ref"),
                reward=f"{folder}/reward.py:{function}",
                device="cpu",
                seed=1,
                prompts=str(folder / "prompts.jsonl"),
                out=str(folder / name),
                num_samples=400,
                max_new_tokens=STEPS,
            ),
            progress=False,
        )
    return folder


@torch.no_grad()
def enumerated(path: Path, prompt: str, temperature: float = 1.0) -> NDArray[np.float64]:
    """log π(y|prompt) of the 40 completions, by plain forward passes of one row."""
    model = AutoModelForCausalLM.from_pretrained(path).eval()
    prompt_ids = load.load_tokenizer(str(path))(prompt)["input_ids"]
    logprobs = []
    for row in COMPLETIONS:
        logits = model(torch.tensor([prompt_ids + row])).logits[0, len(prompt_ids) - 1 : -1].double() / temperature
        logprobs.append(logits.log_softmax(-1)[range(len(row)), row].sum().item())
    assert abs(np.exp(logprobs).sum() - 1) < 1e-3
    return np.array(logprobs)


def texts() -> list[str]:
    return ["".join(f" {VOCABULARY[token]}" for token in row if token != EOS) for row in COMPLETIONS]


@pytest.fixture
def completion_ids() -> list[list[int]]:
    """The 40 completions, in the order of `exact`."""
    return COMPLETIONS


@pytest.fixture
def exact(world: Path) -> Callable[[str], dict[str, NDArray[np.float64]]]:
    """exact("pool" | "tied") → arrays (prompts, 40): log π_ref, log π_θ, rewards."""
    namespace: dict = {}
    exec((world / "reward.py").read_text(), namespace)

    def of(name: str) -> dict[str, NDArray[np.float64]]:
        score = namespace["score" if name == "pool" else "levels"]
        return {
            "ref": np.array([enumerated(world / "ref", prompt) for prompt in PROMPTS]),
            "policy": np.array([enumerated(world / "policy", prompt) for prompt in PROMPTS]),
            "rewards": np.array([score([prompt] * 40, texts()) for prompt in PROMPTS]),
        }

    return of
