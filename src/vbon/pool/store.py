"""Reading of a pool: M scored reference samples of each prompt, checked when it is opened."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from vbon.artifacts.fingerprint import Fingerprint
from vbon.artifacts.json_files import parse_json
from vbon.core.reward_cdf import RewardCDF
from vbon.errors import VbonError
from vbon.pool.manifest import Manifest, manifest_to_json, read_manifest
from vbon.pool.prompts import Prompt, check_prompt, make_prompt, with_absent_columns
from vbon.pool.shards import SCHEMA, check_shard, read_shard

_KEYS = ("prompt_id", "prompt", "is_chat", "columns", "sample_index")
_PROMPT_IDS = "prompt_ids"
TIE_RULES = ("random", "order")
T = TypeVar("T", bound=np.generic)


class Column(Sequence[Any]):
    """A column of a pool in Arrow's compact form; an access makes the Python values that it returns."""

    def __init__(self, values: pa.ChunkedArray):
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return self.values.take(np.arange(len(self))[index]).to_pylist()
        return self.values[int(index)].as_py()

    def __iter__(self) -> Iterator[Any]:
        for chunk in self.values.iterchunks():
            yield from chunk.to_pylist()


@dataclass(frozen=True, eq=False)
class ReferencePool:
    """M scored reference samples of each of P prompts; flat columns hold ΣM rows, the prompts one after another.

    The rows of prompt p are `rows_of(p)`.
    """

    path: Path
    manifest: Manifest
    prompts: list[Prompt]
    num_samples: NDArray[np.int64]
    """M of each prompt, shape (P,)."""
    rows: NDArray[np.int64] | None
    """Indices of the stored rows, after `select`; None for all rows."""
    settled: NDArray[np.float64] | None = None
    """Rewards to rank by instead of the stored ones, shape (ΣM,) (`pool.known_rewards`)."""

    @classmethod
    def open(cls, path: str | Path, *, allow_incomplete: bool = False) -> "ReferencePool":
        """Open a pool and check its manifest, checksums and rows.

        Raises:
            VbonError: there is no pool, it is unfinished (unless that is allowed), a shard is damaged or foreign, or a
                reward is not finite. The message names the path.
        """
        folder = Path(path)
        manifest = read_manifest(folder)
        if not manifest.complete and not allow_incomplete:
            done = sum(shard.num_prompts for shard in manifest.shards)
            raise VbonError(
                f"{folder}: unfinished pool ({done} of {manifest.num_prompts} prompts); "
                "finish it with the same `vbon collect` command"
            )
        for shard in manifest.shards:
            check_shard(folder, shard)
        prompts, num_samples = _read_prompts(folder, manifest)
        pool = cls(folder, manifest, prompts, num_samples, None)
        _check_rewards(pool)
        return pool

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def fingerprint(self) -> Fingerprint:
        """Return the fingerprint of the settings that made the pool."""
        return self.manifest.fingerprint

    @property
    def digest(self) -> str:
        """Compute the SHA-256 of the pool: of its manifest, which has those of its shards."""
        return hashlib.sha256(manifest_to_json(self.manifest).encode()).hexdigest()

    @cached_property
    def offsets(self) -> NDArray[np.int64]:
        """Compute the first row of each prompt, and the end: int64 (P + 1,)."""
        return np.concatenate([[0], np.cumsum(self.num_samples)])

    def rows_of(self, prompt: int) -> slice:
        """Return the rows of the prompt at a position."""
        return slice(int(self.offsets[prompt]), int(self.offsets[prompt + 1]))

    def per_prompt(self, values: NDArray[T]) -> list[NDArray[T]]:
        """Split flat values (ΣM,) into those of each prompt, (M,) each."""
        return np.split(values, self.offsets[1:-1])

    @cached_property
    def prompt_index(self) -> NDArray[np.int64]:
        """Compute the index of the prompt of each row, int64 (ΣM,)."""
        return np.repeat(np.arange(len(self.prompts)), self.num_samples)

    @cached_property
    def rewards(self) -> NDArray[np.float64]:
        """Read the rewards, float64 (ΣM,): those to rank by, where they were settled."""
        return self._column("reward").to_numpy().astype(np.float64) if self.settled is None else self.settled

    @cached_property
    def completions(self) -> Column:
        """Read the text of each completion, without special tokens; None in a pool of rewards only."""
        return Column(self._column("completion"))

    @cached_property
    def completion_ids(self) -> Column:
        """Read the token ids of each completion as sampled, with its stop token; None where unknown."""
        return Column(self._column("completion_ids"))

    @cached_property
    def ref_logprobs(self) -> NDArray[np.float64]:
        """Read the log-probability of each completion, float64 (ΣM,), nats; NaN where unknown.

        It is taken at the sampling temperature.
        """
        return self._column("ref_logprob").to_numpy(zero_copy_only=False).astype(np.float64)

    @cached_property
    def finished(self) -> Column:
        """Read how each completion ended: True for a stop token, False for the length limit, None where unknown."""
        return Column(self._column("finished"))

    @cached_property
    def _index(self) -> dict[str, int]:
        return {prompt.prompt_id: index for index, prompt in enumerate(self.prompts)}

    def index_of(self, prompt_id: str) -> int:
        """Find the position of a prompt.

        Raises:
            VbonError: the pool does not have it.
        """
        try:
            return self._index[prompt_id]
        except KeyError:
            raise VbonError(f"{self.path}: has no samples of prompt {prompt_id}; collect a pool for it") from None

    def cdf(self, tie_rule: str = "random") -> RewardCDF:
        """Make the reward CDF of every prompt; tie rule `random` keeps ties, and `order` refines them by `tie_keys`.

        Raises:
            VbonError: there is no such tie rule.
        """
        if tie_rule not in TIE_RULES:
            raise VbonError(f"tie_rule {tie_rule!r}: must be one of {', '.join(TIE_RULES)}")
        return RewardCDF(self.rewards, self.num_samples, self.tie_keys if tie_rule == "order" else None)

    @cached_property
    def tie_keys(self) -> NDArray[np.int64]:
        """Compute `tie_keys` of the completions: of their token ids where all are known, otherwise of their text.

        Raises:
            VbonError: the pool holds rewards only.
        """
        column = self.completion_ids if self.has_completion_ids else self.completions
        if column.values.null_count:
            raise VbonError(f"{self.path}: tie rule 'order' needs completions, and this pool holds only rewards")
        return tie_keys(column)

    @property
    def has_completion_ids(self) -> bool:
        """Return True if every row has token ids, which training on the pool itself requires."""
        return self.completion_ids.values.null_count == 0

    def select(self, prompt_ids: Sequence[str]) -> "ReferencePool":
        """Select prompts, in the given order.

        Raises:
            VbonError: the pool does not have one of them; the message names it.
        """
        index = np.array([self.index_of(prompt_id) for prompt_id in prompt_ids], np.int64)
        every = np.arange(len(self.prompt_index))
        own = np.concatenate([np.empty(0, np.int64), *(every[self.rows_of(i)] for i in index)])
        return ReferencePool(
            path=self.path,
            manifest=self.manifest,
            prompts=[self.prompts[i] for i in index],
            num_samples=self.num_samples[index],
            rows=own if self.rows is None else self.rows[own],
            settled=None if self.settled is None else self.settled[own],
        )

    def split(self, fraction: float, seed: int = 0) -> tuple["ReferencePool", "ReferencePool"]:
        """Split the prompts into about `fraction` of them and the rest.

        The split is by a hash of seed and prompt id, so that further prompts do not change the part of the others.
        """
        chosen = [_unit_hash(f"{seed}:{prompt.prompt_id}") < fraction for prompt in self.prompts]
        ids = [prompt.prompt_id for prompt in self.prompts]
        return (
            self.select([name for name, first in zip(ids, chosen, strict=True) if first]),
            self.select([name for name, first in zip(ids, chosen, strict=True) if not first]),
        )

    def _column(self, name: str) -> pa.ChunkedArray:
        pieces = [read_shard(self.path, shard, [name]).column(name) for shard in self.manifest.shards]
        chunks = [chunk for piece in pieces for chunk in piece.iterchunks()]
        column = pa.chunked_array(chunks) if chunks else pa.chunked_array([], SCHEMA.field(name).type)
        return column if self.rows is None else column.take(pa.array(self.rows))


