"""Completions of every method side by side: a card a prompt, a column for each N and method."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from vbon.artifacts.evaluation import SAMPLES as SAMPLES_FILE
from vbon.artifacts.json_files import is_number
from vbon.artifacts.parquet_files import read_parquet
from vbon.report.comparison.read import Comparison
from vbon.report.samples import MOST_PROMPTS, REFERENCE, Sample
from vbon.report.words import n_text, number

SAMPLES = 2
"""Completions of each method, prompt and N on the page; the rest stays in the evaluations."""


class Column(NamedTuple):
    """Completions of one method at one N; `n` is empty for the reference, which is shown at every N."""

    policy: str
    n: str
    samples: list[Sample]


class Card(NamedTuple):
    """One prompt; `best` (the first method's highest mean) and `gain` (over the reference) order the page."""

    prompt: str
    columns: list[Column]
    best: float
    gain: float


def cards(comparison: Comparison) -> list[Card]:
    """One card a prompt, from the runs of the first seed, at most MOST_PROMPTS."""
    by_prompt: dict[str, tuple[str, dict[tuple[str, str], list[Mapping[str, Any]]]]] = {}
    for policy, n, rows in _evaluations(comparison):
        for row in rows:
            _, columns = by_prompt.setdefault(str(row["prompt_id"]), (str(row.get("prompt")), {}))
            columns.setdefault((policy, n), []).append(row)
    first = comparison.methods[0].name
    return [_card(prompt, columns, first) for prompt, columns in list(by_prompt.values())[:MOST_PROMPTS]]


def _evaluations(comparison: Comparison) -> Iterator[tuple[str, str, list[dict[str, Any]]]]:
    """(method or reference, N, rows of samples.parquet)."""
    for place, one in enumerate(comparison.places):
        reference_shown = place > 0
        for method in comparison.methods:
            seeds = sorted(seed for at, seed in method.runs if at == place)
            if not seeds:
                continue
            name = str(method.runs[place, seeds[0]]["name"])
            rows = read_parquet(comparison.path / "evaluations" / name / SAMPLES_FILE)
            if not reference_shown:
                yield REFERENCE, "", [row for row in rows if row.get("policy") == REFERENCE]
                reference_shown = True
            yield method.name, n_text(one.n), [row for row in rows if row.get("policy") == name]


def _card(prompt: str, columns: Mapping[tuple[str, str], list[Mapping[str, Any]]], first: str) -> Card:
    means = [_mean(rows) for (policy, _), rows in columns.items() if policy == first]
    reference = next((_mean(rows) for (policy, _), rows in columns.items() if policy == REFERENCE), 0.0)
    best = max(means, default=0.0)
    shown = [Column(policy, n, [_sample(row) for row in rows[:SAMPLES]]) for (policy, n), rows in columns.items()]
    return Card(prompt, shown, best, best - reference)


def _sample(row: Mapping[str, Any]) -> Sample:
    return Sample(str(row.get("completion")), number(_reward(row)), bool(row.get("finished")))


def _mean(rows: list[Mapping[str, Any]]) -> float:
    return sum(map(_reward, rows)) / len(rows)


def _reward(row: Mapping[str, Any]) -> float:
    reward = row.get("reward")
    return float(reward) if is_number(reward) else 0.0
