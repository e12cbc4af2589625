"""`vbon collect`: draw M completions of every prompt from the reference model, score them, keep them as a pool.

Stopped at any moment, the same command continues: finished shards stay, a torn one is redone, and the pool ends
with the rows an uninterrupted run would have given (same machine and number of threads: float sums depend on both).
"""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

import vbon
from vbon.config.pool import CollectConfig
from vbon.config.yaml_file import merged_text
from vbon.pool.engines import Engine, Samples, load_engine
from vbon.pool.files import replace_file
from vbon.pool.manifest import Manifest
from vbon.pool.prompts import Prompt, read_prompts, reward_columns
from vbon.pool.sampling import make_plan
from vbon.pool.shards import PromptSamples
from vbon.pool.writer import PoolWriter, hash_prompt_ids, is_pool
from vbon.rewards import Reward, load_reward


class Job(NamedTuple):
    """What is sampled and scored, or a part of it."""

    prompts: Sequence[Prompt]
    prompt_ids: Sequence[list[int]]
    engine: Engine
    reward: Reward

    def part(self, first: int, count: int) -> "Job":
        rows = slice(first, first + count)
        return self._replace(prompts=self.prompts[rows], prompt_ids=self.prompt_ids[rows])


def collect(config: CollectConfig, *, progress: bool = True) -> Path:
    """Make, or finish, the pool at `config.out`. Returns its folder.

    Raises VbonError before anything is sampled for bad prompts, model or reward, and for a pool started otherwise.
    On Ctrl-C, KeyboardInterrupt whose message says how to continue; what was written stays.
    """
    prompts = read_prompts(config.prompts, column=config.prompt_column, limit=config.limit)
    engine = load_engine(config)
    prompt_ids = engine.encode(prompts, config.prompts)
    reward = load_reward(
        config.reward,
        device=engine.device,
        batch_size=config.reward_batch_size,
        timeout=config.reward_timeout,
        trust_remote_code=config.trust_remote_code,
    )
    expected = _manifest(config, prompts, engine, reward)
    with _open_writer(config, expected) as writer:
        try:
            _fill(writer, Job(prompts, prompt_ids, engine, reward), show_progress=progress)
        except KeyboardInterrupt:
            done = sum(shard.num_prompts for shard in writer.manifest.shards)
            message = f"stopped with {done} of {len(prompts)} prompts stored; run the same command to continue"
            raise KeyboardInterrupt(f"{writer.folder}: {message}") from None
    return writer.folder


def score(reward: Reward, prompts: Sequence[Prompt], completions: Sequence[Sequence[str]]) -> list[list[float]]:
    """Rewards of the completions of each prompt, in one call."""
    repeated = [prompt for prompt, texts in zip(prompts, completions, strict=True) for _ in texts]
    flat = [text for texts in completions for text in texts]
    rewards = iter(reward([prompt.prompt for prompt in repeated], flat, **reward_columns(repeated)).tolist())
    return [[next(rewards) for _ in texts] for texts in completions]


def _manifest(config: CollectConfig, prompts: Sequence[Prompt], engine: Engine, reward: Reward) -> Manifest:
    return Manifest(
        fingerprint=engine.fingerprint(reward),
        created_by=f"vbon {vbon.__version__} collect --engine {config.engine}",
        num_prompts=len(prompts),
        prompts_sha256=hash_prompt_ids(prompts),
        num_samples=config.num_samples,
        seed=config.seed,
        dtype=None if config.engine == "openai" else config.dtype,  # a server's own
        model=config.model,
        reward=reward.name,
        plan=make_plan(config.num_samples, config.batch_size),
    )


def _open_writer(config: CollectConfig, expected: Manifest) -> PoolWriter:
    opener = PoolWriter.open_for_resume if is_pool(config.out) else PoolWriter.create
    writer = opener(config.out, expected)
    # The reward's own name for itself: a URL may carry a password.
    text = merged_text(dataclasses.replace(config, reward=expected.reward or ""))
    replace_file(writer.folder / "config.yaml", text.encode())
    return writer


def _fill(writer: PoolWriter, job: Job, *, show_progress: bool) -> None:
    plan, num_samples = writer.manifest.plan, writer.manifest.num_samples
    assert plan is not None and num_samples is not None
    with _progress_bar(show=show_progress) as bar:
        task = bar.add_task("samples", total=len(job.prompts) * num_samples)
        for index, first in enumerate(range(0, len(job.prompts), plan.prompts_per_shard)):
            part = job.part(first, plan.prompts_per_shard)
            if not writer.has_shard(index):
                writer.write_shard(index, _make_shard(part, writer.manifest, lambda rows: bar.advance(task, rows)))
            else:
                bar.advance(task, len(part.prompts) * num_samples)
    writer.finish()


def _make_shard(job: Job, manifest: Manifest, advance: Callable[[int], None]) -> list[PromptSamples]:
    plan, seed, num_samples = manifest.plan, manifest.seed, manifest.num_samples
    assert plan is not None and seed is not None and num_samples is not None
    draws: dict[int, Samples] = {}
    for batch, drawn in job.engine.draw(job.prompts, job.prompt_ids, plan, seed, num_samples):
        draws |= zip(batch, drawn, strict=True)
        advance(len(batch) * num_samples)
    ordered = [draws[index] for index in range(len(job.prompts))]
    rewards = score(job.reward, job.prompts, [one.completions for one in ordered])
    return [
        PromptSamples(prompt, one.completions, one.completion_ids, np.array(values), one.ref_logprobs, one.finished)
        for prompt, one, values in zip(job.prompts, ordered, rewards, strict=True)
    ]


def _progress_bar(*, show: bool) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), disable=not show)
