"""Findings of an evaluation or a comparison in plain words: distance to best-of-N, shortfalls, the leading methods."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from vbon.artifacts.evaluation import Evaluation, Metrics
from vbon.core.estimate import Estimate
from vbon.report.read import ComparedMethod, Comparison
from vbon.report.statistics import FrontShare, Matched, point
from vbon.report.words import estimate_text, n_text, number, percent_estimate, percent_text

# Share of best-of-N's gain in win rate over the reference → what to call it.
GRADES = ((0.95, "is nearly as good as"), (0.85, "comes close to"), (0.4, "goes part of the way to"))
HIGHEST_GRADE, LOWEST_GRADE = "is as good as", "stays far from"
KL_ALLOWANCE = 1.25
"""A policy may spend this many times best-of-N's KL(π_θ‖π_ref) before the page says that it overspends."""
CLOSE_NATS = 0.5
"""Above its floor by more than this, KL(π_θ‖π_bon) is named as a shortfall."""


class Verdict(NamedTuple):
    """One policy: a headline, one paragraph of figures, and the shortfalls, one sentence each."""

    headline: str
    figures: str
    shortfalls: list[str]


def verdict(name: str, evaluation: Evaluation) -> Verdict:
    """The verdict on policy `name` of an evaluation."""
    metrics = evaluation.policies[name]
    best = f"best-of-{n_text(evaluation.n)}"
    grade = grade_of(metrics, evaluation.target)
    return Verdict(
        f"One sample of {name} {grade} {best}",
        " ".join(_figures(metrics, evaluation, best)),
        list(_shortfalls(name, evaluation, best)),
    )


def win_gain_share(metrics: Metrics, target: Metrics) -> float | None:
    """(win rate − 1/2)/(best-of-N's − 1/2): 0 is the reference, 1 best-of-N. None where it cannot be said."""
    if "win_rate" not in metrics or "win_rate" not in target or target["win_rate"].value <= 0.5:
        return None
    return (metrics["win_rate"].value - 0.5) / (target["win_rate"].value - 0.5)


def grade_of(metrics: Metrics, target: Metrics) -> str:
    """The words for a share of the gain; the highest only where chance may explain what is missing."""
    share = win_gain_share(metrics, target)
    if share is None:
        return "has not been measured against"
    if share >= GRADES[0][0] and not _below(metrics["win_rate"], target["win_rate"]):
        return HIGHEST_GRADE
    return next((words for least, words in GRADES if share >= least), LOWEST_GRADE)


def _figures(metrics: Metrics, evaluation: Evaluation, best: str) -> Iterator[str]:
    target = evaluation.target
    if {"win_rate"} <= metrics.keys() & target.keys():
        yield (
            f"It beats a sample of the reference {percent_estimate(metrics['win_rate'])} of the time; "
            f"{best} would {percent_text(target['win_rate'].value)}."
        )
    if "reward_gain_share" in metrics:
        yield f"It keeps {percent_estimate(metrics['reward_gain_share'])} of the reward that {best} gains."
    if {"kl_policy_ref"} <= metrics.keys() & target.keys():
        yield (
            f"For that it moves {estimate_text(metrics['kl_policy_ref'])} nats from the reference, "
            f"where {best} moves {target['kl_policy_ref'].value:.2f}."
        )
    if "kl_policy_bon" in metrics:
        yield f"Its distance to {best} itself, KL(π_θ‖π_bon), is {estimate_text(metrics['kl_policy_bon'])} nats" + (
            "."
            if evaluation.kl_policy_bon_floor is None
            else f"; for a perfect match the estimate is {evaluation.kl_policy_bon_floor:.2f}."
        )


def _shortfalls(name: str, evaluation: Evaluation, best: str) -> Iterator[str]:
    metrics, target = evaluation.policies[name], evaluation.target
    if _below(metrics.get("win_rate"), target.get("win_rate")):
        gap = target["win_rate"].value - metrics["win_rate"].value
        yield f"It wins less often than {best}, by {100 * gap:.1f} percentage points; chance does not explain the gap."
    yield from _overspending(metrics, target, best)
    floor = evaluation.kl_policy_bon_floor or 0.0
    if "kl_policy_bon" in metrics and metrics["kl_policy_bon"].low - floor > CLOSE_NATS:
        yield f"It is not yet the distribution of {best}: KL(π_θ‖π_bon) is above {metrics['kl_policy_bon'].low:.2f}."
    yield from _judges(name, evaluation)
    yield from evaluation.warnings


