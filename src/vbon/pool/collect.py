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
from vbon.models import load
from vbon.models.prompts import decode
from vbon.pool.files import replace_file
from vbon.pool.manifest import Manifest
from vbon.pool.prompts import Prompt, read_prompts, reward_columns
from vbon.pool.sampling import Draws, Sampler, draw_shard, encode_prompts, fingerprint_of, make_plan
from vbon.pool.shards import PromptSamples
from vbon.pool.writer import PoolWriter, hash_prompt_ids, is_pool
from vbon.rewards import Reward, load_reward


class Job(NamedTuple):
    """What is sampled and scored, or a part of it."""

    prompts: Sequence[Prompt]
    prompt_ids: Sequence[list[int]]
    sampler: Sampler
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
    sampler = load_sampler(config)
    prompt_ids = encode_prompts(sampler, prompts, config.prompts)
    reward = load_reward(
        config.reward,
        device=str(sampler.model.device),
        batch_size=config.reward_batch_size,
        timeout=config.reward_timeout,
        trust_remote_code=config.trust_remote_code,
    )
    expected = _manifest(config, prompts, sampler, reward)
    with _open_writer(config, expected) as writer:
        try:
            _fill(writer, Job(prompts, prompt_ids, sampler, reward), show_progress=progress)
        except KeyboardInterrupt:
            done = sum(shard.num_prompts for shard in writer.manifest.shards)
            message = f"stopped with {done} of {len(prompts)} prompts stored; run the same command to continue"
            raise KeyboardInterrupt(f"{writer.folder}: {message}") from None
    return writer.folder


def load_sampler(config: CollectConfig) -> Sampler:
    """The model and tokenizer that `config` names, and how they are sampled."""
    model = load.load_policy(
        config.model,
        dtype=config.dtype,
        device=load.resolve_device(config.device),
        trust_remote_code=config.trust_remote_code,
    )
    tokenizer = load.load_tokenizer(config.model, trust_remote_code=config.trust_remote_code)
    stop = load.stop_token_ids(model, tokenizer, config.stop_token_ids)
    return Sampler(model, tokenizer, config.temperature, config.max_new_tokens, stop)


def score(reward: Reward, prompts: Sequence[Prompt], completions: Sequence[Sequence[str]]) -> list[list[float]]:
    """Rewards of the completions of each prompt, in one call."""
    repeated = [prompt for prompt, texts in zip(prompts, completions, strict=True) for _ in texts]
    flat = [text for texts in completions for text in texts]
    rewards = iter(reward([prompt.prompt for prompt in repeated], flat, **reward_columns(repeated)).tolist())
    return [[next(rewards) for _ in texts] for texts in completions]


def _manifest(config: CollectConfig, prompts: Sequence[Prompt], sampler: Sampler, reward: Reward) -> Manifest:
    return Manifest(
        fingerprint=fingerprint_of(config.model, sampler, reward),
        created_by=f"vbon {vbon.__version__} collect",
        num_prompts=len(prompts),
        prompts_sha256=hash_prompt_ids(prompts),
        num_samples=config.num_samples,
        seed=config.seed,
        dtype=config.dtype,
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
    draws: dict[int, Draws] = {}
    for batch, drawn in draw_shard(job.sampler, job.prompts, job.prompt_ids, plan, seed, num_samples):
        draws |= zip(batch, drawn, strict=True)
        advance(len(batch) * num_samples)
    ordered = [draws[index] for index in range(len(job.prompts))]
    completions = [decode(job.sampler.tokenizer, one.completion_ids) for one in ordered]
    rewards = score(job.reward, job.prompts, completions)
    return [
        PromptSamples(prompt, texts, one.completion_ids, np.array(values), one.ref_logprobs, one.finished)
        for prompt, texts, one, values in zip(job.prompts, completions, ordered, rewards, strict=True)
    ]


def _progress_bar(*, show: bool) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), disable=not show)
