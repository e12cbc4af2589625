"""Completions side by side: a card a prompt, a column a policy."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from vbon.artifacts.evaluation import Evaluation
from vbon.artifacts.json_files import is_number
from vbon.report.words import number

MOST_PROMPTS = 200
"""A page with more of them would be slow to open; the rest stays in samples.parquet."""
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
    by_prompt: dict[Any, dict[tuple[str, str], list[Row]]] = {}
    prompts: dict[Any, str] = {}
    names = [REFERENCE, *evaluation.policies]
    for row in evaluation.samples:
        columns = by_prompt.setdefault(
            row.get("prompt_id"), {(name, ""): [] for name in (REFERENCE, *evaluation.policies)}
        )
        prompts.setdefault(row.get("prompt_id"), str(row.get("prompt")))
        columns.setdefault((str(row["policy"]), ""), []).append(row)
    return [make_card(prompts[key], columns, names[1:]) for key, columns in list(by_prompt.items())[:MOST_PROMPTS]]


def make_card(
    prompt: str, columns: Mapping[tuple[str, str], Sequence[Row]], leaders: Sequence[str], most: int | None = None
) -> Card:
    """Return the card of a prompt.

    Args:
        prompt: Its text.
        columns: (policy, N) → rows of samples.parquet; without rows a column is left out.
        leaders: The policies whose highest mean reward is `best`.
        most: Completions shown in a column; None shows all.
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
