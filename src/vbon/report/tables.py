"""Tables as rows of text: policies, methods, costs, settings. No HTML here; the template escapes every cell."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vbon.artifacts.evaluation import Evaluation, Metrics
from vbon.core.estimate import Estimate
from vbon.report.read import ComparedMethod, Comparison, Run
from vbon.report.statistics import KL, CostRow, Matched, point
from vbon.report.words import MISSING, n_text, number


class Cell(NamedTuple):
    """A value and, where it has one, its interval."""

    text: str
    interval: str = ""


class Row(NamedTuple):
    """A row under its header cell; `kind` is a CSS class: policy, reference or target."""

    header: str
    kind: str
    cells: list[Cell]
    series: int | None = None


class Table(NamedTuple):
    """Column headers as (label, explanation), and rows of as many cells."""

    columns: list[tuple[str, str]]
    rows: list[Row]


# key → (column header, explanation, decimals, factor); in the order of the columns.
COLUMNS: dict[str, tuple[str, str, int, float]] = {
    "win_rate": ("win rate, %", "Share of reference samples that one sample beats, ties counted half", 1, 100.0),
    "win_rate_bon": (
        "wins against best-of-N, %",
        "P(one sample beats one best-of-N draw), ties counted half",
        1,
        100.0,
    ),
    "reward": ("reward", "Mean reward of one sample", 3, 1.0),
    "reward_gain_share": ("share of gain, %", "Of the reward that best-of-N gains over the reference", 1, 100.0),
    "share_worse": ("worse on, %", "Prompts with a win rate below one half; the reference reads near 50", 1, 100.0),
    "kl_policy_ref": ("KL(π_θ‖π_ref)", "Distance from the reference, nats per completion", 3, 1.0),
    "kl_policy_bon": ("KL(π_θ‖π_bon)", "Distance to best-of-N itself, nats per completion", 3, 1.0),
    "kl_bon_policy": ("KL(π_bon‖π_θ)", "The same distance from the other side, nats per completion", 3, 1.0),
    "entropy": ("entropy", "Nats per completion: what diversity is left", 2, 1.0),
    "distinct_2": ("distinct-2", "Share of token pairs that differ, among the samples of a prompt", 3, 1.0),
    "completion_length": ("length", "Tokens per completion", 1, 1.0),
    "length_reward_correlation": ("length ~ reward", "Pearson correlation within a prompt, mean over prompts", 2, 1.0),
    "eos_rate": ("finished, %", "Completions that end by themselves", 1, 100.0),
}
JUDGE = "judge_reward/"
_NOT_SHOWN = ("train_prompt_ids", "validation_prompt_ids", "given")


def policy_table(evaluation: Evaluation) -> Table:
    """Policies by metrics; columns that nobody has are left out, judges come last."""
    best = f"best-of-{n_text(evaluation.n)}"
    rows = [(name, "policy", metrics) for name, metrics in evaluation.policies.items()]
    return _metrics_table(
        [*rows, ("reference", "reference", evaluation.reference), (best, "target", evaluation.target)],
        [*range(len(rows)), None, None],
    )


def differences_table(evaluation: Evaluation) -> Table | None:
    """Differences from the first policy over the same prompts, or None where there is only one policy."""
    rows = [(name, "policy", metrics) for name, metrics in evaluation.differences.items()]
    return _metrics_table(rows, [None] * len(rows)) if rows else None


def _metrics_table(rows: Sequence[tuple[str, str, Metrics]], series: Sequence[int | None]) -> Table:
    present = {key for _, _, metrics in rows for key in metrics}
    columns = {key: column for key, column in _all_columns(present).items() if key in present}
    return Table(
        [(label, explanation) for label, explanation, _, _ in columns.values()],
        [
            Row(header, kind, _cells(metrics, columns), place)
            for (header, kind, metrics), place in zip(rows, series, strict=True)
        ],
    )


def _cells(metrics: Metrics, columns: Mapping[str, tuple[str, str, int, float]]) -> list[Cell]:
    return [cell(metrics.get(key), digits, factor) for key, (_, _, digits, factor) in columns.items()]


def cell(estimate: Estimate | None, digits: int, factor: float = 1.0) -> Cell:
    """An estimate as a cell; an interval of no width is not shown."""
    if estimate is None:
        return Cell(MISSING)
    value, low, high = (number(factor * part, digits) for part in estimate)
    return Cell(value, "" if low == high else f"{low} to {high}")


def settings_rows(run: Run) -> list[tuple[str, str]]:
    """Settings and fingerprint of a run, as (name, value), nested names joined by dots."""
    return list(_flattened({key: value for key, value in run.record.items() if key not in _NOT_SHOWN}))


def evaluation_settings_rows(evaluation: Evaluation) -> list[tuple[str, str]]:
    """Settings of an evaluation, as (name, value)."""
    return list(_flattened({"n": evaluation.n, **evaluation.settings}))


def sweep_settings_rows(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The settings of a sweep, as (name, value); a section is one value."""
    return [(key, _text(value)) for key, value in settings.items()]


def _all_columns(present: Iterable[str]) -> dict[str, tuple[str, str, int, float]]:
    judges = sorted(key for key in present if key.startswith(JUDGE))
    return COLUMNS | {
        key: (f"judge {key.removeprefix(JUDGE)}", "Mean reward by a judge that was never trained on", 3, 1.0)
        for key in judges
    }


