"""docs/metrics.md has a row for each key that evaluate writes, and for no other."""

import re
from pathlib import Path

import pytest

from vbon.config.evaluate import EvaluateConfig
from vbon.evaluation.evaluate import evaluate_command

DOC = Path(__file__).resolve().parents[2] / "docs" / "metrics.md"


def documented(heading: str) -> set[str]:
    section = DOC.read_text(encoding="utf-8").split(f"## {heading}")[1].split("\n## ")[0]
    return set(re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE))


def test_evaluate_writes_the_documented_keys(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    judge = f"{world}/reward.py:length"
    config = EvaluateConfig(
        runs=(str(world / "policy"),),
        pool=str(world / "pool"),
        out=str(tmp_path / "eval"),
        n=2.0,
        samples_per_prompt=2,
        limit=2,
        throughput=False,
        device="cpu",
        judges=(judge,),
    )
    written = set(evaluate_command(config)["policies"]["policy"]["metrics"])
    assert {key.replace(judge, "NAME") for key in written} == documented("`vbon evaluate`")