def tie_keys(completions: Iterable[str | Sequence[int]]) -> NDArray[np.int64]:
    """Compute a stable 64-bit hash of each completion (text or token ids), int64 (B,).

    It is the total order ≺ of tie rule `order` (arXiv 2407.06057 assumes one).
    """
    return np.fromiter((_hash64(completion) for completion in completions), np.int64)


def _hash64(completion: str | Sequence[int]) -> int:
    content = completion.encode() if isinstance(completion, str) else np.asarray(completion, "<i4").tobytes()
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little", signed=True)


def _unit_hash(text: str) -> float:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2.0**64


def _read_prompts(folder: Path, manifest: Manifest) -> tuple[list[Prompt], NDArray[np.int64]]:
    prompts: dict[str, Prompt] = {}
    num_samples: list[int] = []
    for shard in manifest.shards:
        where = str(folder / shard.name)
        table = read_shard(folder, shard, (*_KEYS, _PROMPT_IDS)).combine_chunks()
        starts = _first_rows(table, where)
        num_samples += np.diff(np.append(starts, table.num_rows)).tolist()
        for row in table.take(pa.array(starts)).to_pylist():
            prompt = _stored_prompt(row, where)
            if prompt.prompt_id in prompts:
                raise VbonError(f"{where}: prompt {prompt.prompt_id} is in the pool twice")
            prompts[prompt.prompt_id] = prompt
    if manifest.complete and (len(prompts) != manifest.num_prompts or not prompts):
        raise VbonError(f"{folder}: holds {len(prompts)} prompts, its manifest says {manifest.num_prompts}")
    return with_absent_columns(list(prompts.values())), np.array(num_samples, np.int64)


