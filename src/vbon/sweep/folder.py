"""A sweep's folder: where each thing lies, what it was started with, and what has been done so far.

sweep.yaml          the settings it was started with
runs/NAME           a RUN for each method, grid point and seed; evaluations/NAME its EVAL
search/NAME         the runs of the learning-rate search
failures/NAME.json  one line on a run that failed; logs/NAME.txt what it said
sweep.json, table.md, timings.json, report.html   what it came to; only timings.json and the page hold wall-clock
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import yaml

from vbon.artifacts.files import FolderLock, replace_file
from vbon.artifacts.json_files import parse_json
from vbon.config.secrets import cut_urls
from vbon.config.sweep import Sweep
from vbon.config.yaml_file import read_mapping
from vbon.errors import VbonError

_SUBFOLDERS = ("runs", "search", "evaluations", "failures", "logs")


class SweepFolder:
    """Paths of a sweep, and the refusal to go on with other settings."""

    def __init__(self, out: str):
        self.path = Path(out)
        self.settings = self.path / "sweep.yaml"
        self.table = self.path / "table.md"
        self.record = self.path / "sweep.json"
        self.timings = self.path / "timings.json"
        self.report = self.path / "report.html"

    def open(self, sweep: Sweep) -> FolderLock:
        """Make the folder or go on in it; one process at a time. Raises VbonError for other settings than before."""
        try:
            for name in _SUBFOLDERS:
                (self.path / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise VbonError(f"--out {self.path}: cannot be made ({error.strerror}); name another directory") from None
        lock = FolderLock(self.path, "sweep")
        try:
            if self.settings.is_file():
                _check_same(self.settings, settings_of(sweep))
            else:
                replace_file(self.settings, yaml.safe_dump(settings_of(sweep), sort_keys=False).encode())
        except BaseException:
            lock.release()
            raise
        return lock

    def run(self, name: str) -> Path:
        return self.path / "runs" / name

    def search(self, name: str) -> Path:
        return self.path / "search" / name

    def evaluation(self, name: str) -> Path:
        return self.path / "evaluations" / name

    def log(self, name: str) -> Path:
        return self.path / "logs" / f"{name}.txt"

    def fail(self, name: str, reason: str) -> None:
        """Record one line on a run that failed."""
        replace_file(self._failure(name), (json.dumps({"reason": reason}, ensure_ascii=False) + "\n").encode())

    def forget_failure(self, name: str) -> None:
        """A run is tried again."""
        self._failure(name).unlink(missing_ok=True)

    def reason(self, name: str) -> str | None:
        """Why a run failed, or None where it did not."""
        path = self._failure(name)
        return str(read_json(path).get("reason")) if path.is_file() else None

    def _failure(self, name: str) -> Path:
        return self.path / "failures" / f"{name}.json"


def settings_of(sweep: Sweep) -> dict[str, Any]:
    """What the results depend on, in YAML's own types and without secrets: everything but `out`."""
    values = dataclasses.asdict(sweep)
    del values["out"]
    return {key: _plain(value) for key, value in values.items()}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises VbonError naming the file."""
    try:
        content = parse_json(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise VbonError(f"{path}: cannot be read ({error})") from None
    if not isinstance(content, dict):
        raise VbonError(f"{path}: must hold a JSON object")
    return content


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return cut_urls(value)


def _check_same(path: Path, now: dict[str, Any]) -> None:
    then = read_mapping(path)
    for name, value in _flat(now):
        before = dict(_flat(then)).get(name)
        if before != value:
            raise VbonError(
                f"{path}: this sweep was started with {name} {before!r:.60}, now it is {value!r:.60}; "
                "use the same settings, or name another --out"
            )
    for name, before in _flat(then):
        if name not in dict(_flat(now)):
            raise VbonError(
                f"{path}: this sweep was started with {name} {before!r:.60}, which is gone now; "
                "use the same settings, or name another --out"
            )


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, value in values.items():
        nested = _flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else [(f"{prefix}{key}", value)]
        rows += nested
    return rows
