"""The interface of an experiment: what `vbon lab` runs it with, and what it must have."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from vbon.figures.shapes import Panel


@dataclass(frozen=True)
class Context:
    """What an experiment is run with besides its preset."""

    seeds: tuple[int, ...]
    work: Path
    num_workers: int
    pools: tuple[Path, ...] = ()
    """Of `vbon lab pool` and `text` only."""


class Experiment(Protocol):
    """A module of vbon.lab.experiments."""

    @property
    def TITLE(self) -> str:
        """The heading of its table."""

    @property
    def COLUMNS(self) -> str:
        """The columns of its table, with spaces between."""

    @property
    def TRAINED_BY(self) -> str:
        """The columns that tell the "trained" runs of its result apart, but for their seeds."""

    @property
    def PRESETS(self) -> dict[str, Any]:
        """Dataclasses of settings by name; each has `seeds`."""

    def run(self, preset: Any, context: Context) -> dict[str, Any]:
        """Return the result: {"rows": [...]} and, where there are any, "trained" runs."""

    def panels(self, result: dict[str, Any]) -> list[Panel]:
        """Return the panels of its figure."""
