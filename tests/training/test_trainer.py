"""Whole runs on the enumerable task."""

import dataclasses
import json
from pathlib import Path

from vbon.training.train import train


def test_smoke(configure):
    result = train(configure())
    print(result)
    print([p for p in Path(result["out"]).rglob("*")])
    print((Path(result["out"]) / "README.md").read_text())
    print((Path(result["out"]) / "vbon/metrics.jsonl").read_text())
