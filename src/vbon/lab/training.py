"""Runs of the library's own trainer in an enumerable world. Training sees rollouts and pool; the truth comes after."""

import contextlib
import functools
import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from vbon.artifacts.run import RunFolder, read_rows
from vbon.config import CollectConfig, TrainConfig
from vbon.lab.enumerate import exact_log_probs
from vbon.lab.exact import Float, Truth, measure, score_all
from vbon.lab.world import World, make_world, reference
from vbon.pool.collect import collect
from vbon.training.train import train

Row = dict[str, Any]
REWARDS = "vbon.lab.rewards:"
MANY = 20_000
"""Samples of a pool whose F̂ is near exact."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How long a run trains; lab-size defaults, about a minute a run on one core."""

    num_iterations: int = 150
    rollouts_per_iteration: int = 256
    learning_rate: float = 0.0256 / 32
    offline_steps: int = 200
    minibatch_size: int = 128


LONG = Scale(num_iterations=300, rollouts_per_iteration=512)


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run: a world, the reward it is trained on, its pool, and the flags of `vbon train` beside the scale's."""

    world: World
    reward: str = "continuous"
    n: float
    seed: int
    scale: Scale
    work: Path
    num_samples: int = MANY
    judged_by: str = "continuous"
    flags: Mapping[str, Any] | None = None

    @property
    def folder(self) -> Path:
        name = hashlib.sha256(repr(self.world).encode()).hexdigest()[:16]
        return self.work / f"world-{name}"


@functools.cache  # few worlds, asked for again and again
def truth_of(world: World, reward: str = "continuous") -> Truth:
    """What is exact of a world under a reward of vbon.lab.rewards."""
    return Truth(exact_log_probs(reference(world), world), score_all(world, REWARDS + reward))


def run(job: Job) -> dict[str, float]:
    """Collect the pool, train, and measure the result exactly, against best-of-N of the reward it is judged by."""
    out = train_policy(job)
    logprobs = exact_log_probs(out, job.world)
    measured = measure(logprobs, truth_of(job.world, job.judged_by), job.n)
    shutil.rmtree(RunFolder(out).checkpoints, ignore_errors=True)
    return measured


def run_log_probs(job: Job) -> Float:
    """The trained policy itself: log π_θ of every completion."""
    return exact_log_probs(train_policy(job), job.world)


def run_with_curve(job: Job) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """`run`, and the rows of its metrics.jsonl."""
    return run(job), read_rows(RunFolder(run_folder(job)).metrics)


def train_policy(job: Job) -> Path:
    """The run's folder, trained unless that is finished; what the trainer says goes to a log beside it."""
    torch.set_num_threads(1)
    out = run_folder(job)
    if RunFolder(out).is_finished:
        return out
    out.parent.mkdir(parents=True, exist_ok=True)
    with open(out.with_name(out.name + ".log"), "a", encoding="utf-8") as log, contextlib.redirect_stderr(log):
        train(train_config(job, collect_pool(job)))
    return out


def collect_pool(job: Job) -> Path:
    """The pool of a job, collected by the library from the world's reference; jobs alike share it."""
    model_folder = world_folder(job)
    out = job.folder / f"pool-{job.reward}-{job.num_samples}-{job.seed}"
    config = CollectConfig(
        model=str(model_folder / "model"),
        reward=REWARDS + job.reward,
        prompts=str(model_folder / "prompts.jsonl"),
        out=str(out),
        num_samples=job.num_samples,
        max_new_tokens=job.world.max_new_tokens,
        batch_size=2048,
        reward_batch_size=8192,
        seed=job.seed,
    )
    return collect(config, progress=False)


def world_folder(job: Job) -> Path:
    """The world on disk, written once."""
    return job.folder if (job.folder / "world.json").is_file() else make_world(job.world, job.folder)


def train_config(job: Job, pool: Path) -> TrainConfig:
    """What is trained: RLOO after a warm start from the pool, unless the job's flags say otherwise."""
    settings: dict[str, Any] = {
        "pool": str(pool),
        "model": str(world_folder(job) / "model"),
        "reward": REWARDS + job.reward,
        "n": job.n,
        "out": str(run_folder(job)),
        "seed": job.seed,
        "warm_start": "offline",
        "offline_learning_rate": 0.128 / 32,
        "tracker": "none",
        "device": "cpu",
        "reward_batch_size": 8192,
        "checkpoint_every": 10**6,
        **job.scale.__dict__,
    }
    flags = dict(job.flags or {})
    if flags.get("algorithm") == "offline" or flags.get("objective") in ("reward", "quantile"):
        settings["warm_start"] = "none"
    return TrainConfig(**settings | with_algorithm(flags))


def with_algorithm(flags: Mapping[str, Any]) -> dict[str, Any]:
    """The flags, with RLOO where they leave the algorithm to the pool: an experiment compares at one algorithm."""
    chosen = "algorithm" in flags or flags.get("method", "vbon") != "vbon"
    return dict(flags) if chosen else {"algorithm": "rloo", **flags}


def run_folder(job: Job) -> Path:
    """Where a job's run goes: a name for each different job."""
    flags = "-".join(f"{k}={v}" for k, v in sorted((job.flags or {}).items()))
    scale = "x".join(f"{value:g}" for value in job.scale.__dict__.values())
    return job.folder / "runs" / f"{job.reward}-M{job.num_samples}-n{job.n:g}-s{job.seed}-{scale}-{flags}".rstrip("-")


def run_all(function: Callable[[Job], Any], jobs: Sequence[Job], num_workers: int) -> list[Any]:
    """`function` of every job, in order, in several processes where asked for; a line on stderr for each one done."""
    for job in {(job.folder, job.reward, job.num_samples, job.seed): job for job in jobs}.values():
        collect_pool(job)  # before the runs that share it
    return in_processes(function, [(run_folder(job).name, job) for job in jobs], num_workers)


def run_cases(
    function: Callable[[Job], Mapping[str, Any]], cases: Sequence[tuple[Row, Job]], num_workers: int
) -> list[Row]:
    """Run `function` of each case's job; return its labels, its seed and what the function returned."""
    done = run_all(function, [job for _, job in cases], num_workers)
    return [{**labels, "seed": job.seed, **row} for (labels, job), row in zip(cases, done, strict=True)]


def in_processes(function: Callable[[Any], Any], named: Sequence[tuple[str, Any]], num_workers: int) -> list[Any]:
    """`function` of every named thing, in order; a line on stderr for each one done."""
    console, results = Console(stderr=True), []
    with contextlib.ExitStack() as stack:
        mapped: Iterator[Any] = map(function, (one for _, one in named))
        if num_workers > 1:
            pool = stack.enter_context(ProcessPoolExecutor(num_workers, mp_context=get_context("spawn")))
            mapped = pool.map(function, [one for _, one in named])
        for (name, _), result in zip(named, mapped, strict=True):
            results.append(result)
            console.print(f"  {len(results)}/{len(named)} {name}", highlight=False, markup=False)
    return results
