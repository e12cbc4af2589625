"""A pool read back is what was written; a pool that was tampered with is refused, in one line."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vbon.core.reward_cdf import RewardCDF
from vbon.errors import VbonError
from vbon.pool import ReferencePool, make_prompt, tie_keys
from vbon.pool.manifest import MANIFEST_NAME
from vbon.pool.shards import SCHEMA


def flat(samples, name):
    return [value for one in samples for value in getattr(one, name)]


def rewrite_shard(folder: Path, change) -> None:
    """Apply `change` to the first shard's table and make the manifest agree: a forged, not a torn, shard."""
    path = folder / "shard-00000.parquet"
    table = change(pq.read_table(path))
    pq.write_table(table, path)
    manifest = json.loads((folder / MANIFEST_NAME).read_text())
    manifest["shards"][0] |= {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "rows": table.num_rows}
    (folder / MANIFEST_NAME).write_text(json.dumps(manifest))


def with_column(table: pa.Table, name: str, values: list) -> pa.Table:
    return table.set_column(
        table.schema.get_field_index(name), SCHEMA.field(name), pa.array(values, SCHEMA.field(name).type)
    )


def test_round_trip(write_pool):
    folder, samples = write_pool(5, 7)
    pool = ReferencePool.open(folder)
    assert pool.prompts == [one.prompt for one in samples]
    assert pool.num_samples.tolist() == [7] * 5 and pool.offsets.tolist() == [0, 7, 14, 21, 28, 35]
    assert pool.rewards.tolist() == flat(samples, "rewards")
    assert list(pool.completions) == flat(samples, "completions")
    assert list(pool.completion_ids) == flat(samples, "completion_ids")
    assert pool.ref_logprobs.tolist() == flat(samples, "ref_logprobs")
    assert list(pool.finished) == flat(samples, "finished")
    assert pool.completion_ids[8] == samples[1].completion_ids[1]
    assert pool.completions[7:9] == list(samples[1].completions[:2])
    assert pool.fingerprint.stop == (0, 7)


def test_chat_prompts_and_unknown_values_round_trip(write_pool, tmp_path: Path):
    from vbon.pool import Fingerprint, PoolWriter
    from vbon.pool.manifest import Manifest
    from vbon.pool.shards import PromptSamples
    from vbon.pool.writer import hash_prompt_ids

    prompts = [make_prompt([{"role": "user", "content": "é\u2028\x00"}], {"k": None}), make_prompt("", {})]
    with PoolWriter.create(tmp_path / "p", Manifest(Fingerprint(), "test", 2, hash_prompt_ids(prompts))) as writer:
        writer.write_shard(0, [PromptSamples(p, [None], [None], np.array([1.5]), [None], [None]) for p in prompts])
        writer.finish()
    pool = ReferencePool.open(tmp_path / "p")
    assert pool.prompts == prompts
    assert list(pool.completions) == list(pool.completion_ids) == list(pool.finished) == [None, None]
    assert np.isnan(pool.ref_logprobs).all() and not pool.has_completion_ids
    with pytest.raises(VbonError, match="'order' needs completions"):
        pool.cdf("order")


def test_select_keeps_the_order_asked_for_and_composes(write_pool):
    folder, samples = write_pool(5, 3)
    pool = ReferencePool.open(folder)
    picked = pool.select([samples[i].prompt.prompt_id for i in (4, 1, 3)]).select(
        [samples[i].prompt.prompt_id for i in (3, 4)]
    )
    assert picked.prompts == [samples[3].prompt, samples[4].prompt]
    assert picked.rewards.tolist() == [*samples[3].rewards, *samples[4].rewards]
    assert list(picked.completion_ids) == [*samples[3].completion_ids, *samples[4].completion_ids]
    assert picked.index_of(samples[4].prompt.prompt_id) == 1
    with pytest.raises(VbonError, match="has no samples of prompt"):
        picked.index_of(samples[0].prompt.prompt_id)


def test_split_is_a_partition_that_other_prompts_do_not_move(write_pool):
    pool = ReferencePool.open(write_pool(60, 1, per_shard=60)[0])
    first, rest = pool.split(0.3, seed=3)
    ids = {prompt.prompt_id for prompt in first.prompts}
    assert ids.isdisjoint(prompt.prompt_id for prompt in rest.prompts) and len(first) + len(rest) == 60
    assert 6 <= len(first) <= 30  # Binomial(60, 0.3): mean 18, five standard deviations below and 3.4 above
    half = pool.select([prompt.prompt_id for prompt in pool.prompts[:30]])
    assert {prompt.prompt_id for prompt in half.split(0.3, seed=3)[0].prompts} == ids & {
        p.prompt_id for p in half.prompts
    }
    assert {prompt.prompt_id for prompt in pool.split(0.3, seed=4)[0].prompts} != ids


