"""An EVAL on disk: policies, the reference and best-of-N on held-out prompts.

per_prompt.parquet   a row for each policy and prompt, a column for each metric
samples.parquet      a few completions of each policy and prompt
reference.parquet    the reference's rewards of each prompt, at even shares
throughput.json      completions per second and latencies, where they were timed; the only wall-clock
inputs.json          the settings of the evaluation, and digests of what was evaluated
evaluation.json      the result; written last, so an evaluation that has it is complete
unfinished/          while the evaluation lasts: the settings, and one file for each policy that has been measured
"""

import contextlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from vbon.artifacts.files import LOCK_NAME, WRITING, FolderLock, remove_leftovers, replace_file
from vbon.artifacts.json_files import is_number, json_value, read_object, write_json
from vbon.artifacts.parquet_files import parquet_bytes, read_parquet
from vbon.artifacts.settings import ONCE_MISSING, check_same_settings
from vbon.core.estimate import Estimate
from vbon.errors import VbonError

FORMAT_VERSION = 1
RECORD = "evaluation.json"
PER_PROMPT, SAMPLES, REFERENCE = "per_prompt.parquet", "samples.parquet", "reference.parquet"
THROUGHPUT, INPUTS, UNFINISHED = "throughput.json", "inputs.json", "unfinished"
FILES = (RECORD, PER_PROMPT, SAMPLES, REFERENCE, THROUGHPUT, INPUTS, UNFINISHED)
_NOT_SETTINGS = ("format_version", "policies", "reference", "target", "floor", "warnings", "dials")

Metrics = Mapping[str, Estimate]


