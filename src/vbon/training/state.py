"""Where a run stands: what a resumed run needs beside weights and moments. Plain JSON."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any


@dataclass
class RunState:
    """Steps taken, validations made, and what was seen and said on the way."""

    offline_step: int = 0
    """Optimiser steps taken on the pool's samples."""
    iteration: int = 0
    """Online iterations done."""
    validations: list[dict[str, Any]] = field(default_factory=list)
    """Every validation row so far; the first is that of iteration 0."""
    best: dict[str, Any] | None = None
    """The row of the policy to keep."""
    recent: list[dict[str, float]] = field(default_factory=list)
    """The first and the latest training metrics, for `watch.signs`."""
    said: list[str] = field(default_factory=list)
    """Names of the warnings given: each is given once a run."""

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def covers(self, row: dict[str, Any]) -> bool:
        """Whether this row of the diary was written before this state: a resumed run writes the others again."""
        if "offline_step" in row:
            return bool(row["offline_step"] <= self.offline_step)
        return bool(self.validations) and bool(row["iteration"] <= self.iteration)
