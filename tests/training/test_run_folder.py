"""A run's folder belongs to one process at a time, and to settings without secrets."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tests.enumerable import PROMPTS, write_pool

from vbon.artifacts.run import RunFolder
from vbon.errors import Paused, VbonError
from vbon.training.train import train

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
    return subprocess.run([sys.executable, "-c", SECOND, str(out)], capture_output=True, text=True).stderr


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


@pytest.mark.parametrize("change", ["pool", "reward", "prompts"])
def test_a_run_is_not_continued_on_other_inputs_under_the_same_names(world, configure, tmp_path, change):
    pool, reward, prompts = tmp_path / "pool", tmp_path / "mine.py", tmp_path / "prompts.jsonl"
    write_pool(world, pool, reward=None)
    reward.write_text(Path(world.reward().rpartition(":")[0]).read_text())
    prompts.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in PROMPTS[:6]))
    config = configure(pool=str(pool), reward=f"{reward}:score", prompts=str(prompts))
    asked = iter([False, True])
    with pytest.raises(Paused):
        train(config, should_pause=lambda: next(asked))
    if change == "pool":
        shutil.rmtree(pool)
        write_pool(world, pool, num_samples=100, reward=None)
    elif change == "prompts":
        prompts.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in PROMPTS[1:7]))
    else:
        reward.write_text(reward.read_text() + "\n\nVERSION = 2\n")
    with pytest.raises(VbonError, match=rf"was started with other settings .*the {change} was .*put it back"):
        train(config)
