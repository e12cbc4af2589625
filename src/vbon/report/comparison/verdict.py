"""What a comparison says in plain words: who is nearest to best-of-N at each N, who holds the fronts, who is ahead."""

from collections.abc import Iterator, Mapping, Sequence

from vbon.report.comparison.read import ComparedMethod, Comparison
from vbon.report.comparison.statistics import FrontShare, Matched, point
from vbon.report.words import n_text, number

NAMES = {"win_rate": "win rate", "reward": "reward"}


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
        yield f"Of the {held[0].of} grid points on the front of {NAMES[metric]} and KL: {each}."


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
            yield f"At equal KL {first} is {word} {', '.join(names)} in {NAMES[metric]}, by more than chance explains."


def _out_of_time(comparison: Comparison) -> Iterator[str]:
    """Runs that the clock stopped: how far they got depends on the machine."""
    late = [run for method in comparison.methods for run in method.runs.values() if run.get("out_of_time")]
    if late:
        names = ", ".join(dict.fromkeys(str(run["method"]) for run in late))
        yield f"max_seconds stopped {len(late)} of {comparison.num_runs} runs ({names}), on the machine that ran them."


def _beyond(low: float, high: float, sign: int) -> bool:
    return low < high and (low > 0 if sign > 0 else high < 0)
