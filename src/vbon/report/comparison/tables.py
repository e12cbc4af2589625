"""Tables of a comparison as rows of text; the template escapes every cell."""

import json
import math
from collections.abc import Mapping, Sequence

import numpy as np

from vbon.core.estimate import Estimate
from vbon.report.comparison.read import ComparedMethod, Comparison
from vbon.report.comparison.statistics import KL, CostRow, Matched, point
from vbon.report.tables import COLUMNS, Cell, Row, Table, cell
from vbon.report.words import MISSING, n_text, number

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
    """The first method minus each rival at the KL that best-of-N spends, a column for each N."""
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
    """What the runs of each method cost, and what it took to have 95 % of best-of-N's gain on validation prompts."""
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


def settings_rows(settings: Mapping[str, object]) -> list[tuple[str, str]]:
    """What the sweep was told, as (name, value)."""
    return [(key, value if isinstance(value, str) else _text(value)) for key, value in settings.items()]


def _text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
