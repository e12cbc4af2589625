"""`vbon collect`: draw M completions of every prompt from the reference model, score them, and store them as a pool.

If it is stopped, the same command resumes: finished shards stay and a damaged shard is drawn again. The pool ends with
the rows of an uninterrupted run on the same machine and number of threads (sums of floats depend on both).
"""

import dataclasses
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from vbon.artifacts.files import replace_file
from vbon.artifacts.settings import CONFIG_NAME
from vbon.config.pool import CollectConfig
from vbon.config.yaml_file import merged_text
from vbon.errors import Paused, VbonError
from vbon.models.plan_lines import sampling_lines, show
from vbon.pool.described import describe_model
from vbon.pool.engines import TransformersEngine, load_engine
from vbon.pool.job import Part, make_shard, part_of, try_reward
from vbon.pool.manifest import Manifest
from vbon.pool.pairwise_ranks import share_of_cycles
from vbon.pool.prompt_ids import PromptTooLong, read_prompt_ids, write_prompt_ids
from vbon.pool.prompts import Prompt, read_prompts
from vbon.pool.sampled import Described, Engine
from vbon.pool.sampling import make_plan
from vbon.pool.store import ReferencePool
from vbon.pool.writer import PoolWriter, hash_prompt_ids, is_pool
from vbon.progress import ProgressBar
from vbon.rewards import Reward, load_configured_reward
from vbon.rewards.pairwise import PairwiseReward
from vbon.version import __version__


def collect(config: CollectConfig, *, progress: bool = True, should_pause: Callable[[], bool] | None = None) -> Path:
    """Make or finish the pool at `config.out`, and return its folder.

    On Ctrl-C it raises a KeyboardInterrupt whose message says how to continue; stored shards stay.

    Raises:
        VbonError: the prompts, model or reward cannot be used, or the pool was started with other settings. Nothing has
            been sampled then.
        Paused: `should_pause` returned True after a shard, which is stored.
    """
    prompts = read_prompts(config.prompts, column=config.prompt_column, columns=config.columns, limit=config.limit)
    local = None if config.engine == "ray" else load_engine(config)
    engine = local or describe_model(config)
    whole = _encoded(config, engine, prompts)
    prompts = list(whole.prompts)
    if progress and isinstance(engine, TransformersEngine):
        show(partial(_plan_lines, config, engine, whole))
    reward = load_configured_reward(config.reward, config, engine.device)
    with _open_writer(config, _manifest(config, whole, engine, reward)) as writer:
        if isinstance(reward, PairwiseReward):
            if config.engine == "ray":
                raise VbonError("--engine ray cannot share the comparisons of a pairwise reward; use another engine")
            reward.keep_in(writer.folder)
        whole = _with_first_ids(writer, whole)
        try:
            if local is not None and _missing(writer, whole):
                try_reward(local, reward, whole, writer.manifest)
            done = sum(shard.rows for shard in writer.manifest.shards)
            with ProgressBar("samples", len(prompts) * config.num_samples, done=done, show=progress) as bar:
                if local is None:
                    stored = _fill_by_ray(config, writer, whole, bar)
                else:
                    stored = _fill(writer, whole, local, reward, bar)
                for _ in stored:
                    if should_pause is not None and _missing(writer, whole) and should_pause():
                        raise Paused
            writer.finish()
        except (KeyboardInterrupt, Paused) as stop:
            done = sum(shard.num_prompts for shard in writer.manifest.shards)
            message = f"stopped with {done} of {len(prompts)} prompts stored; run the same command to continue"
            raise type(stop)(f"{writer.folder}: {message}") from None
    if isinstance(reward, PairwiseReward) and progress:
        cycles, triples = share_of_cycles(ReferencePool.open(writer.folder), reward)
        share = f"{cycles / triples:.1%}" if triples else "no share"
        print(f"{reward.name}: {cycles} of {triples} compared triples are cycles ({share})", file=sys.stderr)
    return writer.folder


def _plan_lines(config: CollectConfig, engine: TransformersEngine, whole: Part) -> list[str]:
    longest = max(map(len, whole.prompt_ids)) + config.max_new_tokens
    rows = min(config.batch_size or engine.batch_size(whole.prompt_ids), len(whole.prompts) * config.num_samples)
    stored = len(whole.prompts) * config.num_samples
    return sampling_lines(engine.sampler.model, rows, longest, stored, config.out, reward=config.reward)


