"""The same seed gives the same bytes, from prompts to report, on one CPU thread."""

import json
import shutil
from pathlib import Path

import pytest
from stages import COLLECT, EVALUATE, TRAIN

TIMES = ("seconds_rollout", "seconds_update")


def contents(folder: Path) -> dict[str, object]:
    """Every file below, diaries without their times."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    found = {str(path.relative_to(folder)): path.read_bytes() for path in files}
    return {name: untimed(content) if name.endswith("metrics.jsonl") else content for name, content in found.items()}


def untimed(content: bytes) -> list[dict]:
    rows = [json.loads(line) for line in content.splitlines()]
    return [{key: value for key, value in row.items() if key not in TIMES} for row in rows]


@pytest.mark.timeout(300)
def test_collect_train_evaluate_and_report(vbon, tmp_path: Path):
    chains = []
    for seed in (3, 3, 4):
        assert vbon(f"{COLLECT} prompts.jsonl --reward reward.py:score --out pool --seed {seed}") == 0
        assert vbon(f"{COLLECT} held.jsonl --reward reward.py:score --out held --seed {seed}") == 0
        assert vbon(f"{TRAIN} --reward reward.py:score --algorithm ppo --seed {seed}") == 0
        assert vbon(f"{EVALUATE} --seed {seed}") == 0
        assert vbon("report run eval --out page/report.html") == 0
        stages = ("pool", "held", "run", "eval", "page")
        chains.append({stage: contents(tmp_path / stage) for stage in stages})
        for stage in stages:
            shutil.rmtree(tmp_path / stage)
    first, again, other = chains
    assert first == again
    assert {"shard-00000.parquet", "manifest.json"} < set(first["pool"])
    assert {"model.safetensors", "vbon/checkpoints/step-000003/optimizer.safetensors"} < set(first["run"])
    assert all(first[stage] != other[stage] for stage in first)
