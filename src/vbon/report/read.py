"""RUN and EVAL folders, read as untrusted input into the few values that the page shows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vbon.artifacts.evaluation import RECORD, Evaluation, is_evaluation, read_evaluation
from vbon.artifacts.json_files import is_number, read_lines, read_object
from vbon.artifacts.run import FORMAT_VERSION, RECORD_NAME, RunFolder
from vbon.errors import VbonError


@dataclass(frozen=True)
class Run:
    """A training run: what it was told, and what it wrote down on the way."""

    name: str
    path: str
    record: Mapping[str, Any]
    history: list[dict[str, Any]]
    """Lines of metrics.jsonl, each with `iteration`; keys of validation lines begin with `validation/`."""


def read_folders(paths: Sequence[str]) -> tuple[list[Run], list[Evaluation]]:
    """Every folder, as the runs and the evaluations among them. Raises VbonError for one that is neither."""
    folders = [Path(path) for path in paths]
    for path in folders:
        if not (_is_run(path) or is_evaluation(path)):
            raise VbonError(f"{path}: neither a run ({RECORD_NAME}) nor an evaluation ({RECORD})")
    names = _distinct_names(folders)
    return (
        [_read_run(path, name) for path, name in zip(folders, names, strict=True) if _is_run(path)],
        [read_evaluation(path, name) for path, name in zip(folders, names, strict=True) if is_evaluation(path)],
    )


def _is_run(path: Path) -> bool:
    return RunFolder(path).is_finished


def _distinct_names(folders: Sequence[Path]) -> list[str]:
    last = [path.resolve().name for path in folders]
    return [name if last.count(name) == 1 else str(path) for name, path in zip(last, folders, strict=True)]


def _read_run(path: Path, name: str) -> Run:
    folder = RunFolder(path)
    record = read_object(folder.record, format_version=FORMAT_VERSION)
    return Run(name, str(path), record, _read_history(folder.metrics))


def _read_history(path: Path) -> list[dict[str, Any]]:
    return [row for row in read_lines(path) if is_number(row.get("iteration"))]
