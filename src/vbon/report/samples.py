"""Completions side by side: a card a prompt, a column a policy."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from vbon.artifacts.evaluation import Evaluation
from vbon.report.words import number

MOST_PROMPTS = 200
"""A page with more of them would be slow to open; the rest stays in samples.parquet."""
REFERENCE = "reference"


class Sample(NamedTuple):
    """One completion as it is shown."""

    completion: str
    reward: str
    finished: bool


class Column(NamedTuple):
    """The completions of one policy for one prompt."""

    policy: str
    samples: list[Sample]


class Card(NamedTuple):
    """One prompt; `best` and `gain` are what the page sorts by."""

    prompt: str
    columns: list[Column]
    best: float
    gain: float


def cards(evaluation: Evaluation) -> list[Card]:
    """One card a prompt, in the evaluation's order, at most MOST_PROMPTS."""
    by_prompt: dict[Any, list[Mapping[str, Any]]] = {}
    for row in evaluation.samples:
        by_prompt.setdefault(row.get("prompt_id"), []).append(row)
    return [_card(rows, evaluation) for rows in list(by_prompt.values())[:MOST_PROMPTS]]


def _card(rows: Sequence[Mapping[str, Any]], evaluation: Evaluation) -> Card:
    names = [name for name in (REFERENCE, *evaluation.policies) if any(row["policy"] == name for row in rows)]
    means = {name: _mean([_reward(row) for row in rows if row["policy"] == name]) for name in names}
    policies = [mean for name, mean in means.items() if name != REFERENCE]
    best = max(policies, default=0.0)
    return Card(
        str(rows[0].get("prompt")),
        [Column(name, [_sample(row) for row in rows if row["policy"] == name]) for name in names],
        best,
        best - means.get(REFERENCE, 0.0),
    )


def _sample(row: Mapping[str, Any]) -> Sample:
    return Sample(str(row.get("completion")), number(_reward(row)), bool(row.get("finished")))


def _reward(row: Mapping[str, Any]) -> float:
    return float(row.get("reward") or 0.0)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
