"""What tests run in processes of their own, forked from one server that has imported torch once."""

import multiprocessing
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tests.held.sitecustomize import hold
from tests.ports import free_port
from torch.distributed.tensor import DTensor

from vbon import cli
from vbon.config.train import TrainConfig
from vbon.models import load
from vbon.models.batch_size import LIMITS, Limit
from vbon.pool import ReferencePool
from vbon.rewards import load_reward
from vbon.training import train as train_module
from vbon.training.online import sample_rollouts, update, update_settings
from vbon.training.parallel.accelerator import make_accelerator
from vbon.training.parallel.learner import make_learner, set_learning_rates
from vbon.training.rollout_buffer import RolloutBuffer
from vbon.training.task import make_task, sampling_of

ROOT = Path(__file__).parents[2]
LIMIT = 800  # seconds, for a process that hangs
assert train_module


def start(target: Callable[..., None], *args: object) -> multiprocessing.process.BaseProcess:
    """Run `target` in a new process, whose stderr goes to the file `args[0]`."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(target=target, args=args, daemon=True)
    process.start()
    return process


def run_group(
    target: Callable[..., None], world_size: int, folder: Path, *args: object, environment: dict[str, str] | None = None
) -> list[tuple[int, str]]:
    """Run `target(stderr, *args)` in each of `world_size` processes of one group; their exit statuses and stderr.

    `environment`: what a launcher tells its processes beside their ranks.
    """
    port = free_port()
    errors = [folder / f"stderr-{rank}" for rank in range(world_size)]
    group = [_in_group(rank, world_size, port) | (environment or {}) for rank in range(world_size)]
    ranks = [start(_as_rank, file, told, target, *args) for file, told in zip(errors, group, strict=True)]
    for process in ranks:
        process.join(LIMIT)
        if process.is_alive():
            process.kill()
            process.join()
    return [(int(process.exitcode or 0), file.read_text()) for process, file in zip(ranks, errors, strict=True)]


def command_line(stderr: Path, arguments: list[str]) -> None:
    """`vbon …`"""
    _redirect(stderr)
    sys.exit(cli.main(arguments))


def held_command_line(stderr: Path, arguments: list[str], out: Path, pattern: str, count: int) -> None:
    """`vbon …`, held in its first file operation in `out` that finds `count` matches of `pattern`."""
    hold(out, pattern, count)
    command_line(stderr, arguments)


def one_update(stderr: Path, config: TrainConfig, out: Path) -> None:
    """One iteration's update; the main process saves the weights."""
    LIMITS["forward"]["cpu"] = Limit(16)  # as many rows are: in several calls, where processes need not agree on them
    accelerator = make_accelerator(config)
    policy, ref_policy = load.load_policy(config.model), load.load_policy(config.model)
    pool, tokenizer = ReferencePool.open(config.pool), load.load_tokenizer(config.model)
    sampling = sampling_of(policy, tokenizer, pool, config)
    task = make_task(pool, tokenizer, load_reward(config.reward), sampling, config.tie_rule, policy)
    learner = make_learner(policy, config, accelerator)
    rollouts = sample_rollouts(learner, ref_policy, task, config, 0)
    set_learning_rates(learner, learner.base_learning_rates)
    buffer = (
        RolloutBuffer(task, 64, config.samples_per_prompt, config.advantage_clip)
        if config.algorithm == "residual"
        else None
    )
    update(learner, rollouts, update_settings(config, 1.0, accelerator.num_processes), 0, buffer=buffer)
    modules = learner.modules()
    if accelerator.is_main_process:
        tensors = {f"{name}.{key}": t.clone() for name, m in modules.items() for key, t in m.state_dict().items()}
        in_shards = any(isinstance(p, DTensor) for p in learner.policy.parameters())
        save_file(tensors, out, {"num_processes": str(accelerator.num_processes), "in_shards": str(in_shards)})


def exploding_update(stderr: Path, config: TrainConfig) -> None:
    """A step down a loss without a finite gradient is refused, and every weight is as it was."""
    accelerator = make_accelerator(config)
    learner = make_learner(load.load_policy(config.model), config, accelerator)
    before = {name: tensor.clone() for name, tensor in learner.module("policy").state_dict().items()}
    logits = learner.policy(input_ids=torch.zeros(1, 2, dtype=torch.int64)).logits
    own_share = float("inf") if accelerator.is_main_process else 1.0
    with pytest.raises(FloatingPointError, match="the gradient is not finite"):
        learner.optimizer.backward(logits.sum() * own_share)
        learner.optimizer.step()
    after = learner.module("policy").state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def _in_group(rank: int, world_size: int, port: int) -> dict[str, str]:
    if world_size == 1:
        return {}
    ranks = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size)}
    return ranks | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


def _as_rank(stderr: Path, environment: dict[str, str], target: Callable[..., None], *args: object) -> None:
    _redirect(stderr)
    os.environ |= environment
    target(stderr, *args)


def _redirect(stderr: Path) -> None:
    os.dup2(os.open(stderr, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
