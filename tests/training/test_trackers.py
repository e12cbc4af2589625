"""Trackers besides TensorBoard, for real (`make test-trackers`): W&B in offline mode, trackio; one not installed."""

import json
import os
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

import pytest
from tests.training.runs import arguments_of

from vbon import cli
from vbon.artifacts.run import read_rows

BLOCK, HEADER = (
    32768,
    7,
)  # LevelDB's log format, in which W&B keeps an offline run; the file has a header of 7 bytes too


@pytest.mark.parametrize("tracker", [name for name in ("wandb", "trackio") if find_spec(name) is None])
def test_a_tracker_that_is_not_installed_is_named_before_anything_is_written(configure, tmp_path, tracker, capfd):
    config = configure(tracker=tracker)
    assert cli.main(arguments_of(config, tmp_path)) == 2
    assert capfd.readouterr().err.splitlines()[-1] == (
        f"vbon: error: this needs {tracker}, which is not installed; in vbon's clone run: pip install -e '.[{tracker}]'"
    )
    assert not Path(config.out).exists()


@pytest.mark.skipif(find_spec("wandb") is None, reason="W&B is not installed: make test-trackers")
def test_an_offline_run_of_wandb_holds_every_number_of_the_diary(configure, tmp_path):
    """The offline steps, whose count ends above that of the first iterations, among them."""
    config = configure(tracker="wandb", warm_start="offline", offline_steps=6)
    environment = os.environ | {"WANDB_MODE": "offline", "WANDB_PROJECT": "trial"}
    command = [sys.executable, "-m", "vbon", *arguments_of(config, tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    [file] = Path(config.out).glob("vbon/wandb/offline-run-*/run-*.wandb")
    kept = list(records(file.read_bytes()))
    [run] = [one.run for one in kept if one.WhichOneof("record_type") == "run"]
    assert (run.project, run.display_name, run.run_group) == ("trial", "run", "run")
    history = [
        {item.key or item.nested_key[0]: json.loads(item.value_json) for item in one.history.item}
        for one in kept
        if one.WhichOneof("record_type") == "history"
    ]
    seen = [{key: value for key, value in row.items() if not key.startswith("_")} for row in history]
    assert seen == read_rows(Path(config.out) / "vbon/metrics.jsonl")
    updates = [one.config.update for one in kept if one.WhichOneof("record_type") == "config"]
    settings = {item.key: json.loads(item.value_json) for update in [*updates, run.config.update] for item in update}
    assert settings["n"] == 4.0 and settings["offline_steps"] == 6


@pytest.mark.skipif(find_spec("trackio") is None, reason="trackio is not installed: make test-trackers")
def test_trackio_holds_every_number_of_the_diary(configure, tmp_path):
    config = configure(tracker="trackio", warm_start="offline", offline_steps=6)
    command = [sys.executable, "-m", "vbon", *arguments_of(config, tmp_path)]
    environment = os.environ | {"TRACKIO_DIR": str(tmp_path / "trackio")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    with closing(sqlite3.connect(tmp_path / "trackio/vbon.db")) as database:
        kept = database.execute("SELECT run_name, metrics FROM metrics ORDER BY step").fetchall()
    assert {name for name, _ in kept} == {"run"}
    assert [json.loads(metrics) for _, metrics in kept] == read_rows(Path(config.out) / "vbon/metrics.jsonl")


def records(content: bytes) -> Iterator:
    """The protobuf records of a W&B transaction log."""
    from wandb.proto import wandb_internal_pb2

    place, parts = HEADER, b""
    while place + HEADER <= len(content):
        if BLOCK - place % BLOCK < HEADER:  # no header fits: zeros up to the next block
            place += BLOCK - place % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        parts += content[place + HEADER : place + HEADER + length]
        place += HEADER + length
        if kind in (1, 4):  # a whole record, or the last part of one
            yield wandb_internal_pb2.Record.FromString(parts)
            parts = b""
