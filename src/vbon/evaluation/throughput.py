"""One sample of a policy against best-of-N of the reference: rate at a full batch, latency at batch 1."""

import math
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import NamedTuple

import numpy as np
import torch
from transformers import PreTrainedModel

from vbon.core import seeds
from vbon.evaluation.task import EvalTask
from vbon.models import load
from vbon.models.generate import generate
from vbon.models.prompts import decode
from vbon.pool.prompts import reward_columns

REPEATS = 3
PROMPTS_ONE_BY_ONE = 8
"""Prompts whose mean is the latency: completions differ in length."""


class Speed(NamedTuple):
    """Completions a second at a full batch; latency: seconds from one prompt to its one completion."""

    rate: float
    latency: float


def one_sample_speed(policy: PreTrainedModel, task: EvalTask) -> Speed:
    """Plain sampling: `batch_size` prompts at a time, then one at a time."""
    return _speed(lambda prompts: _sample(policy, task, prompts, 1), task, task.batch_size)


def best_of_n_speed(task: EvalTask) -> Speed:
    """Best-of-⌈N⌉ of the reference, scoring included: `batch_size` draws at a time, then the N draws of one prompt."""
    n = math.ceil(task.n)
    return _speed(lambda prompts: _sample_and_score(task, prompts, n), task, max(1, task.batch_size // n))


def _speed(work: Callable[[Sequence[int]], object], task: EvalTask, num_prompts: int) -> Speed:
    """`work` takes the indices of the prompts to complete, each of them once."""
    full = [i % len(task.prompt_ids) for i in range(num_prompts)]
    singles = range(min(PROMPTS_ONE_BY_ONE, len(task.prompt_ids)))
    rate = len(full) / _median_seconds(lambda: work(full))
    return Speed(rate, _median_seconds(lambda: [work([i]) for i in singles]) / len(singles))


def _sample_and_score(task: EvalTask, prompts: Sequence[int], n: int) -> None:
    index = np.repeat(prompts, n)
    drawn = _sample(task.sampler.model, task, prompts, n)
    texts = decode(task.sampler.tokenizer, [task.prompt_ids[i] for i in index], drawn)
    rows = [task.pool.prompts[i] for i in index]
    task.reward([prompt.prompt for prompt in rows], texts, **reward_columns(rows))


def _sample(model: PreTrainedModel, task: EvalTask, prompts: Sequence[int], num_samples: int) -> list[list[int]]:
    sampler = task.sampler
    completions = generate(
        model,
        [task.prompt_ids[i] for i in prompts],
        seeds.uniforms((len(prompts), num_samples, sampler.max_new_tokens), task.seed, seeds.EVALUATION, 1, prompts[0]),
        temperature=sampler.temperature,
        stop_token_ids=sampler.stop_token_ids,
        pad_token_id=load.pad_token_id(sampler.tokenizer, sampler.model),
    )
    return completions.rows()  # reading them waits for the device


def _median_seconds(work: Callable[[], object]) -> float:
    work()  # first calls pay for set-up that later ones do not
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        with torch.no_grad():
            work()
        seconds.append(time.perf_counter() - start)
    return median(seconds)
