"""Runs on text: the trainer on a pool cut to fewer samples or with its rewards mapped, measured on held-out prompts.

A pool names the model and the reward that made it, and they are loaded from there.
"""

import copy
import dataclasses
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vbon.artifacts.run import RunFolder
from vbon.config import EvaluateConfig, TrainConfig
from vbon.core import stats
from vbon.errors import VbonError
from vbon.evaluation.plan import make_plan
from vbon.evaluation.samples import draw_samples, per_prompt_metrics
from vbon.evaluation.target import kl_policy_bon_floor, target_metrics
from vbon.evaluation.task import EvalTask
from vbon.lab.exact import Float
from vbon.lab.laws import MAPS, spread_of
from vbon.lab.training import with_algorithm
from vbon.models import load
from vbon.pool.shards import PromptSamples
from vbon.pool.store import ReferencePool
from vbon.pool.writer import write_whole
from vbon.rewards import Reward, load_reward
from vbon.rewards.protocol import Prompt
from vbon.training.trainer import VBoNTrainer

MEASURES = ("reward", "win_rate", "kl_policy_ref", "kl_policy_bon")


@dataclass(frozen=True, kw_only=True)
class TextJob:
    """One run on text. `num_samples`: how many samples of each prompt; None for all. `flags`: of `vbon train`."""

    pool: str
    heldout: str
    n: float
    seed: int
    work: Path
    samples_per_prompt: int
    num_samples: int | None = None
    reward_map: str = "identity"
    flags: tuple[tuple[str, Any], ...] = ()

    @property
    def folder(self) -> Path:
        """Where the run goes: a name for each different job."""
        flags = [f"{name}={value}" for name, value in self.flags]
        return Path(self.work, "-".join([self.pool_name, f"n{self.n:g}", f"s{self.seed}", *flags]))

    @property
    def pool_name(self) -> str:
        samples = "all" if self.num_samples is None else self.num_samples
        return f"{self.reward_map}-M{samples}"


@dataclass(frozen=True)
class MappedReward:
    """A reward after one of `MAPS`."""

    base: Reward
    reward_map: str
    spread: float

    @property
    def name(self) -> str:
        return f"{self.reward_map} of {self.base.name}"

    @property
    def fingerprint(self) -> str:
        return f"{self.reward_map} {self.spread!r} {self.base.fingerprint}"

    @property
    def noise(self) -> float | None:
        return self.base.noise

    def __call__(self, prompts: list[Prompt], completions: list[str], /, **columns: list[Any]) -> Float:
        return MAPS[self.reward_map](self.base(prompts, completions, **columns), self.spread)


def run(job: TextJob) -> dict[str, Any]:
    """Train where it is not done, measure: `MEASURES` of the policy, each with its interval, nats."""
    torch.set_num_threads(1)
    train(job)
    task = task_of(job)
    policy = load.load_policy(str(job.folder), dtype="float32", device=torch.device("cpu"))
    per_prompt = per_prompt_metrics(draw_samples(policy, task), task)
    return with_intervals({name: per_prompt[name] for name in MEASURES})


def moved(job: TextJob, plain: TextJob) -> dict[str, Any]:
    """KL(policy of `job`‖policy of `plain`) on held-out prompts, nats, and whether their weights are the same bits."""
    task = task_of(job)
    cpu = torch.device("cpu")
    policy, other = (load.load_policy(str(one.folder), dtype="float32", device=cpu) for one in (job, plain))
    against = dataclasses.replace(task, sampler=task.sampler._replace(model=other))
    divergence = draw_samples(policy, against).divergence.kl.mean(1)
    pairs = zip(policy.state_dict().values(), other.state_dict().values(), strict=True)
    same = all(torch.equal(one, two) for one, two in pairs)
    estimate = stats.mean(divergence)
    return {"same_weights": same, "moved": estimate.value, "moved_interval": [estimate.low, estimate.high]}


