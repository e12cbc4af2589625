"""RUN and EVAL folders, read as untrusted input into the few values that the page shows."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

import pyarrow as pa
import pyarrow.parquet as pq

from vbon.artifacts.json_files import parse_json
from vbon.core.stats import Estimate
from vbon.errors import VbonError

RUN_RECORD = "vbon/run.json"
EVALUATION_RECORD = "evaluation.json"
FORMAT_VERSION = 1
_SHOWN_ELSEWHERE = ("format_version", "policies", "reference", "target", "floor", "warnings")

Metrics = Mapping[str, Estimate]


@dataclass(frozen=True)
class Run:
    """A training run: what it was told, and what it wrote down on the way."""

    name: str
    path: str
    record: Mapping[str, Any]
    history: list[dict[str, Any]]
    """Lines of metrics.jsonl, each with `iteration`; keys of validation lines begin with `validation/`."""


@dataclass(frozen=True)
class Evaluation:
    """Policies, the reference and best-of-N on held-out prompts."""

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


def read_folders(paths: Sequence[str]) -> tuple[list[Run], list[Evaluation]]:
    """Every folder, as the runs and the evaluations among them. Raises VbonError for one that is neither."""
    folders = [Path(path) for path in paths]
    for path in folders:
        if not (_is_run(path) or _is_evaluation(path)):
            raise VbonError(f"{path}: neither a run ({RUN_RECORD}) nor an evaluation ({EVALUATION_RECORD})")
    names = _distinct_names(folders)
    return (
        [_read_run(path, name) for path, name in zip(folders, names, strict=True) if _is_run(path)],
        [_read_evaluation(path, name) for path, name in zip(folders, names, strict=True) if _is_evaluation(path)],
    )


def _is_run(path: Path) -> bool:
    return (path / RUN_RECORD).is_file()


def _is_evaluation(path: Path) -> bool:
    return (path / EVALUATION_RECORD).is_file()


def _distinct_names(folders: Sequence[Path]) -> list[str]:
    last = [path.resolve().name for path in folders]
    return [name if last.count(name) == 1 else str(path) for name, path in zip(last, folders, strict=True)]


def _read_run(path: Path, name: str) -> Run:
    record = read_json(path / RUN_RECORD)
    return Run(name, str(path), record, _read_history(path / "vbon/metrics.jsonl"))


def _read_history(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    lines = _read_text(path).splitlines()
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            rows.append(parse_json(line, f"{path}:{number}"))
        except VbonError:
            if number < len(lines):
                raise
            break  # the run was killed while it wrote its last line, or still runs
    return [row for row in rows if isinstance(row, dict) and is_number(row.get("iteration"))]


def _read_evaluation(path: Path, name: str) -> Evaluation:
    where = path / EVALUATION_RECORD
    record = read_json(where)
    n: Any = record.get("n")
    if not is_number(n) or n <= 1:
        raise VbonError(f"{where}: 'n' is {n!r}, but must be a number greater than 1")
    policies = _mapping(record, "policies", where)
    floor = estimate_of(_mapping(record, "floor", where).get("kl_policy_bon"), "floor", where)
    return Evaluation(
        name,
        str(path),
        float(n),
        {policy: _metrics(row, "metrics", where) for policy, row in policies.items()},
        reference=_metrics(record.get("reference"), "metrics", where),
        target=_metrics(record.get("target"), "metrics", where),
        kl_policy_bon_floor=floor.value if floor else None,
        settings={key: value for key, value in record.items() if key not in _SHOWN_ELSEWHERE},
        warnings=_lines(record.get("warnings")),
        differences={
            policy: _metrics(row, "differences", where) for policy, row in policies.items() if row.get("differences")
        },
        samples=read_parquet(path / "samples.parquet"),
        throughput=_read_timings(path / "throughput.json", "completions_per_second"),
        latency=_read_timings(path / "throughput.json", "latency_seconds"),
        best_of_k={name: _curve(row, where) for name, row in (*policies.items(), ("reference", record["reference"]))},
        reward_cdfs=read_parquet(path / "reference.parquet"),
    )


def _metrics(row: Any, key: str, where: Path) -> Metrics:
    """The entries of `row[key]` that hold an estimate; a metric that could not be measured is null and left out."""
    content = _mapping(row if isinstance(row, dict) else {}, key, where)
    estimates = {name: estimate_of(value, name, where) for name, value in content.items()}
    return {name: estimate for name, estimate in estimates.items() if estimate is not None}


def estimate_of(value: Any, key: str, where: Path) -> Estimate | None:
    """An estimate, or a bare number as one without width; None where it could not be computed."""
    parts: list[Any] = [value.get(part) for part in Estimate._fields] if isinstance(value, dict) else [value] * 3
    if not all(part is None or is_number(part) for part in parts):
        raise VbonError(f"{where}: {key!r} must hold value, low and high, not {value!r:.60}")
    # An interval that could not be computed is null; so is, then, the whole estimate.
    return None if None in parts else Estimate(*map(float, parts))


def _curve(row: Mapping[str, Any], where: Path) -> list[tuple[int, Metrics]]:
    entries = row.get("best_of_k") or []
    if not isinstance(entries, list) or not all(isinstance(e, dict) and is_number(e.get("k")) for e in entries):
        raise VbonError(f"{where}: 'best_of_k' must be a list of mappings with a number k, not {entries!r:.60}")
    measured = ({name: entry.get(name) for name in ("reward", "win_rate")} for entry in entries)
    return [
        (int(e["k"]), _metrics({"best_of_k": m}, "best_of_k", where)) for e, m in zip(entries, measured, strict=True)
    ]


def _read_timings(path: Path, key: str) -> dict[str, float]:
    record = read_json(path) if path.is_file() else {}
    if key not in record:
        return {}
    timings = _mapping(record, key, path)
    return {name: float(value) for name, value in timings.items() if is_number(value) and value > 0}


def read_parquet(path: Path) -> list[dict[str, Any]]:
    """The rows of a Parquet file, none where it is not there. Raises VbonError naming the file."""
    if not path.is_file():
        return []
    try:
        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError, OverflowError) as error:
        raise VbonError(f"{path}: cannot be read as Parquet ({str(error).splitlines()[0]})") from None
    return rows


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object in this format version. Raises VbonError naming the file."""
    content = parse_json(_read_text(path), str(path))
    if not isinstance(content, dict) or content.get("format_version", FORMAT_VERSION) != FORMAT_VERSION:
        raise VbonError(f"{path}: not written by this vbon (format_version must be {FORMAT_VERSION}); upgrade vbon")
    return content


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise VbonError(f"{path}: cannot be read ({error})") from None


def _lines(value: Any) -> list[str]:
    return [str(line) for line in value] if isinstance(value, list) else []


def _mapping(record: Mapping[str, Any], key: str, where: Path) -> dict[str, Any]:
    value = record.get(key)
    if not isinstance(value, dict):
        raise VbonError(f"{where}: {key!r} must be a mapping, not {value!r:.60}")
    return value


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value from a file is a finite number, and no truth value."""
    return type(value) in (int, float) and abs(value) <= sys.float_info.max
