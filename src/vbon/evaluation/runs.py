"""The policies of an evaluation: runs, whose record says what they were trained for, and plain model directories."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vbon.artifacts.run import RECORD_NAME, RunFolder, RunRecord
from vbon.errors import VbonError
from vbon.models.converted import is_adapter

DIALLED = ("vbon", "vbon-bound", "bond")
"""Objectives whose optimum is best-of-N or close to it."""


@dataclass(frozen=True)
class Run:
    """A policy to evaluate. The record knows nothing where the directory is only a model."""

    name: str
    path: str
    record: RunRecord = field(default_factory=RunRecord)


def read_runs(paths: Sequence[str]) -> list[Run]:
    """One Run for each path, named by its last part, or in full where two of them would share that."""
    last = [Path(path).name or path for path in paths]
    twice = {path for path in paths if list(paths).count(path) > 1}
    if twice:
        raise VbonError(f"run {sorted(twice)[0]} is given twice; name it once")
    names = [name if last.count(name) == 1 else path for name, path in zip(last, paths, strict=True)]
    return [read_run(path, name) for path, name in zip(paths, names, strict=True)]


def read_run(path: str, name: str) -> Run:
    """Read a run, or a plain model directory. Raises VbonError naming the file and the field."""
    folder = RunFolder(path)
    if folder.is_finished:
        return Run(name, path, folder.read_record())
    if folder.is_started:
        raise VbonError(f"{path}: this run is not finished; repeat its `vbon train` command to finish it")
    if folder.path.is_dir() and not (is_adapter(path) or (folder.path / "config.json").is_file()):
        raise VbonError(f"{path}: neither a run ({RECORD_NAME}) nor a model directory (config.json)")
    return Run(name, path)


def check_dial(run: Run) -> float:
    """Return the N that a run was trained for. Raises VbonError unless --dial can turn it."""
    record = run.record
    if record.n is None or record.ref_model is None:
        raise VbonError(f"--dial: {run.path} is no run (no {RECORD_NAME}), so its N and its reference are not known")
    if record.tilt != "best":
        raise VbonError(f"--dial: {run.path} was trained with --tilt {record.tilt}; only best-of-N can be turned")
    if record.objective not in DIALLED:
        raise VbonError(f"--dial: {run.path} was trained with --objective {record.objective}, which no N belongs to")
    return record.n
