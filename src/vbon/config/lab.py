"""Config of `vbon lab`."""

from dataclasses import dataclass, field
from typing import Literal

from vbon.config import types
from vbon.config.fields import check_fields
from vbon.errors import VbonError

Experiment = Literal[
    "backward-kl",
    "monotone",
    "bound",
    "samples",
    "ties",
    "n-beta",
    "weak-reference",
    "beyond-m",
    "methods",
    "pool",
    "text",
]


@dataclass(frozen=True, kw_only=True)
class LabConfig:
    """Settings of `vbon lab`, which checks the method's claims on policies that can be enumerated."""

    experiment: Experiment = field(metadata={"positional": "EXPERIMENT"})
    """backward-kl, monotone, bound, samples, ties, n-beta, weak-reference, beyond-m or methods; on pools of text: pool,
    or text, which also trains."""
    preset: str = "quick"
    """Size of the experiment. quick takes minutes on two cores; full is the largest. Most experiments have further
    presets, such as medium or untrained: an unknown name lists them."""
    seeds: tuple[types.NonNegative, ...] = ()
    """Seeds of training and sampling. Default: the preset's."""
    out: types.Directory = "lab"
    """Directory for EXPERIMENT-PRESET.json and .svg."""
    work: types.Directory | None = None
    """Directory for pools and runs, which are kept. Default: a temporary one, which is removed."""
    pool: tuple[types.Directory, ...] = ()
    """Pools to measure with `vbon lab pool`; for `vbon lab text`, the pool to train on and the held-out one."""
    num_workers: types.Count = 1
    """Runs that train at the same time, one thread each."""

    def validate(self) -> None:
        """Raise VbonError naming the first flag whose value is not allowed."""
        check_fields(self)
        if bool(self.pool) != (self.experiment in ("pool", "text")):
            raise VbonError("--pool is needed by vbon lab pool and text, and by no other experiment")
