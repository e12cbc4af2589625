"""Samples scored again: what stays, what changes, how it is resumed, and what is refused."""

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from vbon.config import RescoreConfig
from vbon.errors import VbonError
from vbon.pool import ReferencePool
from vbon.pool.manifest import manifest_from_json, manifest_to_json
from vbon.pool.rescore import rescore_pool
from vbon.pool.shards import FIRST_NAMES, SCHEMA, encode_table, read_shard

REWARD = """
def spaces(prompts, completions, answer):
    return [c.count(" ") + 10 * a for c, a in zip(completions, answer)]

def fails_late(prompts, completions, answer):
    if 2 in answer:
        raise ValueError("out of service")
    return spaces(prompts, completions, answer)
"""


@pytest.fixture
def reward_file(tmp_path: Path) -> Path:
    (tmp_path / "judge.py").write_text(REWARD)
    return tmp_path / "judge.py"


def config(pool: Path, reward: str, out: Path) -> RescoreConfig:
    return RescoreConfig(pool=str(pool), reward=reward, out=str(out), device="cpu")


def test_only_the_rewards_change(write_pool, reward_file: Path, tmp_path: Path):
    folder, samples = write_pool(5, 4)
    first = ReferencePool.open(folder)
    out = rescore_pool(config(folder, f"{reward_file}:spaces", tmp_path / "out"), progress=False)
    second = ReferencePool.open(out)
    expected = [text.count(" ") + 10 * index for index, one in enumerate(samples) for text in one.completions]
    np.testing.assert_array_equal(second.rewards, expected)
    assert second.prompts == first.prompts and list(second.completions) == list(first.completions)
    assert list(second.completion_ids) == list(first.completion_ids)
    np.testing.assert_array_equal(second.ref_logprobs, first.ref_logprobs)
    assert second.manifest.source == first.digest
    assert [name for name, _, _ in first.fingerprint.differences(second.fingerprint)] in ([], ["reward"])
    assert second.fingerprint.reward != first.fingerprint.reward
    assert ReferencePool.open(folder).digest == first.digest


def test_a_failure_keeps_what_is_stored_and_a_changed_reward_is_not_continued(
    write_pool, reward_file: Path, tmp_path: Path
):
    folder, _ = write_pool(5, 4)
    with pytest.raises(VbonError, match="out of service"):
        rescore_pool(config(folder, f"{reward_file}:fails_late", tmp_path / "out"), progress=False)
    assert (tmp_path / "out" / "shard-00000.parquet").exists()
    assert not (tmp_path / "out" / "shard-00001.parquet").exists()
    reward_file.write_text(REWARD.replace("if 2 in answer", "if False"))  # the file changed, and with it the digest
    with pytest.raises(VbonError, match=r"--reward was .* now it is"):
        rescore_pool(config(folder, f"{reward_file}:fails_late", tmp_path / "out"), progress=False)


def test_an_interrupted_pool_ends_with_the_rows_of_an_uninterrupted_one(
    write_pool, reward_file: Path, tmp_path: Path, monkeypatch
):
    from vbon.pool import rescore

    folder, _ = write_pool(5, 4)
    calls, score = [], rescore.score_pool

    def interrupted(pool, reward, rows):
        calls.append(rows)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return score(pool, reward, rows)

    monkeypatch.setattr(rescore, "score_pool", interrupted)
    with pytest.raises(KeyboardInterrupt, match="stopped with 1 of 3 shards stored; run the same command"):
        rescore_pool(config(folder, f"{reward_file}:spaces", tmp_path / "out"), progress=False)
    rescore_pool(config(folder, f"{reward_file}:spaces", tmp_path / "out"), progress=False)
    assert [rows.start for rows in calls] == [0, 8, 8, 16]  # the first shard is scored once
    monkeypatch.undo()
    rescore_pool(config(folder, f"{reward_file}:spaces", tmp_path / "whole"), progress=False)
    assert ReferencePool.open(tmp_path / "out").digest == ReferencePool.open(tmp_path / "whole").digest


def test_another_pool_under_the_same_name_is_not_continued(write_pool, reward_file: Path, tmp_path: Path):
    first, _ = write_pool(4, 3, name="first")
    second, _ = write_pool(4, 3, per_shard=1, name="second")
    spec = f"{reward_file}:spaces"
    rescore_pool(config(first, spec, tmp_path / "out"), progress=False)
    with pytest.raises(VbonError, match="source pool was"):
        rescore_pool(config(second, spec, tmp_path / "out"), progress=False)
    with pytest.raises(VbonError, match="is the pool itself"):
        rescore_pool(config(first, spec, first), progress=False)


def test_a_pool_of_the_first_format_is_rescored(write_pool, reward_file: Path, tmp_path: Path):
    folder, _ = write_pool(2, 3)
    pool = ReferencePool.open(folder)
    [shard] = pool.manifest.shards
    columns = pa.schema([SCHEMA.field(name) for name in FIRST_NAMES])
    content = encode_table(read_shard(folder, shard, FIRST_NAMES).cast(columns))
    (folder / shard.name).write_bytes(content)
    old = dataclasses.replace(shard, sha256=hashlib.sha256(content).hexdigest())
    manifest = dataclasses.replace(pool.manifest, shards=(old,), format_version=1)
    (folder / "manifest.json").write_text(manifest_to_json(manifest))
    out = rescore_pool(config(folder, f"{reward_file}:spaces", tmp_path / "out"), progress=False)
    assert list(ReferencePool.open(out).completions) == list(pool.completions)


def test_the_manifest_of_a_sampled_pool_stays_as_it_was(write_pool):
    """Runs record the digest of their pool: a field that old pools do not have must not change it."""
    manifest = ReferencePool.open(write_pool(2, 3)[0]).manifest
    assert "source" not in manifest_to_json(manifest)
    assert manifest_from_json(manifest_to_json(manifest)) == manifest
