"""manifest.json: the settings of a pool and the list of its shards.

It is read as untrusted input.
"""

import dataclasses
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vbon.artifacts.files import replace_file
from vbon.artifacts.fingerprint import Fingerprint, parse_fingerprint
from vbon.artifacts.json_files import parse_json
from vbon.artifacts.typed import read_record
from vbon.errors import VbonError

MANIFEST_NAME = "manifest.json"
FORMAT_VERSION = 2  # 1: the token ids of prompts are not known
_SHARD_NAME = re.compile(r"shard-[0-9]{5,9}\.parquet")


@dataclass(frozen=True)
class Plan:
    """Sizes of batches and shards: fixed when a pool is started, and used again when it is resumed."""

    batch_size: int
    """Most completions sampled at a time."""
    prompts_per_batch: int
    """Prompts whose completions are sampled together; if it is 1, a prompt may take several batches."""
    prompts_per_shard: int


@dataclass(frozen=True)
class Shard:
    """A Parquet file of the pool."""

    name: str
    num_prompts: int
    rows: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """All of a pool except its rows."""

    fingerprint: Fingerprint
    created_by: str
    num_prompts: int
    """Number of prompts of the finished pool."""
    prompts_sha256: str
    """Hash of the prompt ids in order."""
    num_samples: int | None = None
    """M, or None where it differs between prompts."""
    seed: int | None = None
    dtype: str | None = None
    model: str | None = None
    """The name that the user gave; the fingerprint identifies the weights."""
    reward: str | None = None
    plan: Plan | None = None
    shards: tuple[Shard, ...] = field(default=())
    complete: bool = False
    format_version: int = FORMAT_VERSION
    source: str | None = None
    """Digest of the pool whose samples these are, if they were scored again (`vbon rescore`); otherwise None."""

    def shard_name(self, index: int) -> str:
        """Return the file name of a shard."""
        return f"shard-{index:05d}.parquet"


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Replace the manifest of a folder atomically: a reader sees the old one or the new one."""
    replace_file(folder / MANIFEST_NAME, manifest_to_json(manifest).encode() + b"\n")


def manifest_to_json(manifest: Manifest) -> str:
    """Serialise a manifest."""
    content = {**dataclasses.asdict(manifest), "fingerprint": manifest.fingerprint.to_json()}
    if manifest.source is None:
        del content["source"]  # the text, and with it the digest, of a pool that was sampled stays what it was
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)


def manifest_from_json(text: str, where: str = MANIFEST_NAME) -> Manifest:
    """Parse the result of `manifest_to_json`.

    Raises:
        VbonError: it is not a valid manifest; the message begins with `where`.
    """
    return _parse(parse_json(text, where), where)


def read_manifest(folder: Path) -> Manifest:
    """Read and check the manifest of a folder.

    Raises:
        VbonError: there is no pool, or a field is not valid; the message names the folder and the field.
    """
    path = folder / MANIFEST_NAME
    if not folder.is_dir():
        raise VbonError(f"{folder}: no such pool; make one with `vbon collect` or `vbon import`")
    if not path.is_file():
        raise VbonError(f"{folder}: not a pool (no {MANIFEST_NAME}); make one with `vbon collect` or `vbon import`")
    try:
        text = path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise VbonError(f"{path}: cannot be read ({error})") from None
    return manifest_from_json(text, str(path))


def _parse(content: Any, where: str) -> Manifest:
    if not isinstance(content, dict):
        raise VbonError(f"{where}: not a pool manifest")
    version = content.get("format_version")
    if version not in (1, FORMAT_VERSION):
        raise VbonError(f"{where}: format_version is {version!r}; this vbon reads {FORMAT_VERSION}: upgrade vbon")
    manifest = read_record(Manifest, content, where)
    parse_fingerprint(content["fingerprint"], f"{where}: fingerprint")  # refuses a field that is unknown here
    if manifest.plan is not None and min(dataclasses.astuple(manifest.plan)) < 1:
        raise VbonError(f"{where}: plan: every number must be at least 1")
    for index, shard in enumerate(manifest.shards):
        if not _SHARD_NAME.fullmatch(shard.name):
            raise VbonError(
                f"{where}: shard {index}: name {shard.name!r} is not a shard's (shard-00000.parquet, inside the pool)"
            )
    if len({shard.name for shard in manifest.shards}) != len(manifest.shards):
        raise VbonError(f"{where}: a shard is listed twice")
    return manifest
