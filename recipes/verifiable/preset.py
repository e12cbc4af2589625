"""A preset: one YAML section a stage. `collect`, `train` and `evaluate` take the flags of the verbs of these names."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from homework import CorpusConfig
from reference import ModelConfig

from vbon.config import CollectConfig, EvaluateConfig, TrainConfig
from vbon.config.yaml_file import read_sections
from vbon.errors import VbonError

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

    def section(self, name: str) -> dict[str, Any]:
        """One section as plain values."""
        value = getattr(self, name)
        return value if isinstance(value, dict) else asdict(value)


SECTIONS: dict[str, type[Any]] = {
    "corpus": CorpusConfig, "reference": ModelConfig, "problems": ProblemsConfig,
    "collect": CollectConfig, "train": TrainConfig, "evaluate": EvaluateConfig,
}  # fmt: skip


def load_preset(name: str) -> Preset:
    """`small`, or a YAML file of the same sections. Raises VbonError naming the file, section and key."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else HERE / f"{name}.yaml"
    sections = read_sections(SECTIONS, path)
    for section, keys in _FILLED_IN.items():
        for key in keys:
            if key in sections[section]:
                raise VbonError(f"{path}: {section}: {key} is set by the recipe itself; leave it out")
    if "n" not in sections["train"]:
        raise VbonError(f"{path}: train: n is missing")
    return Preset(
        name=path.stem,
        **{key: cls(**sections[key]) if key not in _FILLED_IN else sections[key] for key, cls in SECTIONS.items()},
    )
