"""The rows of a pool, one per completion, in Parquet shards."""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vbon.artifacts.json_files import first_line
from vbon.errors import VbonError
from vbon.pool.manifest import Shard
from vbon.pool.prompts import Prompt, canonical_json

SCHEMA = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("prompt", pa.string()),
        ("is_chat", pa.bool_()),
        ("columns", pa.string()),
        ("sample_index", pa.int32()),
        ("completion", pa.string()),
        ("completion_ids", pa.list_(pa.int32())),
        ("ref_logprob", pa.float64()),
        ("reward", pa.float64()),
        ("finished", pa.bool_()),
        ("seed", pa.int64()),
        ("prompt_ids", pa.list_(pa.int32())),  # in the row of a prompt's first sample; null in the others
    ]
)
FIRST_NAMES = SCHEMA.names[:-1]
"""The columns of format 1, in which the token ids of prompts are not known."""
ROWS_PER_SHARD = 4096  # what a crash may lose: a few seconds of sampling on a CPU
_PER_PROMPT = ("prompt_id", "prompt", "columns")
_MEND = "redo it with the same `vbon collect` command"


@dataclass(frozen=True)
class PromptSamples:
    """The scored reference samples of one prompt. Every list has M entries; None stands for unknown."""

    prompt: Prompt
    completions: Sequence[str | None]
    completion_ids: Sequence[Sequence[int] | None]
    rewards: NDArray[np.float64]
    ref_logprobs: Sequence[float | None]
    """Sequence log-probability under the reference policy at the sampling temperature, nats."""
    finished: Sequence[bool | None]
    """True where a stop token ended the completion, False where the length limit did."""


def encode_shard(samples: Sequence[PromptSamples], seed: int | None) -> bytes:
    """Encode a shard as Parquet bytes, which are a function of its rows alone."""
    return encode_table(pa.concat_tables([_table(one, seed) for one in samples]))


def encode_table(table: pa.Table) -> bytes:
    """Encode a table of `SCHEMA` as Parquet bytes, which are a function of its rows alone."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", use_dictionary=list(_PER_PROMPT))
    return buffer.getvalue()


def describe_shard(name: str, num_prompts: int, rows: int, content: bytes) -> Shard:
    """Make the manifest's entry of a shard, with its checksum.

    Args:
        name: file name.
        num_prompts: number of its prompts.
        rows: number of its rows.
        content: its Parquet bytes.

    Returns:
        The entry.
    """
    return Shard(name, num_prompts, rows, hashlib.sha256(content).hexdigest())


def is_intact(folder: Path, shard: Shard) -> bool:
    """Return True if the shard's file exists, is a plain file and has the recorded checksum."""
    path = folder / shard.name
    if path.is_symlink() or not path.is_file():
        return False
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == shard.sha256


def check_shard(folder: Path, shard: Shard) -> None:
    """Check the file of a shard.

    Raises:
        VbonError: it is missing, is a link, or its checksum differs.
    """
    path = folder / shard.name
    if path.is_symlink():
        raise VbonError(f"{path}: is a symbolic link; a pool's shards must lie in the pool")
    if not path.is_file():
        raise VbonError(f"{path}: shard is missing; {_MEND}")
    if not is_intact(folder, shard):
        raise VbonError(f"{path}: shard is damaged (checksum differs from the manifest's); {_MEND}")


def read_shard(folder: Path, shard: Shard, columns: Sequence[str]) -> pa.Table:
    """Read some columns of a shard.

    Raises:
        VbonError: its content is not what the manifest says.
    """
    path = folder / shard.name
    try:
        _check_schema(path, pq.read_schema(path))
        # Prompts as dictionaries: a long prompt is held once, not once a sample.
        with pq.ParquetFile(path, read_dictionary=[name for name in _PER_PROMPT if name in columns]) as file:
            table = file.read(columns=[name for name in columns if name in file.schema_arrow.names])
        table.validate(full=True)  # UTF-8 and offsets: a forged shard must not be found out only when a row is used
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise VbonError(f"{path}: not readable as Parquet ({first_line(error)}); {_MEND}") from None
    if table.num_rows != shard.rows:
        raise VbonError(f"{path}: holds {table.num_rows} rows, the manifest says {shard.rows}; {_MEND}")
    for name in ("completion_ids", "prompt_ids"):
        if name in table.column_names and pc.list_flatten(table.column(name)).null_count:
            raise VbonError(f"{path}: one of the {name} is null; {_MEND}")
    return table


def _check_schema(path: Path, schema: pa.Schema) -> None:
    if schema.names not in (SCHEMA.names, FIRST_NAMES):
        raise VbonError(f"{path}: not a shard of a pool (its columns are {', '.join(schema.names)[:200]})")
    for found, expected in zip(schema, SCHEMA, strict=False):
        if found.type != expected.type:
            raise VbonError(f"{path}: column {found.name!r} has type {found.type}, not {expected.type}")


def _table(samples: PromptSamples, seed: int | None) -> pa.Table:
    prompt, rows = samples.prompt, len(samples.rewards)
    text = canonical_json(prompt.prompt) if prompt.is_chat else prompt.prompt
    values = {
        "prompt_id": [prompt.prompt_id] * rows,
        "prompt": [text] * rows,
        "is_chat": [prompt.is_chat] * rows,
        "columns": [canonical_json(prompt.columns)] * rows,
        "sample_index": range(rows),
        "completion": samples.completions,
        "completion_ids": samples.completion_ids,
        "ref_logprob": samples.ref_logprobs,
        "reward": np.asarray(samples.rewards, np.float64),
        "finished": samples.finished,
        "seed": [seed] * rows,
        "prompt_ids": [prompt.token_ids, *[None] * (rows - 1)],
    }
    return pa.table([pa.array(values[field.name], field.type) for field in SCHEMA], schema=SCHEMA)
