"""A policy small enough to enumerate: three letters and EOS, at most three new tokens, 40 completions a prompt."""

import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from vbon.config.train import TrainConfig
from vbon.core.best_of_n import log_weight
from vbon.models import load
from vbon.models.batch import Sequences, sequences
from vbon.models.generate import Sampling
from vbon.models.prompts import encode
from vbon.pool import Fingerprint, PoolWriter, ReferencePool, make_prompt
from vbon.pool.manifest import Manifest
from vbon.pool.shards import PromptSamples
from vbon.pool.writer import hash_prompt_ids
from vbon.rewards import load_reward
from vbon.training.task import make_task

STEPS, EOS, PAD = 3, 0, 7
PROMPTS = ["one", "two", "three", "one two", "two three", "three one", "one one two", "three two"]
VOCABULARY = ["<eos>", "a", "b", "c", "one", "two", "three", "<pad>"]
COMPLETIONS = [
    [*word, *([EOS] if size < STEPS else [])]
    for size in range(STEPS + 1)
    for word in itertools.product((1, 2, 3), repeat=size)
]
# A reward without ties, monotone maps of it, and rewards with many ties.
REWARD = """
import math
import zlib


def value(prompt, completion):
    return zlib.crc32((prompt + ": " + completion).encode()) / 2**32 + 0.5 * completion.count("a")


def score(prompts, completions):
    return [value(p, c) for p, c in zip(prompts, completions)]


def scaled(prompts, completions):
    return [1000 * r - 7 for r in score(prompts, completions)]


def exponential(prompts, completions):
    return [math.exp(r) for r in score(prompts, completions)]


def cubic(prompts, completions):
    return [r**3 + r for r in score(prompts, completions)]


def smooth(prompts, completions):
    weights = {"a": 0.9, "b": -1.3, "c": 0.2}
    sums = [sum(weights[w] * (1 + 0.1 * i) for i, w in enumerate(c.split())) for c in completions]
    return [s + 0.2 * math.sin(7 * s + len(p)) for s, p in zip(sums, prompts)]


def levels(prompts, completions):
    return [float(c.count("a")) for c in completions]


def binary(prompts, completions):
    return [float("a b" in c or c == " c") for c in completions]
"""


class World(NamedTuple):
    """ref/, reward.py and prompts.jsonl in a folder, and what is exact about them: (P, 40) arrays over COMPLETIONS."""

    folder: Path
    ref_logprobs: NDArray[np.float64]

    @property
    def model(self) -> str:
        return str(self.folder / "ref")

    def reward(self, function: str = "score") -> str:
        return f"{self.folder}/reward.py:{function}"

    def rewards(self, function: str = "score") -> NDArray[np.float64]:
        score = load_reward(self.reward(function))
        return np.array([score([prompt] * len(COMPLETIONS), TEXTS) for prompt in PROMPTS])

    def cdf(self, function: str = "score") -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The exact (F_<, F_≤) of every completion, (P, 40) each."""
        probs = np.exp(self.ref_logprobs)
        r = self.rewards(function)
        lower = ((r[:, None, :] < r[:, :, None]) * probs[:, None, :]).sum(2)
        upper = ((r[:, None, :] <= r[:, :, None]) * probs[:, None, :]).sum(2)
        total = probs.sum(1, keepdims=True)
        return lower / total, np.minimum(upper / total, 1)

    def log_bon(self, n: float, function: str = "score") -> NDArray[np.float64]:
        """log π_bon of every completion, (P, 40)."""
        return self.ref_logprobs + log_weight(*self.cdf(function), n)

    def kl_policy_bon(self, policy, n: float, function: str = "score") -> float:
        """Exact KL(π_θ‖π_bon), mean over prompts. `policy`: a model, or the folder of one."""
        logprobs = enumerate_logprobs(policy)
        return float((np.exp(logprobs) * (logprobs - self.log_bon(n, function))).sum(1).mean())

    def kl_bon_policy(self, policy, n: float, function: str = "score") -> float:
        """Exact KL(π_bon‖π_θ), mean over prompts."""
        log_bon = self.log_bon(n, function)
        return float((np.exp(log_bon) * (log_bon - enumerate_logprobs(policy))).sum(1).mean())


TEXTS = ["".join(f" {VOCABULARY[token]}" for token in row if token != EOS) for row in COMPLETIONS]


def all_sequences(prompts: Sequence[str] = PROMPTS) -> Sequences:
    """Every prompt with every completion, row = prompt·40 + completion."""
    ids = [[VOCABULARY.index(word) for word in prompt.split()] for prompt in prompts]
    return sequences([one for one in ids for _ in COMPLETIONS], COMPLETIONS * len(ids), PAD)


def plain_token_logprobs(policy, batch: Sequences) -> torch.Tensor:
    """log π(y_t), float64 (B, T), 0 off the mask: row by row, without padding or batching, differentiable."""
    table = torch.zeros(batch.completion_mask.shape, dtype=torch.float64)
    for row, (prompt, mask, ids, real) in enumerate(zip(*batch, strict=True)):
        tokens = torch.cat([prompt[mask], ids[real]])[None]
        logprobs = policy(tokens).logits.double().log_softmax(-1)[0, int(mask.sum()) - 1 : -1]
        table[row, : int(real.sum())] = logprobs.gather(1, ids[real][:, None])[:, 0]
    return table


@torch.no_grad()
def enumerate_logprobs(policy) -> NDArray[np.float64]:
    """log π(y | prompt) of every prompt and completion, (P, 40)."""
    model = load.load_policy(str(policy)) if isinstance(policy, str | Path) else policy
    return plain_token_logprobs(model, all_sequences()).sum(1).view(len(PROMPTS), -1).numpy()


def save_model(folder: Path, seed: int = 2) -> Path:
    """A tiny GPT-2 that never samples the prompt's words or <pad>, with its tokenizer."""
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=8,
        n_positions=16,
        n_embd=16,
        n_layer=1,
        n_head=2,
        bos_token_id=EOS,
        eos_token_id=EOS,
        initializer_range=0.4,
        tie_word_embeddings=False,
    )
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        model.transformer.ln_f.bias.fill_(1.0)
        model.lm_head.weight[:4] -= model.lm_head.weight[:4].mean(1, keepdim=True)  # the bias favours none of them
        model.lm_head.weight[:4] *= 0.7
        model.lm_head.weight[4:] = -4.0
    model.save_pretrained(folder)
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(VOCABULARY)}, unk_token="<pad>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<eos>", pad_token="<pad>", clean_up_tokenization_spaces=False
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    save_model(folder / "ref")
    (folder / "reward.py").write_text(REWARD)
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": p}) + "\n" for p in PROMPTS))
    logprobs = enumerate_logprobs(folder / "ref")
    assert np.exp(logprobs).sum(1) == pytest.approx(np.ones(len(PROMPTS)), abs=1e-3)
    return World(folder, logprobs)


