"""Completions side by side: a card a prompt, a column for each policy, in a sweep for each N and method."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from vbon.artifacts.evaluation import SAMPLES, Evaluation
from vbon.artifacts.json_files import is_number
from vbon.artifacts.parquet_files import read_parquet
from vbon.artifacts.sweep import evaluation_folder
from vbon.report.read import Comparison
from vbon.report.words import n_text, number

MOST_PROMPTS = 200
"""A page with more of them would be slow to open; the rest stays in samples.parquet."""
MOST_OF_A_METHOD = 2
"""Completions of each method, prompt and N on the page; the rest stays in the evaluations."""
REFERENCE = "reference"

Row = Mapping[str, Any]


class Sample(NamedTuple):
    """One completion as it is shown."""

    completion: str
    reward: str
    finished: bool


class Column(NamedTuple):
    """The completions of one policy for one prompt; `n` is the grid point of a sweep, or empty."""

    policy: str
    n: str
    samples: list[Sample]


class Card(NamedTuple):
    """One prompt; `best` and `gain` over the reference are what the page sorts by."""

    prompt: str
    columns: list[Column]
    best: float
    gain: float


def cards(evaluation: Evaluation) -> list[Card]:
    """Return one card for each prompt, in the evaluation's order, at most MOST_PROMPTS."""
    names = [REFERENCE, *evaluation.policies]
    by_policy: dict[str, list[Row]] = {name: [] for name in names}
    for row in evaluation.samples:
        by_policy.setdefault(str(row["policy"]), []).append(row)
    return _cards([(name, "", rows) for name, rows in by_policy.items()], names[1:])


def _cards(
    samples: Iterable[tuple[str, str, Sequence[Row]]], leaders: Sequence[str], most: int | None = None
) -> list[Card]:
    """The cards of (policy, N, rows of samples.parquet); a prompt's columns are in this order."""
    by_prompt: dict[Any, tuple[str, dict[tuple[str, str], list[Row]]]] = {}
    for policy, n, rows in samples:
        for row in rows:
            _, columns = by_prompt.setdefault(row.get("prompt_id"), (str(row.get("prompt")), {}))
            columns.setdefault((policy, n), []).append(row)
    return [make_card(prompt, columns, leaders, most) for prompt, columns in list(by_prompt.values())[:MOST_PROMPTS]]


def make_card(
    prompt: str, columns: Mapping[tuple[str, str], Sequence[Row]], leaders: Sequence[str], most: int | None = None
) -> Card:
    """Return the card of a prompt.

    Args:
        prompt: Its text.
        columns: (policy, N) → rows of samples.parquet; without rows a column is left out.
        leaders: The policies whose highest mean reward is `best`.
        most: Completions shown in a column; None shows all.

    Returns:
        The card, with the mean rewards by which the page sorts.
    """
    means = {key: sum(map(_reward, rows)) / len(rows) for key, rows in columns.items() if rows}
    best = max((mean for (policy, _), mean in means.items() if policy in leaders), default=0.0)
    reference = next((mean for (policy, _), mean in means.items() if policy == REFERENCE), 0.0)
    shown = [Column(policy, n, [_sample(row) for row in columns[policy, n][:most]]) for policy, n in means]
    return Card(prompt, shown, best, best - reference)


def _sample(row: Row) -> Sample:
    return Sample(str(row.get("completion")), number(_reward(row)), bool(row.get("finished")))


def _reward(row: Row) -> float:
    reward = row.get("reward")
    return float(reward) if is_number(reward) else 0.0


def comparison_cards(comparison: Comparison) -> list[Card]:
    """Return one card for each prompt, from the runs of the first seed, at most MOST_PROMPTS."""
    return _cards(_evaluations(comparison), [comparison.methods[0].name], MOST_OF_A_METHOD)


def _evaluations(comparison: Comparison) -> Iterator[tuple[str, str, list[dict[str, Any]]]]:
    """(method or reference, N, rows of samples.parquet)."""
    for place, one in enumerate(comparison.places):
        reference_shown = place > 0
        for method in comparison.methods:
            seeds = sorted(seed for at, seed in method.runs if at == place)
            if not seeds:
                continue
            name = str(method.runs[place, seeds[0]]["name"])
            rows = read_parquet(evaluation_folder(comparison.path, name) / SAMPLES)
            if not reference_shown:
                yield REFERENCE, "", [row for row in rows if row.get("policy") == REFERENCE]
                reference_shown = True
            yield method.name, n_text(one.n), [row for row in rows if row.get("policy") == name]
