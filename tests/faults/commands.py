"""Small command lines of every stage, the folder they run in, and what they leave there but for clock times."""

import json
import re
from pathlib import Path
from typing import Any

from tests.enumerable import write_enumerable

COLLECT = "collect --model model --max-new-tokens 3 --num-samples 60 --batch-size 90 --device cpu --prompts"
TRAIN = (
    "train --model model --pool pool --n 2 --out run --device cpu --num-iterations 3 --rollouts-per-iteration 16 "
    "--samples-per-prompt 4 --minibatch-size 8 --validation-every 1 --checkpoint-every 1 --warm-start none "
    "--tracker none"
)
EVALUATE = "evaluate run --pool held --out eval --samples-per-prompt 4 --device cpu --no-throughput"
TRAININGS = {
    "ppo": "--algorithm ppo --tie-rule order",
    "ppo, offline start": "--algorithm ppo --warm-start offline --offline-steps 4",
    "ppo, critic start": "--algorithm ppo --warm-start critic --offline-steps 4",
    "ppo, shared critic": "--algorithm ppo --critic shared",
    "rloo": "--algorithm rloo --warm-start offline --offline-steps 4 --kl-estimator full",
    "rloo, lora": "--algorithm rloo --lora-rank 2",
    "rounds": "--rounds 2 --num-iterations 2",
    "bond": "--method bond",
    "offline": "--algorithm offline --offline-steps 8 --offline-loss regression",
    "dpo": "--method dpo --offline-steps 8",
}
SWEEP = {
    "model": "model",
    "reward": "reward.py:score",
    "pool": "pool",
    "heldout": "held",
    "out": "sweep",
    "n": [2],
    "seeds": [0],
    "learning_rates": [0.001],
    "methods": {"vbon": {}},
    "evaluate": {"samples_per_prompt": 4, "device": "cpu"},
    "train": {
        "num_iterations": 1,
        "rollouts_per_iteration": 16,
        "samples_per_prompt": 4,
        "minibatch_size": 8,
        "warm_start": "none",
        "device": "cpu",
    },
}
# Files that hold seconds, or say how often a command was started; the rest of a finished result is the same bytes.
CLOCKED = ("timings.json", "speeds.json", "report.html", ".txt", ".lock")
CLOCK = re.compile(r"seconds|_at$|resumed")


def write_ingredients(folder: Path) -> Path:
    """Write the enumerable task: model/, reward.py, prompts.jsonl (the first six) and held.jsonl (the other two)."""
    rows = (write_enumerable(folder) / "prompts.jsonl").read_text().splitlines(keepends=True)
    (folder / "prompts.jsonl").write_text("".join(rows[:6]))
    (folder / "held.jsonl").write_text("".join(rows[6:]))
    return folder


def contents(out: Path, skip: tuple[str, ...] = CLOCKED) -> dict[str, Any]:
    """What a finished command left, without what a clock gave: the bytes of each file, rows of diaries and records.

    `skip`: ends of the names of files to leave out.
    """
    return {
        str(path.relative_to(out)): content_of(path)
        for path in sorted(out.rglob("*"))
        if path.is_file() and not path.name.endswith(skip)
    }


def content_of(path: Path) -> Any:
    """A file's bytes; for a diary, or a record that a clock had a part in, what the clock did not give."""
    if path.suffix == ".jsonl":
        return [_timeless(json.loads(line)) for line in path.read_text().splitlines()]
    record = json.loads(path.read_text()) if path.suffix == ".json" else None
    return _timeless(record) if isinstance(record, dict) and _timeless(record) != record else path.read_bytes()


def _timeless(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if not CLOCK.search(key)}
