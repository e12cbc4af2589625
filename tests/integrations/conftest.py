"""A policy small enough to enumerate (781 completions of up to four letters), and pools drawn from it."""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from vbon.core.best_of_n import log_weight
from vbon.pool import Fingerprint, PoolWriter, ReferencePool, make_prompt
from vbon.pool.manifest import Manifest
from vbon.pool.shards import PromptSamples
from vbon.pool.writer import hash_prompt_ids
from vbon.rewards import load_reward

LETTERS, NEW_TOKENS, START = "abcde", 4, 6
REWARD = """
import math

VALUE = {"a": 0.9, "b": -1.3, "c": 0.2, "d": -0.4, "e": 1.1}


def score(prompts, completions):
    return [one([VALUE[word] for word in text]) for text in completions]


def one(values):
    return sum(values) + 0.7 * math.sin(3 * sum((i + 1) * v for i, v in enumerate(values)))
"""


class Lab(NamedTuple):
    """A reference model on disk, its completions, and what is exact about them."""

    model: Path
    reward: str
    completions: list[str]
    ids: list[list[int]]
    ref_logprobs: np.ndarray
    rewards: np.ndarray

    def log_bon(self, n: float) -> np.ndarray:
        """log π_bon of every completion, from the exact F_< and F_≤."""
        probs = np.exp(self.ref_logprobs)
        cdf_lt = np.array([probs[self.rewards < reward].sum() for reward in self.rewards])
        cdf_le = np.minimum([probs[self.rewards <= reward].sum() for reward in self.rewards], 1.0)
        return self.ref_logprobs + log_weight(cdf_lt, cdf_le, n)

    def kl_policy_bon(self, policy: torch.nn.Module, n: float) -> float:
        logprobs = enumerate_logprobs(policy, self.ids)
        return float((np.exp(logprobs) * (logprobs - self.log_bon(n))).sum())


@torch.no_grad()
def enumerate_logprobs(model: torch.nn.Module, ids: Sequence[list[int]]) -> np.ndarray:
    """log π(y | start) of every completion, float64; a plain forward pass over right-padded rows."""
    tokens = torch.zeros(len(ids), NEW_TOKENS + 1, dtype=torch.long)
    mask = torch.zeros(len(ids), NEW_TOKENS)
    tokens[:, 0] = START
    for row, one in enumerate(ids):
        tokens[row, 1 : 1 + len(one)] = torch.tensor(one)
        mask[row, : len(one)] = 1
    model.eval()
    logprobs = model(tokens[:, :-1]).logits.double().log_softmax(-1).gather(-1, tokens[:, 1:, None])[..., 0]
    return (logprobs * mask).sum(1).numpy()


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    folder = tmp_path_factory.mktemp("lab")
    (folder / "reward.py").write_text(REWARD)
    make_model(folder / "model")
    ids = [
        [*word, 0] if length < NEW_TOKENS else list(word)
        for length in range(NEW_TOKENS + 1)
        for word in itertools.product(range(1, 6), repeat=length)
    ]
    texts = ["".join(LETTERS[token - 1] for token in one if token) for one in ids]
    rewards = load_reward(f"{folder}/reward.py:score")(["start"] * len(texts), texts)
    logprobs = enumerate_logprobs(AutoModelForCausalLM.from_pretrained(folder / "model"), ids)
    assert np.exp(logprobs).sum() == pytest.approx(1, abs=1e-4)
    return Lab(folder / "model", f"{folder}/reward.py:score", texts, ids, logprobs, rewards)


def make_model(folder: Path) -> None:
    vocabulary = {token: index for index, token in enumerate(["<eos>", *LETTERS, "start", "<pad>", "<unk>"])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.decoder = decoders.Fuse()  # words without spaces: decoded alone or behind a prompt, a text is the same
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )
    torch.manual_seed(5)
    config = GPT2Config(
        vocab_size=len(vocabulary),
        n_positions=16,
        n_embd=32,
        n_layer=2,
        n_head=4,
        eos_token_id=0,
        bos_token_id=0,
        pad_token_id=vocabulary["<pad>"],
        tie_word_embeddings=False,
    )
    model = GPT2LMHeadModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(7)
        # with these two, "start", <pad> and <unk> are never sampled
        model.transformer.ln_f.bias.fill_(1.0)
        model.lm_head.weight[START:] = -3.0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture
def draw_pool(lab: Lab, tmp_path: Path) -> Callable[..., ReferencePool]:
    """draw_pool(num_samples, prompts=("start",)) → a pool of draws from the enumerated reference policy."""

    def draw(num_samples: int, prompts: Sequence = ("start",), columns: dict | None = None) -> ReferencePool:
        made = [make_prompt(prompt, columns) for prompt in prompts]
        manifest = Manifest(
            fingerprint=Fingerprint(
                temperature=1.0, max_new_tokens=NEW_TOKENS, reward=load_reward(lab.reward).fingerprint
            ),
            created_by="test",
            num_prompts=len(made),
            prompts_sha256=hash_prompt_ids(made),
            num_samples=num_samples,
            model=str(lab.model),
            reward=lab.reward,
        )
        with PoolWriter.create(tmp_path / "pool", manifest) as writer:
            writer.write_shard(0, [samples_of(lab, prompt, num_samples, seed) for seed, prompt in enumerate(made)])
            writer.finish()
        return ReferencePool.open(tmp_path / "pool")

    return draw


def samples_of(lab: Lab, prompt, num_samples: int, seed: int) -> PromptSamples:
    probs = np.exp(lab.ref_logprobs)
    rows = np.random.default_rng(seed).choice(len(probs), num_samples, p=probs / probs.sum())
    ids = [lab.ids[row] for row in rows]
    finished = [one[-1] == 0 for one in ids]
    return PromptSamples(
        prompt,
        [lab.completions[row] for row in rows],
        ids,
        lab.rewards[rows],
        lab.ref_logprobs[rows].tolist(),
        finished,
    )