def _flattened(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", _text(value)


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


SHOWN = ("win_rate", "reward", KL, "kl_policy_bon", "entropy")


def results_table(comparison: Comparison) -> Table:
    """A row for each N and method, best-of-N first: means over seeds, intervals over prompts, and every seed."""
    columns = [("N", "The grid point"), ("β", "KL coefficient of a method with a scale")]
    rows = []
    for index, place in enumerate(comparison.places):
        cells = [_target_cell(place.target.get(key), key) for key in SHOWN]
        rows.append(Row("best-of-n", "target", [Cell(n_text(place.n)), Cell(""), *cells]))
        for method in comparison.methods:
            if index in method.places():
                rows.append(_row(method, index, place.n))
    return Table([*columns, *((COLUMNS[key][0], COLUMNS[key][1]) for key in SHOWN)], rows)


def _row(method: ComparedMethod, index: int, n: float) -> Row:
    beta = method.kl_coef[index]
    cells = []
    for key in SHOWN:
        values = method.values(key)
        cells.append(Cell(MISSING) if values is None else _seeds_cell(values[:, method.places().index(index)], key))
    return Row(
        method.name, "policy", [Cell(n_text(n)), Cell("" if beta is None else f"{beta:g}"), *cells], method.series
    )


def _seeds_cell(values: np.ndarray, key: str) -> Cell:
    _, _, digits, factor = COLUMNS[key]
    seeds = ", ".join(number(factor * float(one), digits) for one in values.mean(1))
    shown = cell(point(values), digits, factor)
    return Cell(shown.text, f"{shown.interval}; seeds {seeds}" if len(values) > 1 else shown.interval)


def _target_cell(estimate: Estimate | None, key: str) -> Cell:
    _, _, digits, factor = COLUMNS[key]
    return Cell("0") if key == "kl_policy_bon" else cell(estimate, digits, factor)


def matched_table(comparison: Comparison, found: Sequence[Matched], digits: int, factor: float) -> Table:
    """Table of the first method minus each rival at the KL that best-of-N spends, a column for each N.

    Args:
        comparison: Whose grid gives the columns.
        found: The differences, a row each.
        digits: Decimals shown.
        factor: Values are multiplied by it, 100 for a share in percent.

    Returns:
        The table, with intervals and the difference of each seed.
    """
    columns = [
        (f"KL {number(place.target[KL].value, 2)}", f"The KL of best-of-{n_text(place.n)}")
        for place in comparison.places
        if KL in place.target
    ]
    rows = [
        Row(
            f"− {one.rival.name}",
            "policy",
            [
                _difference(value, [seed[i] for seed in one.per_seed], digits, factor)
                for i, value in enumerate(one.at_best_of_n)
            ],
            one.rival.series,
        )
        for one in found
    ]
    return Table(columns, rows)


def _difference(value: Estimate, seeds: Sequence[float], digits: int, factor: float) -> Cell:
    if not math.isfinite(value.value):
        return Cell(MISSING)
    shown = cell(value, digits, factor)
    each = ", ".join(MISSING if math.isnan(one) else number(factor * one, digits) for one in seeds)
    return Cell(shown.text, f"{shown.interval}; seeds {each}" if len(seeds) > 1 else shown.interval)


def cost_table(rows: Sequence[CostRow]) -> Table:
    """Cost of the runs of each method, and the cost until they had 95 % of best-of-N's gain on validation prompts."""
    columns = [
        ("N", "The grid point"),
        ("rollouts", "Completions sampled and scored in training, each one reward call"),
        ("pool steps", "Optimiser steps on the pool's samples"),
        ("seconds", "Of rollouts and updates, one process"),
        ("seeds there", "Seeds with 95 % of best-of-N's gain in reward at some validation"),
        ("rollouts to 95 %", "Until the first such validation; median over seeds, where most are there"),
        ("pool steps to 95 %", "The same"),
        ("seconds to 95 %", "The same"),
    ]
    return Table(columns, [_cost_row(row) for row in rows])


def _cost_row(row: CostRow) -> Row:
    return Row(
        row.method.name,
        "policy",
        [
            Cell(n_text(row.n)),
            Cell(number(row.rollouts, 0)),
            Cell(number(row.offline_steps, 0)),
            Cell(number(row.seconds, 1)),
            Cell(f"{row.reached} of {row.seeds}"),
            Cell(number(row.nearly_rollouts, 0)),
            Cell(number(row.nearly_offline_steps, 0)),
            Cell(number(row.nearly_seconds, 1)),
        ],
        row.method.series,
    )


def search_table(comparison: Comparison) -> Table | None:
    """Every rate that was tried and what it came to by the method's own objective, or None without a search."""
    rows = []
    for method in comparison.methods:
        for rate, objective in method.search:
            chosen = "chosen" if rate == method.learning_rate else ""
            cells = [Cell(f"{rate:g}"), Cell(number(objective, 4)), Cell(chosen)]
            rows.append(Row(method.name, "policy", cells, method.series))
    columns = [
        ("learning rate", "Tried at one grid point"),
        ("objective", "The method's own, on validation prompts"),
        ("", ""),
    ]
    return Table(columns, rows) if rows else None