def write_pool(
    world: World, folder: Path, num_samples: int = 250, function: str = "score", drawn_at: float = 1.0, **declared
) -> Path:
    """A pool of draws from the enumerated reference at some temperature. `declared`: fields of its fingerprint."""
    prompts = [make_prompt(prompt) for prompt in PROMPTS]
    rewards = world.rewards(function)
    probs = np.exp(world.ref_logprobs / drawn_at)
    fingerprint = {
        "temperature": 1.0,
        "max_new_tokens": STEPS,
        "stop": (EOS,),
        "model": load.model_fingerprint(world.model),
        "tokenizer": load.tokenizer_fingerprint(load.load_tokenizer(world.model)),
        "chat_template": "none",
        "reward": load_reward(world.reward(function)).fingerprint,
    }
    manifest = Manifest(
        fingerprint=Fingerprint(**{**fingerprint, **declared}),
        created_by="test",
        num_prompts=len(prompts),
        prompts_sha256=hash_prompt_ids(prompts),
        num_samples=num_samples,
        model=world.model,
        reward=world.reward(function),
    )
    random = np.random.default_rng(11)
    samples = []
    for index, prompt in enumerate(prompts):
        rows = random.choice(len(COMPLETIONS), num_samples, p=probs[index] / probs[index].sum())
        samples.append(
            PromptSamples(
                prompt,
                [TEXTS[row] for row in rows],
                [COMPLETIONS[row] for row in rows],
                rewards[index, rows],
                world.ref_logprobs[index, rows].tolist(),
                [COMPLETIONS[row][-1] == EOS for row in rows],
            )
        )
    with PoolWriter.create(folder, manifest) as writer:
        writer.write_shard(0, samples)
        writer.finish()
    return folder


@pytest.fixture(scope="session")
def pool(world: World) -> Path:
    """250 samples of each prompt, scored by `score`."""
    return write_pool(world, world.folder / "pool")


@pytest.fixture
def configure(world: World, pool: Path, tmp_path: Path) -> Callable[..., TrainConfig]:
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
def task(world: World, pool: Path):
    return task_of(world, pool)


def task_of(world: World, pool: Path, function: str = "score", tie_rule: str = "random"):
    """The whole pool as a task."""
    opened = ReferencePool.open(pool)
    tokenizer = load.load_tokenizer(world.model)
    sampling = Sampling(1.0, STEPS, (EOS,), PAD)
    made = make_task(
        opened, tokenizer, load_reward(world.reward(function)), sampling, tie_rule, load.load_policy(world.model)
    )
    assert made.prompt_ids == encode(tokenizer, PROMPTS)
    return made