def _first_rows(table: pa.Table, where: str) -> NDArray[np.int64]:
    """Find the row of each prompt's sample 0, and check that samples count 0, 1, 2, … within a prompt."""
    if any(table.column(name).null_count for name in _KEYS):
        raise VbonError(f"{where}: a row has no prompt or sample number")
    sample_index = table.column("sample_index").to_numpy()
    starts = np.flatnonzero(sample_index == 0)
    if table.num_rows and (not len(starts) or starts[0] != 0):
        raise VbonError(f"{where}: does not begin with a prompt's first sample")
    counts = np.diff(np.append(starts, table.num_rows))
    expected = np.arange(table.num_rows) - np.repeat(starts, counts)
    ids = table.column("prompt_id").cast(pa.string())
    moved = pc.any(pc.not_equal(ids, ids.take(pa.array(np.repeat(starts, counts))))).as_py()
    if moved or np.any(sample_index != expected):
        raise VbonError(f"{where}: a prompt's samples are not numbered 0, 1, 2, … one after another")
    return starts


def _stored_prompt(row: dict[str, Any], where: str) -> Prompt:
    value = parse_json(row["prompt"], where) if row["is_chat"] else row["prompt"]
    columns = parse_json(row["columns"], where)
    if not isinstance(columns, dict):
        raise VbonError(f"{where}: columns of prompt {row['prompt_id']!r:.60} are not a JSON object")
    prompt = make_prompt(check_prompt(value, f"{where}: prompt {row['prompt_id']!r:.60}"), columns)
    if prompt.prompt_id != row["prompt_id"]:
        raise VbonError(f"{where}: prompt {row['prompt_id']!r:.60} does not have the id of its text and columns")
    token_ids = row.get(_PROMPT_IDS)
    if token_ids is not None and (not token_ids or min(token_ids) < 0):
        raise VbonError(f"{where}: prompt {row['prompt_id']!r:.60} has no token ids, or negative ones")
    return prompt if token_ids is None else replace(prompt, token_ids=tuple(token_ids))


def _check_rewards(pool: ReferencePool) -> None:
    bad = np.flatnonzero(~np.isfinite(pool.rewards))
    if len(bad):
        prompt, reward = pool.prompts[pool.prompt_index[bad[0]]], pool.rewards[bad[0]]
        raise VbonError(f"{pool.path}: prompt {prompt.prompt_id} has a reward of {reward}; score it again")
    # Unknown is null; NaN is what a model gave whose logits were NaN, and its draws mean nothing.
    lost = pc.is_nan(pool._column("ref_logprob")).fill_null(fill_value=False).to_numpy()
    if lost.any():
        prompt = pool.prompts[pool.prompt_index[int(np.flatnonzero(lost)[0])]]
        raise VbonError(
            f"{pool.path}: a completion of prompt {prompt.prompt_id} has a log π_ref of NaN, so its model gave logits "
            "of NaN; collect the pool again in --dtype float32"
        )
