"""The small preset's reward: a model of which of two summaries shares more words with the authors', by TRL.

As the paper's is a model of human preferences: it sees prompt and completion alone, so what it rewards can be learned.
What it was taught by, overlap.py, stays a judge: the two part where a policy does well by the model only.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from preset import RewardModelConfig
from small_model import trl_settings
from transformers import GPT2ForSequenceClassification, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from trl import RewardConfig, RewardTrainer

from vbon.pool import ReferencePool
from vbon.recipes.small_models import save
from vbon.rewards import load_reward

HELD_OUT = 0.1  # of the papers, to measure agreement on


@dataclass(frozen=True)
class Pair:
    """Two completions of one prompt, the better first."""

    prompt: str
    better: str
    worse: str


def train_reward(pool: ReferencePool, reference: Path, config: RewardModelConfig, out: Path) -> float:
    """`out`, whole or not at all, from pairs of a pool. Returns on what share of held-out pairs it says the same."""
    held_out, training = pool.split(HELD_OUT)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(reference)
    torch.manual_seed(0)
    model = GPT2ForSequenceClassification.from_pretrained(reference, num_labels=1)
    settings = RewardConfig(**trl_settings(config, out), max_length=tokenizer.model_max_length)
    rows = Dataset.from_list([_ids(pair, tokenizer) for pair in pairs(training)])
    RewardTrainer(model=model, args=settings, train_dataset=rows, processing_class=tokenizer).train()
    save(model.cpu(), tokenizer, out)
    return agreement(out, list(pairs(held_out)))


def pairs(pool: ReferencePool) -> Iterator[Pair]:
    """Neighbours among the samples of a prompt, where their rewards are not equal."""
    for prompt, start, end in zip(pool.prompts, pool.offsets[:-1], pool.offsets[1:], strict=True):
        for row in range(start, end - 1, 2):
            if pool.rewards[row] != pool.rewards[row + 1]:
                better = row + int(pool.rewards[row + 1] > pool.rewards[row])
                worse = 2 * row + 1 - better
                yield Pair(str(prompt.prompt), str(pool.completions[better]), str(pool.completions[worse]))


def agreement(model: Path, compared: list[Pair]) -> float:
    """Share of pairs whose better one the reward model prefers, as `vbon collect` reads it."""
    reward = load_reward(str(model))
    prompts = [pair.prompt for pair in compared]
    better, worse = (reward(prompts, [getattr(pair, side) for pair in compared]) for side in ("better", "worse"))
    return float(np.mean(np.asarray(better) > np.asarray(worse)))


def _ids(pair: Pair, tokenizer: PreTrainedTokenizerBase) -> dict[str, list[int]]:
    """The texts as the reward will read them, with no token of an end."""
    better, worse = (tokenizer(pair.prompt + one, verbose=False).input_ids for one in (pair.better, pair.worse))
    return {"chosen_ids": better, "rejected_ids": worse}
