"""A preset: one YAML section a stage. `collect`, `train` and `evaluate` take the flags of the verbs of these names."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vbon.recipes.stages import read_preset

HERE = Path(__file__).parent
# What the stages fill in themselves: the files and models that they hand to each other, and the temperature.
_FILLED_IN = {
    "collect": ("model", "reward", "prompts", "out", "temperature", "limit"),
    "train": ("model", "reward", "pool", "out", "seed", "temperature"),
    "evaluate": ("model", "reward", "pool", "out", "runs", "n"),
}


@dataclass(frozen=True, kw_only=True)
class PapersConfig:
    """How many prompts and of how many words; with `prompts_…`, a hub dataset each, none come from --data."""

    held_out: float = 0.2
    train: int = 240
    test: int = 80
    abstract_words: int = 45
    prompts_train: str | None = None
    prompts_test: str | None = None


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Sizes and training of a small GPT-2. With `model`, a hub id or directory, nothing is trained: that is used."""

    model: str | None = None
    vocabulary: int = 2048
    width: int = 160
    layers: int = 4
    heads: int = 4
    window: int = 128
    batch_size: int = 32
    steps: int = 800
    learning_rate: float = 2e-3


@dataclass(frozen=True, kw_only=True)
class RewardModelConfig:
    """Training of the reward model, which starts as the reference. With `spec`, a reward as elsewhere, none."""

    spec: str | None = None
    samples: int = 8
    """Completions of each paper, two and two compared."""
    batch_size: int = 32
    """Pairs."""
    steps: int = 400
    learning_rate: float = 5e-4


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """Each temperature is a distribution of its own: it has its own pools, runs and evaluation."""

    temperatures: tuple[float, ...] = (0.7, 1.0)


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Every setting of the recipe."""

    name: str
    papers: PapersConfig
    reference: ModelConfig
    reward: RewardModelConfig
    sampling: SamplingConfig
    collect: dict[str, Any]
    train: dict[str, Any]
    evaluate: dict[str, Any]


def load_preset(name: str) -> Preset:
    """`small`, `paper`, or a YAML file of the same sections. Raises VbonError naming the file, section and key."""
    return read_preset(Preset, name, HERE, _FILLED_IN)
