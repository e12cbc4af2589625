"""A sweep's folder: where each thing lies, what it was started with, and what has been done so far.

sweep.yaml          the settings it was started with
runs/NAME           a RUN for each method, grid point and seed; evaluations/NAME its EVAL
search/NAME         the runs of the learning-rate search
failures/NAME.json  one line on a run that failed; logs/NAME.txt what it said
speeds.json         one sample against best-of-N, timed once
sweep.json, table.md, timings.json, report.html   the result; only timings.json and the page hold wall-clock
"""

import dataclasses
from pathlib import Path
from typing import Any

import yaml

from vbon.artifacts.files import FolderLock, replace_file
from vbon.artifacts.json_files import read_object, write_json
from vbon.artifacts.settings import check_same_settings
from vbon.config.secrets import cut_urls
from vbon.config.sweep import Sweep
from vbon.config.yaml_file import read_mapping
from vbon.errors import VbonError

FORMAT_VERSION = 1
RECORD, TIMINGS = "sweep.json", "timings.json"
_SUBFOLDERS = ("runs", "search", "evaluations", "failures", "logs")


class SweepFolder:
    """Paths of a sweep, and the refusal to go on with other settings."""

    def __init__(self, out: str):
        self.path = Path(out)
        self.settings = self.path / "sweep.yaml"
        self.table = self.path / "table.md"
        self.record = self.path / RECORD
        self.timings = self.path / TIMINGS
        self.speeds = self.path / "speeds.json"
        self.report = self.path / "report.html"

    def open(self, sweep: Sweep) -> FolderLock:
        """Make the folder or continue in it; one process at a time. Raises VbonError for other settings than before."""
        try:
            for name in _SUBFOLDERS:
                (self.path / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise VbonError(f"--out {self.path}: cannot be made ({error.strerror}); name another directory") from None
        lock = FolderLock(self.path, "sweep")
        try:
            if self.settings.is_file():
                check_same_settings(self.settings, read_mapping(self.settings), settings_of(sweep), spell=str)
            else:
                replace_file(self.settings, yaml.safe_dump(settings_of(sweep), sort_keys=False).encode())
        except BaseException:
            lock.release()
            raise
        return lock

    def run(self, name: str) -> Path:
        """Return the folder of a run of the grid."""
        return self.path / "runs" / name

    def search(self, name: str) -> Path:
        """Return the folder of a run of the learning-rate search."""
        return self.path / "search" / name

    def evaluation(self, name: str) -> Path:
        """Return the folder of a run's evaluation."""
        return evaluation_folder(self.path, name)

    def log(self, name: str) -> Path:
        """Return the file that takes the output of a run's process."""
        return self.path / "logs" / f"{name}.txt"

    def fail(self, name: str, reason: str) -> None:
        """Record one line on a run that failed."""
        write_json(self._failure(name), {"reason": reason})

    def forget_failure(self, name: str) -> None:
        """A run is tried again."""
        self._failure(name).unlink(missing_ok=True)

    def reason(self, name: str) -> str | None:
        """Why a run failed, or None where it did not."""
        path = self._failure(name)
        return str(read_object(path).get("reason")) if path.is_file() else None

    def _failure(self, name: str) -> Path:
        return self.path / "failures" / f"{name}.json"


def is_sweep(path: Path) -> bool:
    """Return True if a folder holds a sweep's result."""
    return (path / RECORD).is_file()


def evaluation_folder(path: Path, name: str) -> Path:
    """Return the folder where the sweep at `path` keeps the evaluation of a run."""
    return path / "evaluations" / name


def read_record(path: Path) -> dict[str, Any]:
    """Read sweep.json of a folder. Raises VbonError naming the file."""
    return read_object(path / RECORD, format_version=FORMAT_VERSION)


def read_timings(path: Path) -> dict[str, Any]:
    """Read timings.json of a folder, empty where there is none. Raises VbonError naming the file."""
    return read_object(path / TIMINGS) if (path / TIMINGS).is_file() else {}


def settings_of(sweep: Sweep) -> dict[str, Any]:
    """Return what the results depend on, in YAML's own types and without secrets: everything but `out`."""
    values = dataclasses.asdict(sweep)
    del values["out"]
    return {key: _plain(value) for key, value in values.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return cut_urls(value)
