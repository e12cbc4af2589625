"""The state of a run that a continued one needs beside weights and moments, as plain JSON."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from vbon.artifacts.json_files import is_number
from vbon.artifacts.typed import read_record
from vbon.errors import VbonError
from vbon.training.task import RANK_TEST

_ROW_KEYS = ("iteration", "validation/objective", "validation/objective_se")
_FIX = "remove the checkpoint, and the same command continues from the one before"


@dataclass
class RunState:
    """Steps taken, validations made, and what was seen and warned of on the way."""

    offline_step: int = 0
    """Optimiser steps taken on the pool's samples."""
    iteration: int = 0
    """Online iterations done."""
    validations: list[dict[str, Any]] = field(default_factory=list)
    """Every validation row so far; the first is that of iteration 0."""
    best: dict[str, Any] | None = None
    """The row of the policy to keep."""
    recent: list[dict[str, float]] = field(default_factory=list)
    """The first and the latest training metrics, for `health.failure_signs`."""
    warnings_given: list[str] = field(default_factory=list)
    """Names of the warnings given: each is given once a run."""
    failed_rank_test: bool = False
    """Whether the pool failed the rank test of iteration 0, which was allowed."""

    def to_json(self) -> dict[str, Any]:
        """Return the state as JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, content: Any, where: str) -> "RunState":
        """Read the state that `to_json` wrote. Raises VbonError that begins with `where` for anything else."""
        content = _as_now(content)
        if not (isinstance(content, dict) and set(content) == {field.name for field in dataclasses.fields(cls)}):
            raise VbonError(f"{where}: does not say where a run stands; {_FIX}")
        try:
            state = read_record(cls, content, where)
        except VbonError as error:
            raise VbonError(f"{error}; {_FIX}") from None
        rows = [*state.validations, *([state.best] if state.best else [])]
        if not all(is_number(row.get(key)) for row in rows for key in _ROW_KEYS):
            raise VbonError(f"{where}: a validation is incomplete; {_FIX}")
        return state

    def covers(self, row: dict[str, Any]) -> bool:
        """Return True if this row of the log was written before this state; a continued run writes the others again."""
        if "offline_step" in row:
            return bool(row["offline_step"] <= self.offline_step)
        if "validation/objective" in row:
            return row["iteration"] in [validation["iteration"] for validation in self.validations]
        return bool(self.validations) and bool(row["iteration"] <= self.iteration)


def _as_now(content: Any) -> Any:
    """The state of an older version in today's form: its warnings, `said`, held the failed rank test too."""
    if not (isinstance(content, dict) and isinstance(content.get("said"), list)):
        return content
    rest = {name: value for name, value in content.items() if name != "said"}
    given = [name for name in content["said"] if name != RANK_TEST]
    return {**rest, "warnings_given": given, "failed_rank_test": RANK_TEST in content["said"]}
