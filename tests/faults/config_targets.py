"""Configs, sweeps, declarations: what the fuzzer damages of them, and what it calls on the damage."""

from pathlib import Path
from typing import Any

from tests.faults.reader import Target, Valid

from vbon import config as configs
from vbon.artifacts.run import RunFolder
from vbon.artifacts.sweep import SweepFolder
from vbon.config.sweep import read_sweep
from vbon.config.yaml_file import load_yaml, merged_text, read_sections
from vbon.pool.declarations import parse_declarations
from vbon.sweep.plan import Grid

DECLARED = ("temperature=1.0", "max_new_tokens=40", "stop=0,198", "columns=answer,level", "text=completion")
SWEEP = """model: m
reward: r
pool: p
heldout: h
out: o
n: [2, 4, 8]
seeds: [0, 1]
learning_rates: [0.0002, 6e-4]
offline_learning_rates: [0.001]
search_n: 4
methods:
  vbon: {gae_lambda: 0.9}
  kl-rl: {kl_coef: [0.3, 0.2, 0.1]}
  dpo: {}
  bond: {}
train: {warm_start: offline, offline_steps: 40, num_iterations: 16, rollouts_per_iteration: 64, minibatch_size: 16}
train_offline: {offline_steps: 90}
evaluate: {samples_per_prompt: 20, judges: [builtin:length]}
"""


def _config_files() -> list[tuple[type[Any], bytes]]:
    made = [
        configs.CollectConfig(model="m", reward="builtin:length", prompts="p.jsonl", out="o", stop_token_ids=(0, 5)),
        configs.TrainConfig(pool="p", model="m", reward="r", n=8.0, out="o", allow_mismatch=("model",)),
        configs.EvaluateConfig(runs=("a", "b"), pool="p", out="o", judges=("builtin:length",)),
        configs.GenerateConfig(model="m", prompts="p", best_of=4, reward="r"),
        configs.ImportConfig(file="f", out="o", declare=("temperature=1.0",)),
    ]
    return [(type(one), merged_text(one).encode()) for one in made]


def configs_of_verbs(folder: Path) -> Target:
    known = _config_files()

    def read(content: bytes, suffix: str) -> None:
        (folder / "config.yaml").write_bytes(content)
        load_yaml(known[int(suffix)][0], folder / "config.yaml").validate()

    (folder / "config.yaml").touch()
    return Target("configs", 8, tuple(Valid(str(i), "text", text) for i, (_, text) in enumerate(known)), read)


def sections(folder: Path) -> Target:
    text = b"collect:\n  num_samples: 8\n  temperature: 1\ntrain:\n  n: 1e1\n  seed: 3\n"

    def read(content: bytes, _: str) -> None:
        (folder / "recipe.yaml").write_bytes(content)
        read_sections({"collect": configs.CollectConfig, "train": configs.TrainConfig}, folder / "recipe.yaml")

    (folder / "recipe.yaml").touch()
    return Target("configs of several verbs", 6, (Valid("", "text", text),), read)


def sweeps(folder: Path) -> Target:
    """SWEEP.yaml: every run's config is made of it and checked, as before the first run."""
    path = folder / "sweep.yaml"

    def read(content: bytes, _: str) -> None:
        path.write_bytes(content)
        sweep = read_sweep(str(path))
        scales = {
            name: tuple(fields.get("kl_coef", (1.0,) * len(sweep.n)))
            for name, fields in sweep.methods.items()
            if "kl_coef" in fields
        }
        Grid(sweep, SweepFolder(str(folder / "out")), scales, 1).jobs({})

    path.touch()
    return Target("SWEEP.yaml", 8, (Valid("", "text", SWEEP.encode()),), read)


def declarations(folder: Path) -> Target:
    def read(content: bytes, _: str) -> None:
        parse_declarations(content.decode("utf-8", "surrogateescape").split("\n"))

    return Target("declarations", 4, (Valid("", "text", "\n".join(DECLARED).encode()),), read)


def resumptions(folder: Path) -> Target:
    config = configs.TrainConfig(pool="p", model="m", reward="r", n=8.0, out=str(folder / "run"))
    run = RunFolder(config.out)
    run.open(config)
    path = run.own / "config.yaml"

    def read(content: bytes, _: str) -> None:
        path.write_bytes(content)
        run.check(config)

    return Target("configs of runs", 3, (Valid("", "text", path.read_bytes()),), read)
