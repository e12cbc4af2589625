"""A preset: one YAML section a stage. `collect`, `train` and `evaluate` take the flags of the verbs of these names."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vbon.recipes.fit import Precision
from vbon.recipes.small_models import ModelConfig
from vbon.recipes.stages import read_preset

HERE = Path(__file__).parent
# What the stages fill in themselves: the files and models that they hand to each other.
_FILLED_IN = {
    "collect": ("model", "reward", "prompts", "out"),
    "collect_test": ("model", "reward", "prompts", "out"),
    "train": ("model", "reward", "pool", "out", "seed"),
    "evaluate": ("model", "reward", "pool", "out", "runs", "n"),
}


@dataclass(frozen=True, kw_only=True)
class MachineConfig:
    """What the recipe runs on."""

    device: str | None = None
    """cuda: nothing runs without a GPU, unless --device says so. None: models are made on the CPU, and each verb runs
    where it would."""
    precision: Precision = "float32"
    """Of the products with which reference and classifier are trained; their weights are float32."""


@dataclass(frozen=True, kw_only=True)
class BestOfConfig:
    """Several N, each with its runs and its evaluation, in the place of `train: n`."""

    n: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ReviewsConfig:
    """Share of the reviews that no model is trained on: prompts and measurements come from these."""

    held_out: float = 0.1


@dataclass(frozen=True, kw_only=True)
class PromptsConfig:
    """How many prompts, and how many tokens of a review each is. `train` includes what `vbon train` validates on."""

    train: int = 360
    test: int = 100
    fewest_tokens: int = 2
    most_tokens: int = 8


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Every setting of the recipe."""

    name: str
    machine: MachineConfig
    reviews: ReviewsConfig
    reference: ModelConfig
    classifier: ModelConfig
    prompts: PromptsConfig
    collect: dict[str, Any]
    """Flags of the pools; those that are others for the test pool, which wants M ≥ 25·N, are in `collect_test`."""
    collect_test: dict[str, Any]
    best_of: BestOfConfig
    train: dict[str, Any]
    evaluate: dict[str, Any]

    @property
    def several(self) -> Sequence[float]:
        """Every N."""
        return self.best_of.n or (self.train["n"],)

    def pool(self, split: str) -> dict[str, Any]:
        """Flags of the pool of `train` or `test`."""
        return {**self.collect, **(self.collect_test if split == "test" else {})}

    def training(self, n: float) -> dict[str, Any]:
        """Flags of the runs for this N."""
        return {**self.train, "n": n}

    def name_of(self, n: float, name: str) -> str:
        """What something is called that there is for each N: its bare name where there is one only."""
        return f"n{n:g}-{name}" if self.best_of.n else name


def load_preset(name: str) -> Preset:
    """The preset of that name beside this file, or a YAML file of the same sections.

    Raises VbonError naming the file, section and key.
    """
    return read_preset(Preset, name, HERE, _FILLED_IN)
