"""Completions a second: one sample of a policy against best-of-N of the reference, both at a full batch."""

import math
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch
from transformers import PreTrainedModel

from vbon.core import seeds
from vbon.evaluation.setting import Setting
from vbon.models import load
from vbon.models.generate import generate
from vbon.models.prompts import decode
from vbon.pool.prompts import reward_columns

REPEATS = 3


def one_sample_rate(policy: PreTrainedModel, setting: Setting) -> float:
    """Completions a second of plain sampling, `batch_size` prompts at a time."""
    return setting.batch_size / _median_seconds(lambda: _sample(policy, setting, setting.batch_size, 1))


def best_of_n_rate(setting: Setting) -> float:
    """Completions a second of best-of-⌈N⌉ of the reference: `batch_size` draws at a time, scored, one in N kept."""
    n = math.ceil(setting.n)
    num_prompts = max(1, setting.batch_size // n)
    return num_prompts / _median_seconds(lambda: _sample_and_score(setting, num_prompts, n))


def _sample_and_score(setting: Setting, num_prompts: int, n: int) -> None:
    texts = decode(setting.sampler.tokenizer, _sample(setting.sampler.model, setting, num_prompts, n))
    prompts = [setting.pool.prompts[i] for i in np.repeat(_cycle(setting, num_prompts), n)]
    setting.reward([prompt.prompt for prompt in prompts], texts, **reward_columns(prompts))


def _sample(model: PreTrainedModel, setting: Setting, num_prompts: int, num_samples: int) -> list[list[int]]:
    sampler = setting.sampler
    completions = generate(
        model,
        [setting.prompt_ids[i] for i in _cycle(setting, num_prompts)],
        seeds.uniforms((num_prompts, num_samples, sampler.max_new_tokens), setting.seed, seeds.EVALUATION, 1),
        temperature=sampler.temperature,
        stop_token_ids=sampler.stop_token_ids,
        pad_token_id=load.pad_token_id(sampler.tokenizer),
    )
    return completions.rows()  # reading them waits for the device


def _cycle(setting: Setting, num_prompts: int) -> np.ndarray:
    return np.arange(num_prompts) % len(setting.prompt_ids)


def _median_seconds(work: Callable[[], object]) -> float:
    work()  # first calls pay for set-up that later ones do not
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        with torch.no_grad():
            work()
        seconds.append(time.perf_counter() - start)
    return median(seconds)
