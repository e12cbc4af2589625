"""A preset: one YAML section a stage. `collect`, `train` and `evaluate` take the flags of the verbs of these names."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vbon.recipes.stages import read_preset

HERE = Path(__file__).parent
_FILLED_IN = {
    "collect": ("model", "reward", "prompts", "out", "num_samples"),
    "train": ("model", "reward", "pool", "out", "seed"),
    "evaluate": ("model", "reward", "pool", "out", "runs", "n"),
}


@dataclass(frozen=True, kw_only=True)
class PromptsConfig:
    """The number of prompts, and of reference samples of each. `train` includes what `vbon train` validates on."""

    train: int = 400
    train_samples: int = 64
    test: int = 100
    test_samples: int = 128
    seed: int = 1


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Every setting of the recipe."""

    name: str
    prompts: PromptsConfig
    collect: dict[str, Any]
    train: dict[str, Any]
    evaluate: dict[str, Any]


def load_preset(name: str) -> Preset:
    """Read `small`, `short` or a YAML file of their sections. Raises VbonError naming the file, section and key."""
    return read_preset(Preset, name, HERE, _FILLED_IN)
