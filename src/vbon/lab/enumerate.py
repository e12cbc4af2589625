"""Exact log-probabilities of every completion, by the prefix tree: one forward for all words of the longest prefix.

Plain model calls without padding or cache, so that they are an oracle for vbon.models too.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from vbon.lab.world import EOS, World
from vbon.models.load import load_policy

ROWS_PER_CALL = 4096


def log_probs(model: PreTrainedModel, world: World) -> Tensor:
    """log π(y|x), float64 (P, C), completions in the order of `World.completions`; differentiable."""
    return torch.stack([_of_prompt(model, world, prompt_ids) for prompt_ids in world.prompt_ids])


@torch.no_grad()
def exact_log_probs(policy: PreTrainedModel | Path, world: World) -> NDArray[np.float64]:
    """`log_probs` of a model, or of the one in a folder, as numpy."""
    model = load_policy(str(policy)) if isinstance(policy, Path) else policy
    return log_probs(model.eval(), world).numpy()


def _of_prompt(model: PreTrainedModel, world: World, prompt_ids: list[int]) -> Tensor:
    depth, letters = world.max_new_tokens, world.letters
    table = _next_token_logprobs(model, world, prompt_ids)
    so_far, finished = torch.zeros(1, dtype=torch.float64), []
    for step in range(depth):
        # Words that share their first `step` letters share the row of the first among them.
        at_step = table[:: letters ** (depth - 1 - step), step]
        finished.append(so_far + at_step[:, EOS])
        so_far = (so_far[:, None] + at_step[:, 1 : letters + 1]).flatten()
    return torch.cat([*finished, so_far])


def _next_token_logprobs(model: PreTrainedModel, world: World, prompt_ids: list[int]) -> Tensor:
    """log π(·|prefix) after 0 … T−1 letters of every word of T−1 letters, float64 (K^{T−1}, T, V)."""
    letters = torch.arange(1, world.letters + 1)
    words = torch.cartesian_prod(*[letters] * (world.max_new_tokens - 1)).reshape(-1, world.max_new_tokens - 1)
    prompts = torch.tensor(prompt_ids).expand(len(words), -1)
    rows = torch.cat([prompts, words], 1).split(ROWS_PER_CALL)
    return torch.cat([model(part).logits[:, len(prompt_ids) - 1 :].double().log_softmax(-1) for part in rows])
