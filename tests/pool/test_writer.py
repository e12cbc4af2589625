"""A writer leaves whole shards or none, keeps others out, and continues where it stopped."""

import dataclasses
import errno
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from vbon.artifacts.files import replace_file
from vbon.errors import VbonError
from vbon.pool import PoolWriter, ReferencePool
from vbon.pool.manifest import MANIFEST_NAME, read_manifest

SECOND_PROCESS = """
import sys
from vbon.errors import VbonError
from vbon.pool.manifest import read_manifest
from vbon.pool.writer import PoolWriter
from pathlib import Path
try:
    PoolWriter.open_for_resume(sys.argv[1], read_manifest(Path(sys.argv[1])))
except VbonError as error:
    print(error)
"""


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


def test_a_second_process_is_refused_by_name_and_admitted_later(write_pool):
    folder, _ = write_pool(2, 2)
    command = [sys.executable, "-c", SECOND_PROCESS, str(folder)]
    with PoolWriter.open_for_resume(folder, read_manifest(folder)):
        refused = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    admitted = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert f"another process ({os.getpid()}) is writing this pool" in refused
    assert admitted == ""


def test_create_refuses_a_folder_with_something_in_it(write_pool, tmp_path: Path):
    folder, _samples = write_pool(2, 2)
    before = files_of(folder)
    with pytest.raises(VbonError, match=r"not empty \(holds manifest.json\)"):
        PoolWriter.create(folder, read_manifest(folder))
    assert files_of(folder) == before
    (tmp_path / "file").write_text("")
    with pytest.raises(VbonError, match="file: cannot be created"):
        PoolWriter.create(tmp_path / "file", read_manifest(folder))


def test_resume_redoes_torn_and_missing_shards_only(write_pool):
    folder, samples = write_pool(6, 3)
    whole = files_of(folder)
    (folder / "shard-00001.parquet").write_bytes(whole["shard-00001.parquet"][:-7])
    (folder / "shard-00002.parquet").unlink()
    (folder / ".writing-shard-00007.parquet").write_bytes(b"half")
    with PoolWriter.open_for_resume(folder, read_manifest(folder)) as writer:
        assert [writer.has_shard(index) for index in range(3)] == [True, False, False]
        assert not writer.manifest.complete
        with pytest.raises(VbonError, match="holds 2 of 6 prompts"):
            writer.finish()
        writer.write_shard(2, samples[4:6])
        writer.write_shard(1, samples[2:4])
        writer.finish()
    assert files_of(folder) == whole


@pytest.mark.parametrize("setting", ["seed", "num_samples", "num_prompts", "prompts_sha256", "dtype"])
def test_resume_refuses_other_settings_by_name(write_pool, setting: str):
    folder, _ = write_pool(2, 2)
    started = read_manifest(folder)
    other = "bfloat16" if setting in ("dtype", "prompts_sha256") else 99
    before = "not set" if setting == "dtype" else getattr(started, setting)
    named = f"--{setting.replace('_', '-')} was {before}, now it is {other!r}"
    named = r"--prompts was '2 prompts \(\w+\)', now it is '(2|99) prompts" if "prompts" in setting else named
    with pytest.raises(VbonError, match=named):
        PoolWriter.open_for_resume(folder, dataclasses.replace(started, **{setting: other}))
    fingerprint = dataclasses.replace(started.fingerprint, temperature=0.5)
    with pytest.raises(VbonError, match=r"--temperature was 1.0, now it is 0.5"):
        PoolWriter.open_for_resume(folder, dataclasses.replace(started, fingerprint=fingerprint))
    PoolWriter.open_for_resume(folder, started).close()  # the refusals released the lock


def test_resume_of_what_is_no_pool_leaves_no_lock_behind(tmp_path: Path, write_pool):
    started = read_manifest(write_pool(1, 1)[0])
    (tmp_path / "empty").mkdir()
    with pytest.raises(VbonError, match="not a pool"):
        PoolWriter.open_for_resume(tmp_path / "empty", started)
    assert list((tmp_path / "empty").iterdir()) == []


def test_disk_full_is_one_line_and_the_pool_stays_as_it_was(write_pool):
    """A real refusal by the kernel: no file may grow past 4 KiB."""
    folder, samples = write_pool(4, 200, per_shard=1)
    with PoolWriter.open_for_resume(folder, read_manifest(folder)) as writer:
        before = files_of(folder)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
        try:
            with pytest.raises(VbonError, match=r"shard-00000.parquet: cannot be written .*is intact"):
                writer.write_shard(0, samples)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert files_of(folder) == before
    assert ReferencePool.open(folder).rewards.tolist() == [r for one in samples for r in one.rewards]


@pytest.mark.skipif(not os.access("/dev/full", os.W_OK), reason="needs /dev/full")
def test_no_space_left_is_reported_as_such(tmp_path: Path):
    os.symlink("/dev/full", tmp_path / ".writing-x")
    with pytest.raises(VbonError, match=os.strerror(errno.ENOSPC)):
        replace_file(tmp_path / "x", b"content")
    assert list(tmp_path.iterdir()) == []


def test_bytes_are_a_function_of_the_rows(write_pool):
    first, _ = write_pool(4, 5, name="a")
    second, _ = write_pool(4, 5, name="b")
    assert files_of(first) == files_of(second)
    assert json.loads((first / MANIFEST_NAME).read_text())["complete"] is True


def test_the_lock_is_not_taken_through_a_link(write_pool, tmp_path: Path):
    folder, _ = write_pool(1, 1)
    (folder / ".lock").unlink()
    os.symlink(tmp_path / "victim", folder / ".lock")
    with pytest.raises(VbonError, match="cannot be locked"):
        PoolWriter.open_for_resume(folder, read_manifest(folder))
    assert not (tmp_path / "victim").exists()
