"""The memory plan of `vbon train`, for `--dry-run` and for the first lines of every run."""

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import torch

from vbon.config.train import TrainConfig
from vbon.models import load
from vbon.models.device_memory import available_bytes
from vbon.models.memory_plan import MemoryPlan, Size, Work, checkpoint_bytes, training_plan
from vbon.models.network_size import empty_policy, size_of
from vbon.models.plan_lines import Shown, around, plan_lines
from vbon.models.prompts import encode
from vbon.pool.names import name_of
from vbon.pool.store import ReferencePool
from vbon.training.defaults import critic_layers
from vbon.training.parallel.adapters import with_adapters
from vbon.training.parallel.learner import make_critic
from vbon.training.parallel.shards import requested_fsdp

UNKNOWN_LENGTH = 64  # tokens of a completion, where neither the pool nor a flag says


def training_lines(config: TrainConfig, pool: ReferencePool) -> tuple[MemoryPlan, list[str]]:
    """Plan a run and format the plan, with the flags that would help where it does not fit.

    Args:
        config: the configured training.
        pool: its pool, whose prompts are measured.

    Returns:
        The plan and its lines.

    Raises:
        VbonError: there is no such model or tokenizer.
    """
    device = load.resolve_device(config.device)
    available = available_bytes(device)
    longest = _longest(config, pool)

    def planned(changed: TrainConfig) -> tuple[MemoryPlan, Size]:
        size = training_size(changed)
        return training_plan(size, work_of(changed, pool, device, longest), available or float("inf")), size

    plan, size = planned(config)
    shown = Shown(str(device), available, checkpoint_bytes(size, config.keep_checkpoints), Path(config.out))
    helps = []
    if available is not None and plan.peak > available:
        helps = [(flags, planned(changed)[0].peak) for flags, changed in _smaller(config)]
    return plan, plan_lines(plan, shown, helps)


def training_size(config: TrainConfig) -> Size:
    """Build the networks of a run without their weights, and count.

    Raises:
        VbonError: there is no such model, or adapters do not fit it.
    """
    assert config.model is not None  # filled from the pool
    policy = empty_policy(config.model, dtype=config.dtype, trust_remote_code=config.trust_remote_code)
    config = dataclasses.replace(config, critic_layers=critic_layers(config, policy))
    critic = make_critic(policy, config) if config.algorithm == "ppo" else None
    return size_of(with_adapters(policy, config), critic, checkpointed=config.gradient_checkpointing)


def work_of(config: TrainConfig, pool: ReferencePool, device: torch.device, longest: int) -> Work:
    """Collect the settings of a run that its memory depends on, and what is held in addition to its networks.

    Args:
        config: the configured training.
        pool: its pool.
        device: where the networks are.
        longest: tokens of the longest row, prompt and completion.

    Returns:
        The settings.
    """
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    offline = config.algorithm == "offline" or config.warm_start == "offline"
    online_rows = 0 if config.algorithm == "offline" else config.minibatch_size
    return Work(
        device=device.type,
        longest=longest,
        rollouts=max(1, config.rollouts_per_iteration // processes),
        minibatch=max(1, max(online_rows, config.offline_batch_size if offline else 0) // processes),
        processes=processes,
        in_shards=requested_fsdp() is not None,
        mixed=config.mixed_precision == "bf16",
        beside=around(device, config.reward, config.reward_dtype, pool.path),
    )


def _longest(config: TrainConfig, pool: ReferencePool) -> int:
    tokenizer = load.load_tokenizer(name_of(pool, "model", config.model), trust_remote_code=config.trust_remote_code)
    prompts = encode(tokenizer, [one.prompt for one in pool.prompts])
    new = config.max_new_tokens or pool.fingerprint.max_new_tokens or UNKNOWN_LENGTH
    return max(map(len, prompts)) + new


def _smaller(config: TrainConfig) -> Iterator[tuple[str, TrainConfig]]:
    """Settings that need less memory, one added to the other: the flags, and the config with them."""
    flags: list[str] = []

    def added(flag: str, **changes: object) -> tuple[str, TrainConfig]:
        nonlocal config
        flags.append(flag)
        config = dataclasses.replace(config, **changes)  # type: ignore[arg-type]
        return " ".join(flags), config

    if config.algorithm == "ppo" and config.critic == "separate" and config.warm_start != "critic":
        yield added("--critic shared", critic="shared", critic_layers=None)
    if not config.lora_rank:
        yield added("--lora-rank 16", lora_rank=16)
    if config.dtype == "float32" and config.mixed_precision != "bf16":
        yield added("--dtype bfloat16", dtype="bfloat16")
    if not config.gradient_checkpointing:
        yield added("--gradient-checkpointing", gradient_checkpointing=True)
