"""A preset: one YAML section a stage. `collect`, `train` and `evaluate` take the flags of the verbs of these names."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from homework import CorpusConfig
from reference import ModelConfig

from vbon.recipes.stages import read_preset

HERE = Path(__file__).parent
# What the stages fill in themselves: the files and models that they hand to each other, and what a method changes.
_FILLED_IN = {
    "collect": ("model", "reward", "prompts", "out", "num_samples"),
    "train": ("model", "reward", "pool", "out", "seed", "method", "kl_coef"),
    "evaluate": ("model", "reward", "pool", "out", "runs", "n"),
}


@dataclass(frozen=True, kw_only=True)
class ProblemsConfig:
    """How many problems, and how many reference samples of each. `train` includes what `vbon train` validates on."""

    train: int = 4000
    train_samples: int = 32
    test: int = 500
    test_samples: int = 128
    seed: int = 1


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Every setting of the recipe."""

    name: str
    corpus: CorpusConfig
    reference: ModelConfig
    problems: ProblemsConfig
    collect: dict[str, Any]
    train: dict[str, Any]
    evaluate: dict[str, Any]


def load_preset(name: str) -> Preset:
    """`small`, or a YAML file of the same sections. Raises VbonError naming the file, section and key."""
    return read_preset(Preset, name, HERE, _FILLED_IN)
