"""Writing of a pool, shard by shard.

A shard is complete or absent, there is one writer at a time, and a pool can be resumed after any crash.
"""

import contextlib
import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from vbon.artifacts.files import LOCK_NAME, FolderLock, remove_leftovers, replace_file, replace_folder
from vbon.artifacts.settings import CONFIG_NAME, check_same_settings
from vbon.config.fields import flag
from vbon.errors import VbonError
from vbon.pool.manifest import MANIFEST_NAME, Manifest, Plan, read_manifest, write_manifest
from vbon.pool.prompt_ids import IDS_NAME
from vbon.pool.prompts import Prompt
from vbon.pool.shards import ROWS_PER_SHARD, PromptSamples, describe_shard, encode_shard, is_intact
from vbon.rewards.pairwise import FILE_NAME as COMPARISONS


class PoolWriter:
    """Holder of the pool's lock from `create` or `open_for_resume` until `close`; use it as a context manager.

    A pool in which nothing was stored is removed.
    """

    def __init__(self, folder: Path, manifest: Manifest, lock: FolderLock, made: Sequence[Path] = ()):
        self.folder, self.manifest, self._lock, self._made = folder, manifest, lock, made

    @classmethod
    def create(cls, folder: str | Path, manifest: Manifest) -> "PoolWriter":
        """Start a pool in a new or empty folder.

        Raises:
            VbonError: the folder holds something else.
        """
        folder = Path(folder)
        _require_empty(folder)  # before a lock file is left among somebody's files
        made = [path for path in (folder, *folder.parents) if not path.exists()]
        lock = _lock(folder)
        try:
            remove_leftovers(folder)
            _require_empty(folder)
            write_manifest(folder, manifest)
        except BaseException:
            _discard(folder, made)
            lock.release()
            raise
        return cls(folder, manifest, lock, made)

    @classmethod
    def open_for_resume(cls, folder: str | Path, expected: Manifest, *, own_plan: bool = False) -> "PoolWriter":
        """Continue an unfinished pool; damaged or missing shards are removed from the manifest, to be made again.

        A pool in which nothing is stored yet is started anew, also with other settings. With `own_plan` the batch size
        is that of the pool, and not the expected one.

        Raises:
            VbonError: `expected` differs from the settings with which the pool was started; the message names each.
        """
        folder = Path(folder)
        read_manifest(folder)  # before a lock file is left in a folder that is no pool
        lock = _lock(folder)
        try:
            manifest = read_manifest(folder)
            remove_leftovers(folder)
            if not manifest.shards:
                write_manifest(folder, expected)
                return cls(folder, expected, lock)
            check_same_settings(folder, _settings_of(manifest), _settings_of(expected), spell=_spelled)
            intact = tuple(shard for shard in manifest.shards if is_intact(folder, shard))
            complete = manifest.complete and len(intact) == len(manifest.shards)
            plan = _resumed_plan(manifest.plan, expected.plan, own_plan=own_plan)
            manifest = dataclasses.replace(manifest, shards=intact, complete=complete, plan=plan)
        except BaseException:
            lock.release()
            raise
        return cls(folder, manifest, lock)

    def __enter__(self) -> "PoolWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def has_shard(self, index: int) -> bool:
        """Return True if the shard is stored."""
        name = self.manifest.shard_name(index)
        return any(shard.name == name for shard in self.manifest.shards)

    def write_shard(self, index: int, samples: Sequence[PromptSamples]) -> None:
        """Store a shard; when this returns, it is on disk and in the manifest."""
        rows = sum(len(one.rewards) for one in samples)
        self.write_content(index, encode_shard(samples, self.manifest.seed), len(samples), rows)

    def write_content(self, index: int, content: bytes, num_prompts: int, rows: int) -> None:
        """Store a shard that was encoded elsewhere.

        Args:
            index: index of the shard.
            content: its Parquet bytes.
            num_prompts: number of its prompts.
            rows: number of its rows.
        """
        name = self.manifest.shard_name(index)
        replace_file(self.folder / name, content)
        others = [shard for shard in self.manifest.shards if shard.name != name]
        shards = [*others, describe_shard(name, num_prompts, rows, content)]
        shards.sort(key=lambda shard: (len(shard.name), shard.name))
        self._update(dataclasses.replace(self.manifest, shards=tuple(shards)))

    def finish(self) -> None:
        """Mark the pool as complete.

        Raises:
            VbonError: prompts are missing.
        """
        stored = sum(shard.num_prompts for shard in self.manifest.shards)
        if stored != self.manifest.num_prompts:
            raise VbonError(f"{self.folder}: holds {stored} of {self.manifest.num_prompts} prompts; resume it first")
        self._update(dataclasses.replace(self.manifest, complete=True))
        (self.folder / IDS_NAME).unlink(missing_ok=True)  # the shards hold them now

    def close(self) -> None:
        """Release the lock, and remove a pool in which nothing was stored."""
        if not self.manifest.shards:
            _discard(self.folder, self._made)
        self._lock.release()

    def _update(self, manifest: Manifest) -> None:
        write_manifest(self.folder, manifest)
        self.manifest = manifest


