"""The enumerable task of the tests: a world of vbon.lab in a folder, rewards beside it, and what is exact about it."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from vbon.lab.enumerate import exact_log_probs
from vbon.lab.exact import Truth, kl, score_all
from vbon.lab.world import EOS, World, make_world
from vbon.models import load
from vbon.models.batch import Sequences, sequences
from vbon.models.generate import Sampling
from vbon.models.prompts import encode
from vbon.pool import Fingerprint, PoolWriter, Prompt, ReferencePool, make_prompt
from vbon.pool.manifest import Manifest
from vbon.pool.shards import PromptSamples
from vbon.pool.writer import hash_prompt_ids
from vbon.rewards import load_reward
from vbon.training.task import Task, make_task

# Three letters and EOS, at most three new tokens, prompts of several lengths: 40 completions a prompt.
PROMPTS = ["one", "two", "three", "one two", "two three", "three one", "one one two", "three two"]
TASK = World(letters=3, max_new_tokens=3, prompts=tuple(PROMPTS), sharpness=10.0, hidden_size=16, num_layers=1, seed=2)
STEPS, PAD, VOCABULARY = TASK.max_new_tokens, TASK.pad, TASK.vocabulary
COMPLETIONS, TEXTS = TASK.completions, TASK.texts
REWARDS = Path(__file__).with_name("letter_rewards.py")


class Enumerable(NamedTuple):
    """model/, prompts.jsonl and reward.py in a folder. Arrays are (prompts, completions), log-probabilities in nats."""

    folder: Path
    world: World
    ref_logprobs: NDArray[np.float64]

    @property
    def model(self) -> str:
        return str(self.folder / "model")

    def reward(self, function: str = "score") -> str:
        return f"{self.folder}/reward.py:{function}"

    def truth(self, function: str = "score") -> Truth:
        return Truth(self.ref_logprobs, score_all(self.world, self.reward(function)))

    def rewards(self, function: str = "score") -> NDArray[np.float64]:
        return self.truth(function).rewards

    def log_bon(self, n: float, function: str = "score") -> NDArray[np.float64]:
        """log π_bon of every completion."""
        return self.truth(function).log_bon(n)

    def logprobs(self, policy: PreTrainedModel | str | Path) -> NDArray[np.float64]:
        """log π of every completion. `policy`: a model, or the folder of one."""
        return exact_log_probs(Path(policy) if isinstance(policy, str) else policy, self.world)

    def kl_policy_bon(self, policy: PreTrainedModel | str | Path, n: float, function: str = "score") -> float:
        """Exact KL(π_θ‖π_bon), mean over prompts."""
        return kl(self.logprobs(policy), self.log_bon(n, function))

    def kl_bon_policy(self, policy: PreTrainedModel | str | Path, n: float, function: str = "score") -> float:
        """Exact KL(π_bon‖π_θ), mean over prompts."""
        return kl(self.log_bon(n, function), self.logprobs(policy))


def write_enumerable(folder: Path, world: World = TASK) -> Path:
    """Write model/, prompts.jsonl and reward.py into `folder`."""
    shutil.copy(REWARDS, make_world(world, folder) / "reward.py")
    return folder


def make_enumerable(folder: Path, world: World = TASK) -> Enumerable:
    """`write_enumerable`, and what is exact about it."""
    made = exact_log_probs(write_enumerable(folder, world) / "model", world)
    np.testing.assert_allclose(np.exp(made).sum(1), 1.0, atol=1e-6)  # no mass on prompts and padding
    return Enumerable(folder, world, made)


def write_pool(
    world: Enumerable,
    folder: Path,
    num_samples: int = 250,
    function: str = "score",
    *,
    drawn_at: float = 1.0,
    prompts: Sequence[Prompt] = (),
    **declared: object,
) -> Path:
    """A pool of draws from the enumerated reference at a temperature.

    `prompts`: other ones, which draw as the world's do, in turn. `declared`: fields of the pool's fingerprint.
    """
    letters, rewards = world.world, world.rewards(function)
    made = list(prompts) or [make_prompt(prompt) for prompt in letters.prompts]
    manifest = Manifest(
        fingerprint=_fingerprint(world, function, declared),
        created_by="test",
        num_prompts=len(made),
        prompts_sha256=hash_prompt_ids(made),
        num_samples=num_samples,
        model=world.model,
        reward=world.reward(function),
    )
    random, samples = np.random.default_rng(11), []
    for number, prompt in enumerate(made):
        index = number % len(letters.prompts)
        probs = np.exp(world.ref_logprobs[index] / drawn_at)
        rows = random.choice(len(probs), num_samples, p=probs / probs.sum())
        ids = [letters.completions[row] for row in rows]
        finished = [one[-1] == EOS for one in ids]
        texts, logprobs = [letters.texts[row] for row in rows], world.ref_logprobs[index, rows].tolist()
        samples.append(PromptSamples(prompt, texts, ids, rewards[index, rows], logprobs, finished))
    with PoolWriter.create(folder, manifest) as writer:
        writer.write_shard(0, samples)
        writer.finish()
    return folder


def task_of(world: Enumerable, pool: Path, function: str = "score", tie_rule: str = "random") -> Task:
    """What a trainer makes of the whole pool."""
    opened, tokenizer = ReferencePool.open(pool), load.load_tokenizer(world.model)
    reward, sampling = load_reward(world.reward(function)), Sampling(1.0, STEPS, (EOS,), PAD)
    made = make_task(opened, tokenizer, reward, sampling, tie_rule, load.load_policy(world.model))
    assert made.prompt_ids == encode(tokenizer, PROMPTS)
    return made


def _fingerprint(world: Enumerable, function: str, declared: dict[str, object]) -> Fingerprint:
    fields = {
        "temperature": 1.0,
        "max_new_tokens": world.world.max_new_tokens,
        "stop": (EOS,),
        "model": load.model_fingerprint(world.model),
        "tokenizer": load.tokenizer_fingerprint(load.load_tokenizer(world.model)),
        "chat_template": "none",
        "reward": load_reward(world.reward(function)).fingerprint,
    }
    return Fingerprint(**{**fields, **declared})


def every_completion(prompt_ids: Sequence[int]) -> Sequences:
    """The prompt with every completion of the task, a row each."""
    return sequences([list(prompt_ids)] * len(COMPLETIONS), COMPLETIONS, PAD)


def plain_token_logprobs(policy: PreTrainedModel, batch: Sequences) -> torch.Tensor:
    """log π(y_t), float64 (B, T), 0 off the mask: row by row, without padding or batching, differentiable."""
    table = torch.zeros(batch.completion_mask.shape, dtype=torch.float64)
    for row, (prompt, mask, ids, real) in enumerate(zip(*batch, strict=True)):
        tokens = torch.cat([prompt[mask], ids[real]])[None]
        logprobs = policy(tokens).logits.double().log_softmax(-1)[0, int(mask.sum()) - 1 : -1]
        table[row, : int(real.sum())] = logprobs.gather(1, ids[real][:, None])[:, 0]
    return table