def target(job: TextJob) -> dict[str, Any]:
    """Best-of-N itself on the held-out prompts; `floor`: what KL(·‖π_bon) reads at it."""
    task = task_of(job)
    per_prompt = target_metrics(task)
    floor = kl_policy_bon_floor(task)
    return {"floor": floor, **with_intervals({name: per_prompt[name] for name in MEASURES if name in per_prompt})}


def with_intervals(per_prompt: Mapping[str, Float]) -> dict[str, Any]:
    """Means over prompts, and their 95 % bootstrap intervals under `intervals`."""
    estimates = {name: stats.mean(values) for name, values in per_prompt.items()}
    return {
        **{name: estimate.value for name, estimate in estimates.items()},
        "intervals": {name: [estimate.low, estimate.high] for name, estimate in estimates.items()},
    }


def task_of(job: TextJob) -> EvalTask:
    """Where the policies are measured: by the reward as it is, not as it was mapped for training."""
    base = ReferencePool.open(job.heldout).manifest
    config = EvaluateConfig(
        runs=(named(base.model, job.heldout, "model"),),
        pool=job.heldout,
        out="",
        n=job.n,
        samples_per_prompt=job.samples_per_prompt,
        device="cpu",
        seed=job.seed,
    )
    return make_plan(config).task


def train(job: TextJob) -> None:
    """Train into `job.folder` unless a finished run is there."""
    run = RunFolder(job.folder)
    if run.is_finished:
        return
    source = ReferencePool.open(job.pool)
    reward, pool = mapped_reward(source, job.reward_map), ReferencePool.open(derive_pool(job))
    model = named(source.manifest.model, job.pool, "model")
    config = TrainConfig(
        pool=str(pool.path),
        model=model,
        reward=reward.base.name,
        n=job.n,
        out=str(job.folder),
        seed=job.seed,
        tracker="none",
        device="cpu",
        checkpoint_every=10**6,
        **with_algorithm(dict(job.flags)),
    )
    ref_policy = load.load_policy(model, dtype="float32", device=torch.device("cpu"))
    VBoNTrainer(copy.deepcopy(ref_policy), ref_policy, reward, pool, config).train()
    shutil.rmtree(run.checkpoints, ignore_errors=True)


def named(value: str | None, pool: str, what: str) -> str:
    """`value`. Raises VbonError where the pool does not say it."""
    if value is None:
        raise VbonError(f"{pool}: does not say which {what} made it; import it with --declare {what}=…")
    return value


def mapped_reward(pool: ReferencePool, reward_map: str) -> MappedReward:
    """The reward that scored the pool, after the map."""
    base = load_reward(named(pool.manifest.reward, str(pool.path), "reward"))
    return MappedReward(base, reward_map, spread_of(pool.per_prompt(pool.rewards)))


def derive_pool(job: TextJob) -> Path:
    """The pool of the first M samples of each prompt under the mapped reward, beside the runs; written once."""
    out = Path(job.work, f"pool-{job.pool_name}")
    if out.exists():
        return out
    pool = ReferencePool.open(job.pool)
    reward = mapped_reward(pool, job.reward_map)
    made = dataclasses.replace(
        pool.manifest,
        shards=(),
        complete=False,
        plan=None,
        num_samples=job.num_samples or pool.manifest.num_samples,
        fingerprint=dataclasses.replace(pool.fingerprint, reward=reward.fingerprint),
    )
    write_whole(out, made, _cut(pool, job.num_samples, reward))
    return out


def _cut(pool: ReferencePool, num_samples: int | None, reward: MappedReward) -> Iterator[PromptSamples]:
    rewards = MAPS[reward.reward_map](pool.rewards, reward.spread)
    for index, prompt in enumerate(pool.prompts):
        rows = pool.rows_of(index)
        if num_samples is not None:
            held = rows.stop - rows.start
            if held < num_samples:
                raise VbonError(f"{pool.path}: has {held} samples of prompt {prompt.prompt_id}, of {num_samples}")
            rows = slice(rows.start, rows.start + num_samples)
        yield PromptSamples(
            prompt,
            pool.completions[rows],
            pool.completion_ids[rows],
            rewards[rows],
            [None] * (rows.stop - rows.start),
            pool.finished[rows],
        )
