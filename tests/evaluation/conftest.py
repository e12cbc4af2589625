"""The enumerable task, a policy that differs from its reference, and two pools: one of them with many ties."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.enumerable import STEPS, TASK, write_enumerable

from vbon.config.pool import CollectConfig
from vbon.lab.enumerate import exact_log_probs
from vbon.lab.exact import score_all
from vbon.lab.world import NEVER, reference, tokenizer
from vbon.pool.collect import collect

POOLS = {"pool": "score", "tied": "levels"}


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model/, policy/, reward.py, prompts.jsonl, and pools of 400 samples a prompt: pool/ and, with ties, tied/."""
    folder = write_enumerable(tmp_path_factory.mktemp("world"))
    save_policy(folder / "policy")
    for name, function in POOLS.items():
        config = CollectConfig(
            model=str(folder / "model"),
            reward=f"{folder}/reward.py:{function}",
            device="cpu",
            seed=1,
            prompts=str(folder / "prompts.jsonl"),
            out=str(folder / name),
            num_samples=400,
            max_new_tokens=STEPS,
        )
        collect(config, progress=False)
    return folder


def save_policy(folder: Path) -> None:
    """The reference with noise; prompts and padding are still never sampled."""
    torch.manual_seed(6)
    model = reference(TASK)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        model.transformer.ln_f.bias.fill_(1.0)
        model.lm_head.weight[TASK.pad :] = NEVER / TASK.hidden_size
    model.save_pretrained(folder)
    tokenizer(TASK).save_pretrained(folder)


@pytest.fixture
def completion_ids() -> list[list[int]]:
    """The 40 completions, in the order of `exact`."""
    return TASK.completions


@pytest.fixture
def exact(world: Path) -> Callable[[str], dict[str, NDArray[np.float64]]]:
    """exact("pool" | "tied") → arrays (prompts, 40): log π_ref, log π_θ, rewards."""

    def of(name: str) -> dict[str, NDArray[np.float64]]:
        return {
            "ref": exact_log_probs(world / "model", TASK),
            "policy": exact_log_probs(world / "policy", TASK),
            "rewards": score_all(TASK, f"{world}/reward.py:{POOLS[name]}"),
        }

    return of
