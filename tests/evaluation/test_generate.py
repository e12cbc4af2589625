"""`vbon generate` through the command line: best-of-N rows are the best of the plain rows."""

import json
from pathlib import Path

import pytest

from vbon.cli import main


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def run(world: Path, *flags: str) -> int:
    files = ["--model", str(world / "model"), "--prompts", str(world / "prompts.jsonl")]
    return main(["generate", *files, "--device", "cpu", *flags])


def test_the_best_of_the_same_draws(world: Path, tmp_path: Path):
    reward = ["--reward", f"{world}/reward.py:score", "--max-new-tokens", "3", "--seed", "5"]
    assert run(world, *reward, "--num-samples", "8", "--out", str(tmp_path / "plain.jsonl")) == 0
    assert run(world, *reward, "--num-samples", "2", "--best-of", "4", "--out", str(tmp_path / "best.jsonl")) == 0
    plain, best = rows_of(tmp_path / "plain.jsonl"), rows_of(tmp_path / "best.jsonl")
    assert [row["prompt"] for row in best[::2]] == [row["prompt"] for row in rows_of(world / "prompts.jsonl")]
    for index, row in enumerate(best):
        group = plain[4 * index : 4 * index + 4]
        assert row in group and row["reward"] == max(other["reward"] for other in group)
    assert len({row["completion"] for row in plain}) > 5


def test_to_standard_output_and_by_seed_alone(world: Path, capsys: pytest.CaptureFixture[str]):
    outputs = []
    for flags in (["--batch-size", "1"], ["--batch-size", "64"], ["--seed", "1"]):
        assert run(world, "--max-new-tokens", "3", "--num-samples", "4", *flags) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1] != outputs[2]
    assert set(json.loads(outputs[0].splitlines()[0])) == {"prompt", "completion"}


def test_a_missing_length_is_one_line(world: Path, capsys: pytest.CaptureFixture[str]):
    assert run(world) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.endswith("its generation_config.json names no length; give --max-new-tokens")


def test_a_repeated_prompt_gets_a_row_each_time(world: Path, tmp_path: Path):
    path, out = tmp_path / "twice.txt", tmp_path / "out.jsonl"
    path.write_text("one\ntwo\none\none\n")
    model = str(world / "model")
    flags = ["--max-new-tokens", "3", "--device", "cpu", "--out", str(out)]
    assert main(["generate", "--model", model, "--prompts", str(path), *flags]) == 0
    rows = rows_of(out)
    assert [row["prompt"] for row in rows] == ["one", "two", "one", "one"]
    assert len({row["completion"] for row in rows if row["prompt"] == "one"}) == 1
