"""Iterated rounds through the library: the trained policy is the next round's reference, and N compounds to n^R."""

import contextlib
from dataclasses import replace
from pathlib import Path

from vbon.config import CollectConfig
from vbon.lab.enumerate import exact_log_probs
from vbon.lab.exact import Float
from vbon.lab.training import REWARDS, Job, collect_pool, run_folder, train_config, world_folder
from vbon.pool.collect import collect
from vbon.training.train import train


def train_rounds(job: Job, count: int) -> Float:
    """log π_θ of every completion after `count` rounds of best-of-n^(1/count), a fresh pool of M for each."""
    step = replace(job, n=job.n ** (1 / count))
    model, pool = world_folder(job) / "model", collect_pool(job)
    for number in range(count):
        out = run_folder(step).with_name(f"{run_folder(step).name}-of-{job.n:g}-round-{number + 1}")
        if number:
            pool = _collect_from(model, step, out.with_name(out.name + "-pool"), number)
        config = replace(train_config(step, pool), model=str(model), out=str(out))
        if not (out / "vbon" / "run.json").is_file():
            with open(out.with_name(out.name + ".log"), "w", encoding="utf-8") as log, contextlib.redirect_stderr(log):
                train(config)
        model = out
    return exact_log_probs(model, job.world)


def _collect_from(model: Path, job: Job, out: Path, number: int) -> Path:
    config = CollectConfig(
        model=str(model), reward=REWARDS + job.reward, prompts=str(world_folder(job) / "prompts.jsonl"), out=str(out),
        num_samples=job.num_samples, max_new_tokens=job.world.max_new_tokens, batch_size=2048,
        reward_batch_size=8192, seed=job.seed + 1000 * number,
    )  # fmt: skip
    return collect(config, progress=False)
