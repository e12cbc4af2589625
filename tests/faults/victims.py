"""The commands that are killed: their arguments, what they leave, and what no later kill may change."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
import conftest as world

TRAINED = {
    "ppo": ("--algorithm", "ppo", "--tie-rule", "order"),
    "ppo, offline start": ("--algorithm", "ppo", "--warm-start", "offline", "--offline-steps", "4"),
    "ppo, critic start": ("--algorithm", "ppo", "--warm-start", "critic"),
    "ppo, shared critic": ("--algorithm", "ppo", "--critic", "shared"),
    "rloo": ("--algorithm", "rloo", "--warm-start", "offline", "--offline-steps", "4", "--kl-estimator", "full"),
    "rloo, lora": ("--algorithm", "rloo", "--lora-rank", "2"),
    "bond": ("--method", "bond"),
    "offline": ("--algorithm", "offline", "--offline-steps", "8", "--offline-loss", "regression"),
    "dpo": ("--method", "dpo", "--offline-steps", "8"),
}


@dataclass(frozen=True)
class Subject:
    """A command to kill. `arguments(out)` is its command line now; `contents(out)` what must equal the whole run's."""

    name: str
    arguments: Callable[[Path], list[str]]
    contents: Callable[[Path], dict[str, Any]]
    kept: Callable[[Path], dict[str, Any]]
    """What is reported written at this moment: no later kill may change it."""


def collect_arguments(folder: Path) -> Callable[[Path], list[str]]:
    common = ["--model", f"{folder}/ref", "--reward", f"{folder}/reward.py:score", "--device", "cpu"]
    size = ["--prompts", f"{folder}/prompts.jsonl", "--max-new-tokens", "3", "--num-samples", "8", "--batch-size", "16"]
    size += ["--samples-per-shard", "8"]  # a shard of few prompts, so that there is much to lose
    return lambda out: ["collect", *common, *size, "--out", str(out)]


def train_arguments(folder: Path, flags: Sequence[str]) -> Callable[[Path], list[str]]:
    common = ["--model", f"{folder}/ref", "--reward", f"{folder}/reward.py:score", "--device", "cpu", "--n", "4"]
    size = "--num-iterations 4 --rollouts-per-iteration 16 --samples-per-prompt 4 --minibatch-size 8 --num-epochs 2 "
    size += (
        "--validation-every 2 --checkpoint-every 1 --offline-batch-size 16 --tracker none --validation-fraction 0.25"
    )
    fixed = ["train", *common, *size.split(), "--pool", f"{folder}/pool", *flags]
    return lambda out: [*fixed, "--out", str(out)]


def shards(out: Path) -> dict[str, Any]:
    """Bytes of the shards that the manifest lists, all of them in a finished pool."""
    try:
        listed = json.loads((out / "manifest.json").read_text())["shards"]
    except FileNotFoundError:
        return {}
    return {one["name"]: (out / one["name"]).read_bytes() for one in listed}


def run_contents(out: Path) -> dict[str, Any]:
    """The model, the last checkpoint byte by byte, and the diary without its times."""
    last = max((out / "vbon/checkpoints").glob("step-*"))
    files = [out / "model.safetensors", out / "generation_config.json", *sorted(last.iterdir())]
    found: dict[str, Any] = {path.name: path.read_bytes() for path in files}
    found["samples"] = (out / "vbon/samples.jsonl").read_bytes()
    found["result"] = json.loads((out / "vbon/run.json").read_text())["result"]
    return found | {f"row {i}": row for i, row in enumerate(diary(out))}


def diary(out: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (out / "vbon/metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if not key.startswith("seconds_")} for row in rows]


def last_checkpoint(out: Path) -> dict[str, Any]:
    """That a checkpoint was written: the number of the newest one."""
    checkpoints = out / "vbon/checkpoints"
    offline, online = (
        sorted(path.parent.name for path in checkpoints.glob(f"{kind}-*/state.json")) for kind in ("offline", "step")
    )
    return dict.fromkeys((online or offline)[-1:])


def subjects(folder: Path, names: Sequence[str]) -> list[Subject]:
    """Collect, and the trainings of these names."""
    collect = Subject("collect", collect_arguments(folder), shards, shards)
    trained = [
        Subject(f"train, {name}", train_arguments(folder, TRAINED[name]), run_contents, last_checkpoint)
        for name in names
    ]
    return [collect, *trained]


__all__ = ["Subject", "collect_arguments", "diary", "subjects", "world"]
