"""A run's folder belongs to one process at a time, and to settings without secrets."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from vbon.artifacts.run import RunFolder
from vbon.errors import VbonError

SECOND = """
import sys
from vbon.config.train import TrainConfig
from vbon.errors import VbonError
from vbon.artifacts.run import RunFolder
config = TrainConfig(pool="p", model="m", reward="r", n=2.0, out=sys.argv[1])
folder = RunFolder(config.out)
try:
    folder.open(config)
except VbonError as error:
    sys.exit(str(error))
"""


def second_process(out: Path) -> str:
    return subprocess.run([sys.executable, "-c", SECOND, str(out)], capture_output=True, text=True, timeout=100).stderr


def test_a_second_process_is_refused_and_admitted_later(configure, tmp_path: Path):
    folder = RunFolder(str(tmp_path / "run"))
    folder.open(configure())
    assert f"another process ({os.getpid()}) is writing this run; wait for it" in second_process(tmp_path / "run")
    folder.close()
    assert second_process(tmp_path / "run") == ""


def test_what_a_killed_process_left_is_removed(configure, tmp_path: Path):
    config = configure()
    folder = RunFolder(config.out)
    for name in (".writing-step-000002", ".removing-best-000001", "step-000001"):
        (folder.checkpoints / name).mkdir(parents=True)
        (folder.checkpoints / name / "policy.safetensors").touch()
    folder.open(config)
    folder.close()
    assert [path.name for path in folder.checkpoints.iterdir()] == ["step-000001"]


def test_a_password_is_not_stored_and_does_not_matter_to_resume(configure, tmp_path: Path):
    config = configure(reward="https://me:pw@host:8/score?key=k#f")
    folder = RunFolder(config.out)
    folder.open(config)
    folder.close()
    assert yaml.safe_load((folder.own / "config.yaml").read_text())["reward"] == "https://host:8/score"
    folder.check(dataclasses.replace(config, reward="https://you:new@host:8/score"))
    with pytest.raises(VbonError, match=r"--reward was 'https://host:8/score', now it is 'https://host:8/other'"):
        folder.check(dataclasses.replace(config, reward="https://host:8/other"))