class EvaluationFolder:
    """The folder of one evaluation while it is written: one writer at a time, and nothing else is replaced."""

    def __init__(self, out: str):
        self.path = Path(out)
        self._record, self._inputs, self._unfinished = (self.path / name for name in (RECORD, INPUTS, UNFINISHED))
        self._lock: FolderLock | None = None

    def open(self, settings: Mapping[str, Any], sources: Mapping[str, Any]) -> bool:
        """Make the folder, or continue in it, and keep other processes out.

        Args:
            settings: What the evaluation measures, in JSON's own types.
            sources: Digests of what is evaluated. What was measured with other sources is measured again.

        Returns:
            Whether the evaluation is complete.

        Raises:
            VbonError: the folder cannot be made, holds anything else, or an evaluation with other settings.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            names = sorted(path.name for path in self.path.iterdir() if not path.name.startswith(WRITING))
        except OSError as error:
            raise VbonError(f"--out {self.path}: cannot be made ({error.strerror}); choose another --out") from None
        others = [name for name in names if name not in (*FILES, LOCK_NAME)]
        if others:
            raise VbonError(f"--out {self.path}: not empty (holds {others[0]}); choose another --out")
        self._lock = FolderLock(self.path, "evaluation")
        try:
            return self._continue(json_value(settings), json_value(sources))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let another process write here; a folder in which nothing is stored is removed."""
        if not self._record.exists() and not any(self._unfinished.glob("*.safetensors")):
            shutil.rmtree(self._unfinished, ignore_errors=True)
        (self.path / LOCK_NAME).unlink(missing_ok=True)
        if self._lock is not None:
            self._lock.release()
            self._lock = None
        with contextlib.suppress(OSError):  # not empty
            self.path.rmdir()

    def measured(self, position: int) -> Path:
        """The file of the policy that is measured at this position, counted from 0, while the evaluation lasts."""
        return self._unfinished / f"{position}.safetensors"

    def write(self, tables: Mapping[str, pa.Table], throughput: Mapping[str, Any], record: Mapping[str, Any]) -> None:
        """Write the result.

        Args:
            tables: File name → table, of the three Parquet files.
            throughput: What throughput.json holds; empty where nothing was timed.
            record: What evaluation.json holds; NaN and ±∞ become null.
        """
        self._record.unlink(missing_ok=True)
        for name, table in tables.items():
            replace_file(self.path / name, parquet_bytes(table))
        if throughput:
            write_json(self.path / THROUGHPUT, json_value(throughput))
        else:
            (self.path / THROUGHPUT).unlink(missing_ok=True)
        write_json(self._inputs, read_object(self._unfinished / INPUTS))
        write_json(self._record, json_value(record))
        shutil.rmtree(self._unfinished)

    def _continue(self, settings: dict[str, Any], sources: dict[str, Any]) -> bool:
        remove_leftovers(self.path)
        begun = self._unfinished / INPUTS
        if self._record.is_file():
            then = read_object(self._inputs if self._inputs.is_file() else self._record)
            self._check(then, settings)
            tables = (PER_PROMPT, SAMPLES, REFERENCE)
            if then.get("sources") == sources and all((self.path / name).is_file() for name in tables):
                shutil.rmtree(self._unfinished, ignore_errors=True)
                return True
        if any(self._unfinished.glob("*.safetensors")) and begun.is_file():
            then = read_object(begun)
            self._check(then, settings)
            if then.get("sources") == sources:
                return False
        shutil.rmtree(self._unfinished, ignore_errors=True)
        self._unfinished.mkdir()
        write_json(begun, {"format_version": FORMAT_VERSION, "settings": settings, "sources": sources})
        return False

    def _check(self, then: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        before = then.get("settings")
        if not isinstance(before, dict) or not before:
            raise VbonError(f"--out {self.path}: holds an evaluation that does not say its settings; choose another")
        check_same_settings(f"--out {self.path}", ONCE_MISSING | before, settings)


@dataclass(frozen=True)
class Evaluation:
    """A complete evaluation, read as untrusted input."""

    name: str
    path: str
    n: float
    policies: Mapping[str, Metrics]
    reference: Metrics
    target: Metrics
    kl_policy_bon_floor: float | None
    settings: Mapping[str, Any]
    warnings: Sequence[str] = ()
    differences: Mapping[str, Metrics] = field(default_factory=dict)
    """Per further policy: its difference from the first, over the same prompts."""
    samples: Sequence[Mapping[str, Any]] = ()
    throughput: Mapping[str, float] = field(default_factory=dict)
    """Completions a second of the policies, `reference` and `best-of-n`; empty where they were not timed."""
    latency: Mapping[str, float] = field(default_factory=dict)
    """Seconds from one prompt to its completion, of the same."""
    best_of_k: Mapping[str, Sequence[tuple[int, Metrics]]] = field(default_factory=dict)
    """(k, reward and win rate of the best of k samples) of the policies and `reference`."""
    reward_cdfs: Sequence[Mapping[str, Any]] = ()
    """Rows of reference.parquet: a prompt, and rewards of its pool at evenly spaced shares."""


def is_evaluation(path: Path) -> bool:
    """Return True if a folder holds a complete evaluation."""
    return (path / RECORD).is_file()


def read_record(path: Path) -> dict[str, Any]:
    """Read evaluation.json of a folder. Raises VbonError naming the file."""
    return read_object(path / RECORD, format_version=FORMAT_VERSION)


def read_throughput(path: Path) -> dict[str, Any]:
    """Read throughput.json of a folder; empty where nothing was timed. Raises VbonError naming the file."""
    file = path / THROUGHPUT
    return read_object(file, format_version=FORMAT_VERSION) if file.is_file() else {}


def read_evaluation(path: Path, name: str) -> Evaluation:
    """Read the evaluation in a folder. Raises VbonError naming the file and the field."""
    where, record = path / RECORD, read_record(path)
    n: Any = record.get("n")
    if not is_number(n) or n <= 1:
        raise VbonError(f"{where}: 'n' is {n!r}, but must be a number greater than 1")
    policies = _mapping(record, "policies", where)
    floor = estimate_of(_mapping(record, "floor", where).get("kl_policy_bon"), "floor", where)
    curves = (*policies.items(), ("reference", record.get("reference")))
    warnings = record.get("warnings")
    return Evaluation(
        name,
        str(path),
        float(n),
        {policy: _metrics(row, "metrics", where) for policy, row in policies.items()},
        reference=_metrics(record.get("reference"), "metrics", where),
        target=_metrics(record.get("target"), "metrics", where),
        kl_policy_bon_floor=floor.value if floor else None,
        settings={key: value for key, value in record.items() if key not in _NOT_SETTINGS},
        warnings=[str(line) for line in warnings] if isinstance(warnings, list) else [],
        differences={
            policy: _metrics(row, "differences", where) for policy, row in policies.items() if row.get("differences")
        },
        samples=read_parquet(path / SAMPLES),
        throughput=_timings(path, "completions_per_second"),
        latency=_timings(path, "latency_seconds"),
        best_of_k={policy: _curve(row, where) for policy, row in curves},
        reward_cdfs=read_parquet(path / REFERENCE),
    )


def estimate_of(value: Any, key: str, where: Path) -> Estimate | None:
    """An estimate, or a bare number as one without width; None where it could not be computed."""
    parts: list[Any] = [value.get(part) for part in Estimate._fields] if isinstance(value, dict) else [value] * 3
    if not all(part is None or is_number(part) for part in parts):
        raise VbonError(f"{where}: {key!r} must hold value, low and high, not {value!r:.60}")
    # An interval that could not be computed is null; so is, then, the whole estimate.
    return None if None in parts else Estimate(*map(float, parts))


def _metrics(row: Any, key: str, where: Path) -> Metrics:
    """The entries of `row[key]` that hold an estimate; a metric that could not be measured is null and left out."""
    content = _mapping(row if isinstance(row, dict) else {}, key, where)
    estimates = {name: estimate_of(value, name, where) for name, value in content.items()}
    return {name: estimate for name, estimate in estimates.items() if estimate is not None}


def _curve(row: Mapping[str, Any], where: Path) -> list[tuple[int, Metrics]]:
    entries = row.get("best_of_k") or []
    if not isinstance(entries, list) or not all(isinstance(e, dict) and is_number(e.get("k")) for e in entries):
        raise VbonError(f"{where}: 'best_of_k' must be a list of mappings with a number k, not {entries!r:.60}")
    measured = ({name: entry.get(name) for name in ("reward", "win_rate")} for entry in entries)
    return [
        (int(e["k"]), _metrics({"best_of_k": m}, "best_of_k", where)) for e, m in zip(entries, measured, strict=True)
    ]


def _timings(path: Path, key: str) -> dict[str, float]:
    record = read_throughput(path)
    if key not in record:
        return {}
    timings = _mapping(record, key, path / THROUGHPUT)
    return {name: float(value) for name, value in timings.items() if is_number(value) and value > 0}


def _mapping(record: Mapping[str, Any], key: str, where: Path) -> dict[str, Any]:
    value = record.get(key)
    if not isinstance(value, dict):
        raise VbonError(f"{where}: {key!r} must be a mapping, not {value!r:.60}")
    return value