def _encoded(config: CollectConfig, engine: Described, prompts: list[Prompt]) -> Part:
    """The prompts with their token ids; with --drop-long-prompts those that leave room for a completion."""
    try:
        return Part(prompts, engine.encode(prompts, config.prompts))
    except PromptTooLong as error:
        if not config.drop_long_prompts or not error.fitting:
            raise
        kept = [prompts[place] for place in error.fitting]
        dropped = len(prompts) - len(kept)
        warnings.warn(f"{config.prompts}: {dropped} prompts are too long and dropped, {len(kept)} kept", stacklevel=3)
        return Part(kept, engine.encode(kept, config.prompts))


def _manifest(config: CollectConfig, whole: Part, engine: Described, reward: Reward) -> Manifest:
    batch_size = config.batch_size or engine.batch_size(whole.prompt_ids)
    prompts = whole.prompts
    return Manifest(
        fingerprint=engine.fingerprint(reward),
        created_by=f"vbon {__version__} collect --engine {config.engine}",
        num_prompts=len(prompts),
        prompts_sha256=hash_prompt_ids(prompts),
        num_samples=config.num_samples,
        seed=config.seed,
        dtype=None if config.engine == "openai" else config.dtype,  # a server's own
        model=config.model,
        reward=reward.name,
        plan=make_plan(config.num_samples, batch_size, config.samples_per_shard),
    )


def _open_writer(config: CollectConfig, expected: Manifest) -> PoolWriter:
    if not is_pool(config.out):
        writer = PoolWriter.create(config.out, expected)
    else:
        writer = PoolWriter.open_for_resume(config.out, expected, own_plan=config.batch_size is None)
    # The reward's own name for itself: a URL may carry a password.
    text = merged_text(dataclasses.replace(config, reward=expected.reward or ""))
    replace_file(writer.folder / CONFIG_NAME, text.encode())
    return writer


def _with_first_ids(writer: PoolWriter, whole: Part) -> Part:
    """The prompts with the token ids that the pool was begun with; they are kept until it is complete."""
    if writer.manifest.complete:
        return whole
    first = read_prompt_ids(writer.folder) if writer.manifest.shards else {}
    ids = [list(first.get(one.prompt_id, now)) for one, now in zip(whole.prompts, whole.prompt_ids, strict=True)]
    changed = sum(then != now for then, now in zip(ids, whole.prompt_ids, strict=True))
    if changed:
        warnings.warn(
            f"{writer.folder}: the tokenizer now reads {changed} of {len(ids)} prompts as other tokens than when the "
            "pool was begun (a chat template that prints the date, say); the first ones are followed",
            stacklevel=2,
        )
    if not first:
        write_prompt_ids(writer.folder, whole.prompts, ids)
    return Part(whole.prompts, ids)


def _fill(writer: PoolWriter, whole: Part, engine: Engine, reward: Reward, bar: ProgressBar) -> Iterator[None]:
    """Store the missing shards, in order; yield after each."""
    for index in _missing(writer, whole):
        part = part_of(whole, writer.manifest, index)
        writer.write_shard(index, make_shard(part, engine, reward, writer.manifest, bar.advance))
        yield


def _fill_by_ray(config: CollectConfig, writer: PoolWriter, whole: Part, bar: ProgressBar) -> Iterator[None]:
    """Store the missing shards, as ray's workers finish them; yield after each."""
    from vbon.pool.ray_shards import ray_shards

    missing = _missing(writer, whole)
    if not missing:
        return
    for index, content in ray_shards(config, whole, writer.manifest, missing):
        num_prompts = len(part_of(whole, writer.manifest, index).prompts)
        writer.write_content(index, content, num_prompts, num_prompts * config.num_samples)
        bar.advance(num_prompts * config.num_samples)
        yield


def _missing(writer: PoolWriter, whole: Part) -> list[int]:
    """List the shards that are not stored yet."""
    return [index for index in range(_num_shards(writer, whole)) if not writer.has_shard(index)]


def _num_shards(writer: PoolWriter, whole: Part) -> int:
    plan = writer.manifest.plan
    assert plan is not None
    return -(-len(whole.prompts) // plan.prompts_per_shard)
