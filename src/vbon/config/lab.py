"""Config of `vbon lab`."""

from dataclasses import dataclass, field
from typing import Literal

from vbon.config import checks
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
    """`vbon lab`: measure what the method claims, exactly, on policies small enough to enumerate."""

    experiment: Experiment = field(metadata={"positional": "EXPERIMENT"})
    """backward-kl, monotone, bound, samples, ties, n-beta, weak-reference, beyond-m, methods;
    of text: pool, and text, which trains."""
    preset: str = "quick"
    """quick: minutes on two cores. full: the largest. Others, where an experiment has them: untrained, medium, wide,
    vbon. docs/experiments.md names the preset of each result."""
    seeds: tuple[int, ...] = ()
    """Training and sampling seeds; default: the preset's."""
    out: str = "lab"
    """Directory for EXPERIMENT-PRESET.json and .svg."""
    work: str | None = None
    """Directory for pools and runs, kept; default: a temporary one, removed."""
    pool: tuple[str, ...] = ()
    """Pools to measure, for `vbon lab pool`; for `vbon lab text`, the pool to train on and the held-out one."""
    num_workers: int = 1
    """Runs trained at the same time, one thread each."""

    def validate(self) -> None:
        """Raise VbonError naming the first flag whose value will not do."""
        checks.check_text(self, "out", "work")
        if bool(self.pool) != (self.experiment in ("pool", "text")):
            raise VbonError(
                "--pool goes with vbon lab pool and text, which need it: directories that vbon collect wrote"
            )
        checks.check_at_least(self, 1, "num_workers")
        checks.check_each_at_least(self, 0, "seeds")