def _overspending(metrics: Metrics, target: Metrics, best: str) -> Iterator[str]:
    if not {"kl_policy_ref"} <= metrics.keys() & target.keys():
        return
    spent, allowed = metrics["kl_policy_ref"].value, target["kl_policy_ref"].value
    if spent > KL_ALLOWANCE * allowed:
        yield f"It moves further from the reference than it needs to: {spent / allowed:.2f} times the KL of {best}."


def _judges(name: str, evaluation: Evaluation) -> Iterator[str]:
    reference = evaluation.reference
    for key, value in evaluation.policies[name].items():
        judge = key.removeprefix("judge_reward/")
        warned = any(line.startswith(f"{name}: judge {judge} ") for line in evaluation.warnings)
        if judge != key and key in reference and value.high < reference[key].low and not warned:
            yield f"The judge {judge}, never trained on, likes it less than the reference: the reward may be exploited."


def _below(value: Estimate | None, target: Estimate | None) -> bool:
    return value is not None and target is not None and value.high < target.value


def sentences(
    comparison: Comparison, matched: Mapping[str, Sequence[Matched]], shares: Mapping[str, Sequence[FrontShare]]
) -> list[str]:
    """One sentence a finding; where a rival is ahead, it says so."""
    return [
        *_nearest(comparison),
        *(line for metric, rows in shares.items() for line in _front(metric, rows)),
        *(line for metric, rows in matched.items() for line in _ahead(comparison.methods[0].name, metric, rows)),
        *_out_of_time(comparison),
    ]


def _nearest(comparison: Comparison) -> Iterator[str]:
    """The smallest KL(π_θ‖π_bon) at each N, and the next."""
    told = []
    for index, place in enumerate(comparison.places):
        read = [(value, m.name) for m in comparison.methods if (value := _distance(m, index)) is not None]
        if read:
            ranked = sorted(read)
            second = f", then {ranked[1][1]} {number(ranked[1][0], 2)}" if len(ranked) > 1 else ""
            nearest = f"{ranked[0][1]} {number(ranked[0][0], 2)}{second}"
            told.append(f"N = {n_text(place.n)}: {nearest} (floor {number(place.floor, 2)})")
    if told:
        yield f"Smallest KL(π_θ‖π_bon), nats, mean over seeds. {'. '.join(told)}."


def _distance(method: ComparedMethod, index: int) -> float | None:
    values = method.values("kl_policy_bon")
    if values is None or index not in method.places():
        return None
    return point(values[:, method.places().index(index)]).value


def _front(metric: str, rows: Sequence[FrontShare]) -> Iterator[str]:
    held = sorted((one for one in rows if one.points), key=lambda one: -one.points)
    if held:
        each = ", ".join(f"{one.method.name} {one.points}" for one in held)
        yield f"Of the {held[0].of} grid points on the front of {metric.replace('_', ' ')} and KL: {each}."


def _ahead(first: str, metric: str, rows: Sequence[Matched]) -> Iterator[str]:
    """Rivals it is ahead of, or behind, beyond the interval: at some KL of best-of-N, and nowhere the other way."""
    for word, sign in (("ahead of", 1), ("behind", -1)):
        names = [
            one.rival.name
            for one in rows
            if any(_beyond(value.low, value.high, sign) for value in one.at_best_of_n)
            and not any(_beyond(value.low, value.high, -sign) for value in one.at_best_of_n)
        ]
        if names:
            rivals = ", ".join(names)
            yield f"At equal KL {first} is {word} {rivals} in {metric.replace('_', ' ')}, by more than chance explains."


def _out_of_time(comparison: Comparison) -> Iterator[str]:
    """Runs that the clock stopped: how far they got depends on the machine."""
    late = [run for method in comparison.methods for run in method.runs.values() if run.get("out_of_time")]
    if late:
        names = ", ".join(dict.fromkeys(str(run["method"]) for run in late))
        yield f"max_seconds stopped {len(late)} of {comparison.num_runs} runs ({names}), on the machine that ran them."


def _beyond(low: float, high: float, sign: int) -> bool:
    return low < high and (low > 0 if sign > 0 else high < 0)
