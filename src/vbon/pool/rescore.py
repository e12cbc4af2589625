"""`vbon rescore`: the samples of a pool under another reward. Nothing is sampled again.

The new pool has the shards of the first one with other rewards, and its manifest names the first pool by its digest. If
it is stopped, the same command resumes after the last shard that is stored.
"""

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from vbon.artifacts.files import replace_file
from vbon.config.pool import RescoreConfig
from vbon.config.yaml_file import merged_text
from vbon.errors import VbonError
from vbon.models.load import resolve_device
from vbon.pool.manifest import FORMAT_VERSION, Shard
from vbon.pool.prompts import reward_columns
from vbon.pool.shards import SCHEMA, encode_table, read_shard
from vbon.pool.store import ReferencePool
from vbon.pool.writer import CONFIG_NAME, PoolWriter, is_pool
from vbon.progress import ProgressBar
from vbon.rewards import Reward, load_configured_reward
from vbon.rewards.pairwise import PairwiseReward
from vbon.version import __version__


def rescore_pool(config: RescoreConfig, *, progress: bool = True) -> Path:
    """Make or finish the pool at `config.out`, and return its folder. The first pool stays as it is.

    Raises:
        VbonError: the first pool holds no texts or cannot be read, the reward cannot be used, or the pool at
            `config.out` was started from another pool or with another reward.
    """
    pool, out = ReferencePool.open(config.pool), Path(config.out)
    if pool.completions.values.null_count:
        raise VbonError(f"{pool.path}: holds rewards without completions, which cannot be scored again")
    if out.exists() and out.resolve() == pool.path.resolve():
        raise VbonError(f"--out {out} is the pool itself; choose another --out")
    reward = load_configured_reward(config.reward, config, str(resolve_device(config.device)))
    if isinstance(reward, PairwiseReward):
        raise VbonError(f"--reward {reward.name}: a pairwise reward scores samples while `vbon collect` draws them")
    expected = dataclasses.replace(
        pool.manifest,
        fingerprint=dataclasses.replace(pool.fingerprint, reward=reward.fingerprint),
        created_by=f"vbon {__version__} rescore",
        reward=reward.name,
        shards=(),
        complete=False,
        format_version=FORMAT_VERSION,
        source=pool.digest,
    )
    resumed = is_pool(out)
    with PoolWriter.open_for_resume(out, expected) if resumed else PoolWriter.create(out, expected) as writer:
        text = merged_text(dataclasses.replace(config, reward=reward.name))  # a URL may carry a password
        replace_file(writer.folder / CONFIG_NAME, text.encode())
        try:
            _fill(writer, pool, reward, show_progress=progress)
        except KeyboardInterrupt:
            message = f"stopped with {len(writer.manifest.shards)} of {len(pool.manifest.shards)} shards stored"
            raise KeyboardInterrupt(f"{out}: {message}; run the same command to continue") from None
    return out


def score_pool(pool: ReferencePool, reward: Reward, rows: slice = slice(None)) -> NDArray[np.float64]:
    """Score completions of a pool by any reward, float64 (rows,); all of them by default.

    Raises:
        VbonError: the pool holds rewards only, or the reward failed.
    """
    texts = pool.completions[rows]
    if None in texts:
        raise VbonError(f"{pool.path}: holds rewards without completions, which {reward.name} cannot score")
    prompts = [pool.prompts[index] for index in pool.prompt_index[rows]]
    return reward([prompt.prompt for prompt in prompts], texts, **reward_columns(prompts))


def _fill(writer: PoolWriter, pool: ReferencePool, reward: Reward, *, show_progress: bool) -> None:
    first = 0
    with ProgressBar("samples", len(pool.rewards), show=show_progress) as bar:
        for index, shard in enumerate(pool.manifest.shards):
            if not writer.has_shard(index):
                rewards = score_pool(pool, reward, slice(first, first + shard.rows))
                content = encode_table(_with_rewards(pool, shard, rewards))
                writer.write_content(index, content, shard.num_prompts, shard.rows)
            first += shard.rows
            bar.advance(shard.rows)
    writer.finish()


def _with_rewards(pool: ReferencePool, shard: Shard, rewards: NDArray[np.float64]) -> pa.Table:
    """The rows of a shard with other rewards; columns that an earlier version did not know are empty."""
    table = read_shard(pool.path, shard, SCHEMA.names)
    columns = {name: table.column(name) for name in table.column_names} | {"reward": pa.array(rewards, pa.float64())}
    return pa.table(
        [
            columns[field.name].cast(field.type) if field.name in columns else pa.nulls(len(table), field.type)
            for field in SCHEMA
        ],
        schema=SCHEMA,
    )