def test_cdf_under_both_tie_rules_equals_counting(write_pool):
    folder, samples = write_pool(3, 4)
    rewrite_shard(folder, lambda table: with_column(table, "reward", [1.0, 1.0, 0.0, 1.0] * 2))
    pool = ReferencePool.open(folder)
    random = pool.cdf("random").pool_interval()
    np.testing.assert_array_equal(random.cdf_lt[:4], [0.25, 0.25, 0, 0.25])
    np.testing.assert_array_equal(random.cdf_le[:4], [1, 1, 0.25, 1])
    keys = tie_keys(samples[0].completion_ids)
    order = sorted(range(4), key=lambda i: (pool.rewards[i], keys[i]))
    rank = np.argsort(order)
    interval = pool.cdf("order").pool_interval()
    np.testing.assert_allclose(interval.cdf_lt[:4], rank / 4)
    np.testing.assert_allclose(interval.cdf_le[:4], (rank + 1) / 4)
    assert isinstance(pool.cdf(), RewardCDF)


def test_tie_keys_are_stable_and_tell_completions_apart():
    digest = hashlib.blake2b(np.array([1, 2, 3], "<i4").tobytes(), digest_size=8).digest()
    assert tie_keys([[1, 2, 3]])[0] == int.from_bytes(digest, "little", signed=True)
    assert len(set(tie_keys([[1], [2], [1, 2], [], "1", "", "é"]).tolist())) == 6  # [] and "" are one: both empty


def test_not_a_pool_and_unfinished(tmp_path: Path, write_pool):
    with pytest.raises(VbonError, match="absent: no such pool"):
        ReferencePool.open(tmp_path / "absent")
    with pytest.raises(VbonError, match="not a pool"):
        ReferencePool.open(tmp_path)
    folder, _samples = write_pool(3, 2)
    manifest = json.loads((folder / MANIFEST_NAME).read_text())
    (folder / MANIFEST_NAME).write_text(json.dumps({**manifest, "complete": False, "shards": manifest["shards"][:1]}))
    with pytest.raises(VbonError, match=r"unfinished pool .2 of 3 prompts"):
        ReferencePool.open(folder)
    assert len(ReferencePool.open(folder, allow_incomplete=True)) == 2


def test_a_torn_or_missing_or_linked_shard_is_named(write_pool):
    folder, _ = write_pool(3, 2)
    shard = folder / "shard-00001.parquet"
    content = shard.read_bytes()
    for torn in (content[:-1], content[:50] + bytes([content[50] ^ 1]) + content[51:], b""):
        shard.write_bytes(torn)
        with pytest.raises(VbonError, match=r"shard-00001.parquet: shard is damaged .*vbon collect"):
            ReferencePool.open(folder)
    shard.unlink()
    with pytest.raises(VbonError, match=r"shard-00001.parquet: shard is missing"):
        ReferencePool.open(folder)
    (folder.parent / "elsewhere").write_bytes(content)
    os.symlink(folder.parent / "elsewhere", shard)
    with pytest.raises(VbonError, match="symbolic link"):
        ReferencePool.open(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: with_column(t, "reward", [float("nan"), 0, 0, 0]), "has a reward of nan"),
        (lambda t: with_column(t, "reward", [float("inf"), 0, 0, 0]), "has a reward of inf"),
        (lambda t: with_column(t, "reward", [None, 0, 0, 0]), "has a reward of nan"),
        (lambda t: with_column(t, "sample_index", [0, 2, 0, 1]), "not numbered"),
        (lambda t: with_column(t, "sample_index", [1, 2, 0, 1]), "does not begin"),
        (lambda t: with_column(t, "prompt_id", [t["prompt_id"][0].as_py()] * 3 + ["x"]), "not numbered|twice|the id"),
        (lambda t: with_column(t, "prompt", ["other"] * 4), "does not have the id of its text"),
        (lambda t: with_column(t, "columns", ["{"] * 4), "malformed JSON"),
        (lambda t: with_column(t, "columns", ["[]"] * 4), "not a JSON object"),
        (lambda t: with_column(t, "is_chat", [True] * 4), "malformed JSON"),
        (lambda t: with_column(t, "prompt_id", [None] * 4), "no prompt or sample number"),
        (lambda t: pa.concat_tables([t, t]), "twice"),
        (lambda t: t.slice(0, 2), "its manifest says 3"),
        (lambda t: t.drop_columns(["seed"]), "not a shard of a pool"),
        (lambda t: t.set_column(8, "reward", pa.array(["a"] * 4)), "column 'reward' has type string, not double"),
    ],
)
def test_forged_shards_are_refused(write_pool, change, message: str):
    folder, _ = write_pool(3, 2)
    rewrite_shard(folder, change)
    with pytest.raises(VbonError, match=message) as caught:
        ReferencePool.open(folder)
    assert "\n" not in str(caught.value)
