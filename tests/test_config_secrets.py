"""What is printed and stored of a config holds no password."""

import json
from pathlib import Path

import pytest

from vbon.config import EvaluateConfig, ImportConfig, TrainConfig, merged_text, without_secrets
from vbon.pool.importers import import_pool


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("http://me:pa%40ss@host:8/score?key=k#f", "http://host:8/score"),
        ("HTTPS://token@host", "HTTPS://host"),
        ("http://[::1]:8000/score", "http://[::1]:8000/score"),
        ("reward.py:score", "reward.py:score"),
        ("org/model#LABEL", "org/model#LABEL"),
        ("builtin:length", "builtin:length"),
    ],
)
def test_urls_are_cut_and_nothing_else(given: str, shown: str):
    config = TrainConfig(pool="p?a", model="m@b", reward=given, n=2.0, out="o")
    assert without_secrets(config) == TrainConfig(pool="p?a", model="m@b", reward=shown, n=2.0, out="o")
    judged = EvaluateConfig(runs=("r",), pool="p", out="o", judges=(given, "builtin:length"))
    assert without_secrets(judged).judges == (shown, "builtin:length")


def test_a_declared_reward_is_cut_in_the_manifest_too(tmp_path: Path):
    (tmp_path / "rows.jsonl").write_text(json.dumps({"prompt": "a", "rewards": [1, 2]}))
    declare = ("reward=http://me:pw@host/score?key=hidden",)
    config = ImportConfig(file=str(tmp_path / "rows.jsonl"), out=str(tmp_path / "pool"), declare=declare)
    manifest = (import_pool(config) / "manifest.json").read_text()
    assert '"http://host/score"' in manifest and "pw" not in manifest and "hidden" not in manifest
    assert "pw" not in merged_text(without_secrets(config)) and "http://host/score" in merged_text(
        without_secrets(config)
    )
