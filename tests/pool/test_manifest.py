"""A manifest is input like any other: what it names is checked before it is followed."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vbon.errors import VbonError
from vbon.pool import Fingerprint, ReferencePool
from vbon.pool.manifest import MANIFEST_NAME, Manifest, Plan, Shard, read_manifest, write_manifest

FULL = Manifest(
    fingerprint=Fingerprint("m", "t", "none", 0.7, 16, (0, 50256), "é:f"),
    created_by="test",
    num_prompts=3,
    prompts_sha256="0" * 64,
    num_samples=4,
    seed=5,
    dtype="float32",
    model="gpt2",
    reward="é:f",
    plan=Plan(batch_size=8, prompts_per_batch=2, prompts_per_shard=2),
    shards=(Shard("shard-00000.parquet", 2, 8, "a" * 64), Shard("shard-00001.parquet", 1, 4, "b" * 64)),
    complete=True,
)


def content_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / MANIFEST_NAME).read_text())


def test_round_trip(tmp_path: Path):
    write_manifest(tmp_path, FULL)
    assert read_manifest(tmp_path) == FULL
    bare = Manifest(Fingerprint(), "test", 0, "")
    write_manifest(tmp_path, bare)
    assert read_manifest(tmp_path) == bare


@pytest.mark.parametrize(
    "name",
    ["../secret.parquet", "/etc/passwd", "a/shard-00000.parquet", "shard-00000.parquet\n", "..", "", "shard-0.parquet"],
)
def test_shard_names_cannot_leave_the_pool(tmp_path: Path, name: str):
    write_manifest(tmp_path, FULL)
    content = content_of(tmp_path)
    content["shards"][1]["name"] = name
    (tmp_path / MANIFEST_NAME).write_text(json.dumps(content))
    with pytest.raises(VbonError, match=r"shard 1: name .* is not a shard's"):
        ReferencePool.open(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 3}, "format_version is 3"),
        ({"format_version": None}, "format_version is None"),
        ({"num_prompts": "3"}, "'num_prompts' must be a whole number"),
        ({"num_prompts": True}, "'num_prompts' must be a whole number"),
        ({"complete": 1}, "'complete' must be true or false"),
        ({"shards": {}}, "'shards' must be a list"),
        ({"shards": [3]}, "'shards.0.' must be an object"),
        ({"shards": [{"name": "shard-00000.parquet"}]}, "'num_prompts' must be a whole number"),
        ({"fingerprint": None}, "'fingerprint' must be an object"),
        ({"fingerprint": {"colour": 1}}, "unknown field 'colour'"),
        ({"fingerprint": {"stop": ["a"]}}, "'stop.0.' must be a whole number"),
        ({"fingerprint": {"temperature": "1"}}, "'temperature' must be"),
        ({"plan": {"batch_size": 0, "prompts_per_batch": 1, "prompts_per_shard": 1}}, "at least 1"),
        ({"plan": 3}, "'plan' must be an object"),
    ],
)
def test_each_wrong_field_is_named(tmp_path: Path, change: dict[str, Any], message: str):
    write_manifest(tmp_path, FULL)
    (tmp_path / MANIFEST_NAME).write_text(json.dumps({**content_of(tmp_path), **change}))
    with pytest.raises(VbonError, match=message):
        read_manifest(tmp_path)


def test_a_shard_listed_twice(tmp_path: Path):
    write_manifest(tmp_path, FULL)
    content = content_of(tmp_path)
    (tmp_path / MANIFEST_NAME).write_text(json.dumps({**content, "shards": content["shards"][:1] * 2}))
    with pytest.raises(VbonError, match="listed twice"):
        read_manifest(tmp_path)


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"{", b'{"a": 1, "a": 2}', b"[" * 100_000])
def test_what_is_no_manifest_is_one_line(tmp_path: Path, content: bytes):
    (tmp_path / MANIFEST_NAME).write_bytes(content)
    with pytest.raises(VbonError, match=r"manifest.json") as caught:
        read_manifest(tmp_path)
    assert "\n" not in str(caught.value)


@given(st.data())
def test_mutated_manifests_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject):
    folder = tmp_path_factory.getbasetemp() / "mutated-manifest"
    folder.mkdir(exist_ok=True)
    write_manifest(folder, FULL)
    content = bytearray((folder / MANIFEST_NAME).read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(content)))
        content[place : place + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=4))
    (folder / MANIFEST_NAME).write_bytes(bytes(content))
    try:
        ReferencePool.open(folder)
    except VbonError as error:
        assert "\n" not in str(error) and "mutated-manifest" in str(error)
    else:
        pytest.fail("the shards of this manifest do not exist")
