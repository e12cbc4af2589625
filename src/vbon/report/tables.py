"""Tables as rows of text: the policies, the settings, the speed. No HTML here; the template escapes every cell."""

import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from vbon.artifacts.evaluation import Evaluation, Metrics
from vbon.core.estimate import Estimate
from vbon.report.read import Run
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
    "kl_policy_ref": ("KL(π_θ‖π_ref)", "Distance from the reference, nats a completion", 3, 1.0),
    "kl_policy_bon": ("KL(π_θ‖π_bon)", "Distance to best-of-N itself, nats a completion", 3, 1.0),
    "kl_bon_policy": ("KL(π_bon‖π_θ)", "The same distance from the other side, nats a completion", 3, 1.0),
    "entropy": ("entropy", "Nats a completion: what diversity is left", 2, 1.0),
    "distinct_2": ("distinct-2", "Share of token pairs that differ, among the samples of a prompt", 3, 1.0),
    "completion_length": ("length", "Tokens a completion", 1, 1.0),
    "length_reward_correlation": ("length ~ reward", "Pearson correlation within a prompt, mean over prompts", 2, 1.0),
    "eos_rate": ("finished, %", "Completions that end by themselves", 1, 100.0),
}
JUDGE = "judge_reward/"
_NOT_SHOWN = ("train_prompt_ids", "validation_prompt_ids", "given")


def policy_table(evaluation: Evaluation) -> Table:
    """Policies by metrics; columns that nobody has are left out, judges come last."""
    best = f"best-of-{n_text(evaluation.n)}"
    rows = [(name, "policy", metrics) for name, metrics in evaluation.policies.items()]
    rows += [("reference", "reference", evaluation.reference), (best, "target", evaluation.target)]
    present = {key for _, _, metrics in rows for key in metrics}
    columns = {key: column for key, column in _all_columns(present).items() if key in present}
    return Table(
        [(label, explanation) for label, explanation, _, _ in columns.values()],
        [
            Row(header, kind, _cells(metrics, columns), index if kind == "policy" else None)
            for index, (header, kind, metrics) in enumerate(rows)
        ],
    )


def differences_table(evaluation: Evaluation) -> Table | None:
    """Differences from the first policy over the same prompts, or None where there is only one policy."""
    if not evaluation.differences:
        return None
    present = {key for metrics in evaluation.differences.values() for key in metrics}
    columns = {key: column for key, column in _all_columns(present).items() if key in present}
    rows = [Row(name, "policy", _cells(metrics, columns)) for name, metrics in evaluation.differences.items()]
    return Table([(label, explanation) for label, explanation, _, _ in columns.values()], rows)


def _cells(metrics: Metrics, columns: Mapping[str, tuple[str, str, int, float]]) -> list[Cell]:
    return [cell(metrics.get(key), digits, factor) for key, (_, _, digits, factor) in columns.items()]


def cell(estimate: Estimate | None, digits: int, factor: float = 1.0) -> Cell:
    """An estimate as a cell; an interval of no width is not shown."""
    if estimate is None:
        return Cell(MISSING)
    value, low, high = (number(factor * part, digits) for part in estimate)
    return Cell(value, "" if low == high else f"{low} to {high}")


def settings_rows(run: Run) -> list[tuple[str, str]]:
    """What a run was told and what it was checked against, as (name, value), nested names joined by dots."""
    return list(_flattened({key: value for key, value in run.record.items() if key not in _NOT_SHOWN}))


def evaluation_settings_rows(evaluation: Evaluation) -> list[tuple[str, str]]:
    """How an evaluation was made, as (name, value)."""
    return list(_flattened({"n": evaluation.n, **evaluation.settings}))


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
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
