"""Prompt files, imported rows, pools: what the fuzzer damages of them, and what it calls on the damage."""

import gzip
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from tests.faults.mutate import HTML
from tests.faults.reader import Target, Valid, json_lines, parquet

from vbon import config as configs
from vbon.artifacts.fingerprint import Fingerprint
from vbon.pool.importers import import_pool
from vbon.pool.manifest import MANIFEST_NAME, Manifest, Plan
from vbon.pool.prompts import make_prompt, read_prompts
from vbon.pool.shards import PromptSamples
from vbon.pool.store import ReferencePool
from vbon.pool.writer import PoolWriter, hash_prompt_ids

PROMPTS: list[dict[str, Any]] = [
    {"prompt": "a plain prompt", "answer": "4", "level": 1},
    {"prompt": "ünïcödé \u2028 🎈", "answer": "", "level": 10**20},
    {"prompt": "", "answer": HTML, "level": -0.5},
    {"prompt": "a plain prompt", "answer": "4", "level": 1},
]
CHATS = [{"prompt": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "é"}], "answer": None}]
FLAT = [{"prompt": "a", "text": "a b", "reward": 1.5}, {"prompt": "a", "text": "a c", "reward": -2}]
GROUPED = [
    {"prompt": "a", "responses": ["x", "y"], "rewards": [0.5, 1e300], "response_ids": [[1, 2], []]},
    {"prompt": "b", "ref_completions": ["z"], "ref_rewards": [3], "source": HTML},
]


def csv_text(rows: list[dict[str, Any]], delimiter: str) -> bytes:
    lines = [list(rows[0]), *([str(value) for value in row.values()] for row in rows)]
    return "".join(delimiter.join(f'"{cell}"' for cell in line) + "\r\n" for line in lines).encode()


def prompt_files() -> tuple[Valid, ...]:
    plain = [row | {"level": float(row["level"])} for row in PROMPTS]
    return (
        Valid(".jsonl", "json", json_lines(PROMPTS + CHATS)),
        Valid(".json", "json", json.dumps(PROMPTS).encode()),
        Valid(".jsonl.gz", "text", gzip.compress(json_lines(PROMPTS), mtime=0)),
        Valid(".csv", "text", csv_text(PROMPTS, ",")),
        Valid(".tsv", "text", csv_text(PROMPTS, "\t")),
        Valid(".txt", "text", b"first prompt\r\nsecond\n\n\xc3\xbc\n"),
        Valid(".parquet", "table", parquet(plain)),
        Valid(".parquet", "table", parquet(CHATS)),
    )


def import_files() -> tuple[Valid, ...]:
    return (
        Valid(".jsonl", "json", json_lines(FLAT)),
        Valid(".jsonl", "json", json_lines(GROUPED)),
        Valid(".json", "json", json.dumps(GROUPED).encode()),
        Valid(".parquet", "table", parquet(FLAT)),
        Valid(".parquet", "table", parquet(GROUPED[:1])),
    )


def prompts(folder: Path) -> Target:
    def read(content: bytes, suffix: str) -> None:
        path = folder / f"prompts{suffix}"
        path.write_bytes(content)
        try:
            read_prompts(path)
        finally:
            path.unlink()

    return Target("prompt files", 20, prompt_files(), read)


def imports(folder: Path) -> Target:
    def read(content: bytes, suffix: str) -> None:
        path, out = folder / f"rows{suffix}", folder / "pool"
        path.write_bytes(content)
        try:
            ReferencePool.open(import_pool(configs.ImportConfig(file=str(path), out=str(out))))
            shutil.rmtree(out)
        finally:
            path.unlink()

    return Target("imported pools", 12, import_files(), read)


def write_pool(folder: Path) -> Path:
    prompts = [make_prompt(row["prompt"], {"answer": row["answer"]}) for row in PROMPTS[:3] + CHATS]
    samples = [
        PromptSamples(one, [HTML, "y"], [[1, 2], [3]], np.array([0.5, index]), [-1.0, -2.5], [True, False])
        for index, one in enumerate(prompts)
    ]
    fingerprint = Fingerprint("m", "t", "none", 0.7, 16, (0, 198), "builtin:length")
    manifest = Manifest(fingerprint, "test", 4, hash_prompt_ids(prompts), 2, 3, "float32", "m", "r", Plan(8, 2, 2))
    with PoolWriter.create(folder, manifest) as writer:
        writer.write_shard(0, samples[:2])
        writer.write_shard(1, samples[2:])
        writer.finish()
    return folder


def use_pool(folder: Path) -> None:
    """Everything that a later stage reads of a pool."""
    pool = ReferencePool.open(folder)
    columns = (pool.completions, pool.completion_ids, pool.finished)
    assert [len(list(column)) for column in columns] == [len(pool.rewards)] * 3
    assert len(pool.ref_logprobs) == len(pool.rewards) and pool.offsets[-1] == len(pool.rewards)
    pool.cdf("order").pool_interval()


def manifests(folder: Path) -> Target:
    pool = write_pool(folder / "pool")

    def read(content: bytes, _: str) -> None:
        (pool / MANIFEST_NAME).write_bytes(content)
        use_pool(pool)

    return Target("manifests", 12, (Valid("", "json", (pool / MANIFEST_NAME).read_bytes()),), read)


def shards(folder: Path) -> Target:
    pool = write_pool(folder / "pool")
    shard, manifest = pool / "shard-00000.parquet", json.loads((pool / MANIFEST_NAME).read_text())

    def read(content: bytes, suffix: str) -> None:
        shard.write_bytes(content)
        if suffix == "forged":  # with a checksum that agrees, so that the rows themselves are looked at
            manifest["shards"][0]["sha256"] = hashlib.sha256(content).hexdigest()
            (pool / MANIFEST_NAME).write_text(json.dumps(manifest))
        use_pool(pool)

    whole = shard.read_bytes()
    return Target("shards", 12, (Valid("forged", "table", whole), Valid("torn", "table", whole)), read)