def write_whole(out: Path, manifest: Manifest, samples: Iterable[PromptSamples]) -> None:
    """Write a pool of samples that exist already.

    It is written beside `out` and renamed, so that a pool at `out` is always complete.

    Raises:
        VbonError: the pool cannot be written.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise VbonError(f"{out}: is there already; choose another --out")
    with replace_folder(out) as folder:
        try:
            with PoolWriter.create(folder, manifest) as writer:
                for index, shard in enumerate(_shards(samples)):
                    writer.write_shard(index, shard)
                writer.finish()
        except VbonError as error:
            raise VbonError(str(error).replace(str(folder), str(out))) from None  # the user named --out


def _shards(samples: Iterable[PromptSamples]) -> Iterator[list[PromptSamples]]:
    shard: list[PromptSamples] = []
    for one in samples:
        shard.append(one)
        if sum(len(prompt.rewards) for prompt in shard) >= ROWS_PER_SHARD:
            yield shard
            shard = []
    if shard:
        yield shard


def is_pool(folder: str | Path) -> bool:
    """Return True if a pool was started in this folder."""
    return (Path(folder) / MANIFEST_NAME).exists()


def hash_prompt_ids(prompts: Iterable[Prompt]) -> str:
    """Compute the SHA-256 of the prompt ids in order."""
    return hashlib.sha256("\n".join(prompt.prompt_id for prompt in prompts).encode()).hexdigest()


def _lock(folder: Path) -> FolderLock:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise VbonError(f"{folder}: cannot be created ({error.strerror}); choose another --out") from None
    return FolderLock(folder)


def _discard(folder: Path, made: Sequence[Path]) -> None:
    """Remove a pool that holds nothing, and the folders that were made for it. Call it only with the lock held."""
    for name in (MANIFEST_NAME, CONFIG_NAME, IDS_NAME, LOCK_NAME):
        (folder / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # somebody else's files are in it by now
        for path in made or (folder,):
            path.rmdir()


def _require_empty(folder: Path) -> None:
    kept = {path.name for path in folder.iterdir() if not path.name.startswith(".")} if folder.is_dir() else set()
    names = sorted(kept - {COMPARISONS})  # which a pairwise reward had made before its first shard was complete
    if names:
        raise VbonError(f"{folder}: not empty (holds {names[0]}); choose another --out")


def _settings_of(manifest: Manifest) -> dict[str, Any]:
    """What may not change while a pool is collected."""
    prompts = f"{manifest.num_prompts} prompts ({manifest.prompts_sha256[:8]})"
    made = {"num_samples": manifest.num_samples, "seed": manifest.seed, "dtype": manifest.dtype, "prompts": prompts}
    engine = "import" if manifest.plan is None else "collect"
    return {**manifest.fingerprint.to_json(), **made, "engine": engine, "source pool": manifest.source}


def _spelled(name: str) -> str:
    """The flag that a setting comes from; tokenizer and chat template come with the model."""
    others = {
        "stop": "--stop-token-ids",
        "tokenizer": "tokenizer",
        "chat_template": "chat template",
        "source pool": "source pool",
    }
    return others.get(name) or flag(name)


def _resumed_plan(started: Plan | None, expected: Plan | None, *, own_plan: bool) -> Plan | None:
    """The shards as they were begun; so many completions at a time as this start asks for."""
    if own_plan or started is None or expected is None:
        return started
    return dataclasses.replace(expected, prompts_per_shard=started.prompts_per_shard)
