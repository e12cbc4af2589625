"""RUN, EVAL and SWEEP folders, read as untrusted input into the few values that the pages show."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vbon.artifacts.evaluation import (
    PER_PROMPT,
    RECORD,
    REFERENCE,
    Evaluation,
    estimate_of,
    is_evaluation,
    read_evaluation,
)
from vbon.artifacts.json_files import is_number, read_lines, read_object
from vbon.artifacts.parquet_files import read_parquet
from vbon.artifacts.run import FORMAT_VERSION, RECORD_NAME, RunFolder
from vbon.artifacts.sweep import RECORD as SWEEP_RECORD
from vbon.artifacts.sweep import evaluation_folder, read_record, read_timings
from vbon.core.estimate import Estimate
from vbon.errors import VbonError

Float = NDArray[np.float64]


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
    return Run(name, str(path), record, [row for row in read_lines(folder.metrics) if is_number(row.get("iteration"))])


@dataclass(frozen=True)
class GridPoint:
    """One N of the grid: best-of-N itself and the reference there."""

    n: float
    target: Mapping[str, Estimate]
    reference: Mapping[str, Estimate]
    floor: float
    evaluation: str
    """The run whose evaluation holds the reference's rewards."""


@dataclass(frozen=True, eq=False)
class ComparedMethod:
    """One method: its runs by (place on the grid, seed), and what was recorded of it."""

    name: str
    series: int
    family: str
    summary: str
    kl_coef: Sequence[float | None]
    learning_rate: float | None
    search: Sequence[tuple[float, float | None]]
    runs: Mapping[tuple[int, int], Mapping[str, Any]]
    per_prompt: Mapping[tuple[int, int], Mapping[str, Float]]

    def places(self) -> list[int]:
        """Grid points with every seed there."""
        seeds = {seed for _, seed in self.per_prompt}
        return [
            place
            for place in sorted({p for p, _ in self.per_prompt})
            if all((place, s) in self.per_prompt for s in seeds)
        ]

    def values(self, metric: str) -> Float | None:
        """(seeds, grid points that are whole, prompts), or None where a run lacks the metric."""
        places, seeds = self.places(), sorted({seed for _, seed in self.per_prompt})
        rows = [[self.per_prompt[place, seed].get(metric) for place in places] for seed in seeds]
        if not places or any(one is None for row in rows for one in row):
            return None
        return np.array(rows)


@dataclass(frozen=True, eq=False)
class Comparison:
    """Everything that the page shows of a sweep."""

    name: str
    path: Path
    settings: Mapping[str, Any]
    pool: Mapping[str, Any]
    places: Sequence[GridPoint]
    methods: Sequence[ComparedMethod]
    failed: Sequence[tuple[str, str]]
    num_runs: int
    shape: Mapping[str, Any]
    """num_prompts, num_samples, samples_per_prompt and judges of the evaluations."""
    seconds: Mapping[str, Mapping[str, Any]]
    rates: Mapping[str, float]
    latencies: Mapping[str, float]

    @cached_property
    def reward_quantiles(self) -> list[Float]:
        """The reference's rewards at even shares, of each held-out prompt."""
        rows = read_parquet(_evaluation(self.path, self.places[0].evaluation) / REFERENCE)
        lists = [row.get("reward_quantiles") for row in rows]
        return [np.array(one) for one in lists if isinstance(one, list) and one and all(map(is_number, one))]


def read_sweep(path: Path) -> Comparison:
    """Raises VbonError naming the file and the field."""
    where = path / SWEEP_RECORD
    record = read_record(path)
    timings = read_timings(path)
    try:
        return _comparison(path, record, timings)
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        raise VbonError(f"{where}: not as a sweep writes it ({type(error).__name__}: {error})") from None


def _comparison(path: Path, record: Mapping[str, Any], timings: Mapping[str, Any]) -> Comparison:
    places = [_grid_point(row) for row in record["grid"]]
    if not places:
        raise VbonError(f"{path}: no run of this sweep is done yet; run vbon sweep first")
    runs = record["runs"]
    done = [run for run in runs if run["status"] == "done"]
    per_prompt = {run["name"]: _per_prompt(_evaluation(path, run["name"]), run["name"]) for run in done}
    ns = [place.n for place in places]
    return Comparison(
        path.resolve().name,
        path,
        settings=record["settings"],
        pool=record["pool"],
        places=places,
        methods=[
            _method(name, series, row, [run for run in done if run["method"] == name], ns, per_prompt)
            for series, (name, row) in enumerate(record["methods"].items())
        ],
        failed=[(str(run["name"]), str(run["reason"])) for run in runs if run["status"] != "done"],
        num_runs=len(runs),
        shape={key: record["grid"][0][key] for key in ("num_prompts", "num_samples", "samples_per_prompt", "judges")},
        seconds=timings.get("seconds", {}),
        rates=_timings(timings.get("completions_per_second")),
        latencies=_timings(timings.get("latency_seconds")),
    )


def _evaluation(path: Path, name: str) -> Path:
    """The folder of a run's evaluation; ValueError for a name that leads out of the sweep's."""
    if Path(name).name != name or "\0" in name or evaluation_folder(path, name).is_symlink():
        raise ValueError(f"{name!r} is no name of a run")
    return evaluation_folder(path, name)


def _grid_point(row: Mapping[str, Any]) -> GridPoint:
    return GridPoint(
        float(row["n"]),
        _estimates(row["target"]),
        _estimates(row["reference"]),
        float(row["floor"]["kl_policy_bon"]),
        str(row["evaluation"]),
    )


def _method(
    name: str,
    series: int,
    row: Mapping[str, Any],
    runs: Sequence[Mapping[str, Any]],
    ns: Sequence[float],
    per_prompt: Mapping[str, Mapping[str, Float]],
) -> ComparedMethod:
    by_place = {(ns.index(run["n"]), run["seed"]): run for run in runs}
    return ComparedMethod(
        name,
        series,
        str(row["family"]),
        str(row["summary"]),
        row["kl_coef"] or [None] * len(ns),
        row["learning_rate"],
        [(one["learning_rate"], one["objective"]) for one in row["search"]],
        by_place,
        {key: per_prompt[run["name"]] for key, run in by_place.items()},
    )


def _per_prompt(folder: Path, policy: str) -> dict[str, Float]:
    """metric → (P,) of one policy, prompts in the order of the file, which all evaluations share."""
    rows = [row for row in read_parquet(folder / PER_PROMPT) if row.get("policy") == policy]
    names = [name for name in (rows[0] if rows else {}) if name not in ("policy", "prompt_id")]
    return {
        name: np.array([row[name] for row in rows], np.float64)
        for name in names
        if all(is_number(row[name]) for row in rows)
    }


def _estimates(values: Mapping[str, Any]) -> dict[str, Estimate]:
    found = {name: estimate_of(value, name, Path(SWEEP_RECORD)) for name, value in values.items()}
    return {name: value for name, value in found.items() if value is not None}


def _timings(values: Any) -> dict[str, float]:
    return {name: float(value) for name, value in (values or {}).items() if is_number(value) and value > 0}
