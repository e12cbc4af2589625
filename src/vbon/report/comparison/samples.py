"""Completions of every method side by side: a card a prompt, a column for each N and method."""

from collections.abc import Iterator
from typing import Any

from vbon.artifacts.evaluation import SAMPLES as SAMPLES_FILE
from vbon.artifacts.parquet_files import read_parquet
from vbon.artifacts.sweep import evaluation_folder
from vbon.report.comparison.read import Comparison
from vbon.report.samples import MOST_PROMPTS, REFERENCE, Card, Row, make_card
from vbon.report.words import n_text

SAMPLES = 2
"""Completions of each method, prompt and N on the page; the rest stays in the evaluations."""


def cards(comparison: Comparison) -> list[Card]:
    """Return one card for each prompt, from the runs of the first seed, at most MOST_PROMPTS."""
    by_prompt: dict[str, tuple[str, dict[tuple[str, str], list[Row]]]] = {}
    for policy, n, rows in _evaluations(comparison):
        for row in rows:
            _, columns = by_prompt.setdefault(str(row["prompt_id"]), (str(row.get("prompt")), {}))
            columns.setdefault((policy, n), []).append(row)
    first = [comparison.methods[0].name]
    return [make_card(prompt, columns, first, SAMPLES) for prompt, columns in list(by_prompt.values())[:MOST_PROMPTS]]


def _evaluations(comparison: Comparison) -> Iterator[tuple[str, str, list[dict[str, Any]]]]:
    """(method or reference, N, rows of samples.parquet)."""
    for place, one in enumerate(comparison.places):
        reference_shown = place > 0
        for method in comparison.methods:
            seeds = sorted(seed for at, seed in method.runs if at == place)
            if not seeds:
                continue
            name = str(method.runs[place, seeds[0]]["name"])
            rows = read_parquet(evaluation_folder(comparison.path, name) / SAMPLES_FILE)
            if not reference_shown:
                yield REFERENCE, "", [row for row in rows if row.get("policy") == REFERENCE]
                reference_shown = True
            yield method.name, n_text(one.n), [row for row in rows if row.get("policy") == name]
