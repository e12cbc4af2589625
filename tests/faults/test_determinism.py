"""The same seed gives the same bytes, from prompts to report, on one CPU thread."""

import shutil
from pathlib import Path

from tests.faults.commands import COLLECT, EVALUATE, TRAIN, contents


def test_collect_train_evaluate_and_report(vbon, tmp_path: Path):
    chains = []
    for seed in (3, 3, 4):
        assert vbon(f"{COLLECT} prompts.jsonl --reward reward.py:score --out pool --seed {seed}") == 0
        assert vbon(f"{COLLECT} held.jsonl --reward reward.py:score --out held --seed {seed}") == 0
        assert vbon(f"{TRAIN} --reward reward.py:score --algorithm ppo --seed {seed}") == 0
        assert vbon(f"{EVALUATE} --seed {seed}") == 0
        assert vbon("report run eval --out page/report.html") == 0
        stages = ("pool", "held", "run", "eval", "page")
        chains.append({stage: contents(tmp_path / stage, skip=(".lock",)) for stage in stages})
        for stage in stages:
            shutil.rmtree(tmp_path / stage)
    first, again, other = chains
    assert first == again
    assert {"shard-00000.parquet", "manifest.json"} < set(first["pool"])
    assert {"model.safetensors", "vbon/checkpoints/step-000003/optimizer.safetensors"} < set(first["run"])
    assert all(first[stage] != other[stage] for stage in first)
