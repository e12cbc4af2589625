"""Statistics of a comparison: means with intervals, differences at matched KL, shares of the front, cost."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vbon.core import fronts, kl_rl, stats
from vbon.core.estimate import Estimate
from vbon.figures.shapes import Line
from vbon.report.read import ComparedMethod, Comparison

Float = NDArray[np.float64]
KL = "kl_policy_ref"
LEVELS = 25
SCALES = 60
MAX_SCALE = 400.0


def point(values: Float) -> Estimate:
    """(S, P) of one grid point: mean over seeds and prompts, interval over prompts. Seeds are too few to resample."""
    return stats.mean(values.mean(0))


def lines(comparison: Comparison, metric: str) -> list[Line]:
    """Every method's grid points in the plane of KL and a metric; methods that lack it are left out."""
    return [line for method in comparison.methods if (line := _line(method, metric)) is not None]


def lines_by_n(comparison: Comparison, metric: str) -> list[Line]:
    """Every method over N."""
    found = []
    for method in comparison.methods:
        values = method.values(metric)
        if values is not None:
            ns = [comparison.places[place].n for place in method.places()]
            seeds = [(n, float(y)) for n, row in zip(ns, values.mean(2).T, strict=True) for y in row]
            found.append(
                Line(method.name, ns, [point(one) for one in _grid(values)], series=method.series, seeds=seeds)
            )
    return found


def best_of_n_curve(comparison: Comparison, metric: str) -> tuple[list[float], list[float]]:
    """Best-of-N at each N of the grid: (KL, metric), exact from the held-out pool."""
    known = [place.target for place in comparison.places if {KL, metric} <= place.target.keys()]
    return [target[KL].value for target in known], [target[metric].value for target in known]


def win_rate_front(max_kl: float) -> tuple[list[float], list[float]]:
    """The highest win rate at each KL up to `max_kl`, continuous rewards (core.kl_rl.win_rate_frontier)."""
    points = [kl_rl.win_rate_frontier(scale) for scale in [0.0, *np.geomspace(0.05, MAX_SCALE, 4 * SCALES)]]
    kept = [one for one in points if one.kl <= max_kl]
    return [one.kl for one in kept], [one.win_rate for one in kept]


def reward_front(quantiles: Sequence[Float], max_kl: float) -> tuple[list[float], list[float]]:
    """The highest mean reward at each mean KL up to `max_kl`: π_ref·exp(r/β)/Z on each prompt's reward quantiles."""
    spread = max((float(np.ptp(one)) for one in quantiles), default=0.0)
    if not spread > 0:
        return [], []
    points = [_tilt(quantiles, float(beta)) for beta in spread * np.geomspace(100, 0.005, SCALES)]
    kept = [one for one in points if one[0] <= max_kl]
    return [kl for kl, _ in kept], [reward for _, reward in kept]


def _tilt(quantiles: Sequence[Float], beta: float) -> tuple[float, float]:
    weights = [kl_rl.tilted_weights(one, beta) for one in quantiles]
    rewards = [float(weight @ one) for weight, one in zip(weights, quantiles, strict=True)]
    return float(np.mean([kl_rl.kl_of_samples_tilt(one, beta) for one in quantiles])), float(np.mean(rewards))


class Matched(NamedTuple):
    """First method minus a rival at equal KL: at best-of-N's own KL for each N, and along the KLs both cover."""

    rival: ComparedMethod
    at_best_of_n: Sequence[Estimate]
    along: Line
    per_seed: Sequence[Sequence[float]]
    """The same at best-of-N's KLs, each seed by itself; nan outside its curves."""


def matched(comparison: Comparison, metric: str) -> list[Matched]:
    """The first method against each other one, paired by prompt and seed."""
    first, *rivals = comparison.methods
    found = (_matched(first, rival, metric, comparison) for rival in rivals)
    return [one for one in found if one is not None]


def _matched(first: ComparedMethod, rival: ComparedMethod, metric: str, comparison: Comparison) -> Matched | None:
    mine, theirs = _curves(first, metric), _curves(rival, metric)
    if mine is None or theirs is None or mine[0].shape[0] != theirs[0].shape[0]:
        return None
    levels = best_of_n_curve(comparison, KL)[0]
    low = max(float(kl.mean((0, 2)).min()) for kl, _ in (mine, theirs))
    high = min(float(kl.mean((0, 2)).max()) for kl, _ in (mine, theirs))
    along = np.linspace(low, high, LEVELS) if low < high else np.array([])
    both = fronts.difference_at([*levels, *along], *mine, *theirs)
    seeds = range(mine[0].shape[0])
    return Matched(
        rival,
        both[: len(levels)],
        _band(rival, along.tolist(), both[len(levels) :]),
        [_one_seed(levels, mine, theirs, s) for s in seeds],
    )


def _band(rival: ComparedMethod, kls: Sequence[float], values: Sequence[Estimate]) -> Line:
    means, low, high = ([getattr(value, part) for value in values] for part in ("value", "low", "high"))
    return Line(rival.name, kls, means, low, high, series=rival.series)


def _one_seed(levels: Sequence[float], mine: tuple[Float, Float], theirs: tuple[Float, Float], s: int) -> list[float]:
    curves = [stats.interpolate(kl[s].mean(1), gain[s].mean(1), levels) for kl, gain in (mine, theirs)]
    return [float(value) for value in curves[0] - curves[1]]


def _curves(method: ComparedMethod, metric: str) -> tuple[Float, Float] | None:
    kl, values = method.values(KL), method.values(metric)
    return None if kl is None or values is None else (kl, values)


class FrontShare(NamedTuple):
    """Of the points on the front, how many are a method's; `share` with its interval over prompts."""

    method: ComparedMethod
    points: int
    of: int
    share: Estimate


def front_shares(comparison: Comparison, metric: str) -> list[FrontShare]:
    """The Pareto front of all methods' grid points, means over seeds: least KL, highest metric."""
    known = [(m, curves) for m in comparison.methods if (curves := _curves(m, metric)) is not None]
    if not known:
        return []
    owner = np.concatenate([np.full(kl.shape[1], i) for i, (_, (kl, _)) in enumerate(known)])
    kl = np.concatenate([kl.mean(0) for _, (kl, _) in known])
    gain = np.concatenate([values.mean(0) for _, (_, values) in known])
    front = fronts.pareto_front(kl.mean(1), gain.mean(1))
    counts = _owned(front, owner, len(known))
    rng = np.random.default_rng(0)
    rows = rng.integers(0, kl.shape[1], (stats.BOOTSTRAP_RESAMPLES, kl.shape[1]))
    drawn = [fronts.pareto_front(kl[:, row].mean(1), gain[:, row].mean(1)) for row in rows]
    shares = np.array([_owned(one, owner, len(known)) / one.sum() for one in drawn])
    low, high = np.quantile(shares, [0.025, 0.975], axis=0)
    return [
        FrontShare(method, int(counts[i]), int(front.sum()), Estimate(counts[i] / front.sum(), low[i], high[i]))
        for i, (method, _) in enumerate(known)
    ]


def _owned(front: NDArray[np.bool_], owner: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    return np.bincount(owner[front], minlength=count)


class CostRow(NamedTuple):
    """One method at one N: medians over seeds of what the whole run cost, and of what it took to be nearly there."""

    method: ComparedMethod
    n: float
    rollouts: float
    offline_steps: float
    seconds: float | None
    reached: int
    seeds: int
    nearly_rollouts: float | None
    nearly_offline_steps: float | None
    nearly_seconds: float | None


def costs(comparison: Comparison) -> list[CostRow]:
    """Every method at every N where all of its runs are done."""
    return [_cost(method, place, comparison) for method in comparison.methods for place in method.places()]


def _cost(method: ComparedMethod, place: int, comparison: Comparison) -> CostRow:
    runs = [run for (at, _), run in method.runs.items() if at == place]
    near = [run["cost_nearly"] for run in runs if run["cost_nearly"] is not None]
    # A method is nearly there at some cost only if most of its seeds are.
    there = near if 2 * len(near) > len(runs) else []
    seconds = [comparison.seconds.get(run["name"], {}) for run in runs]
    nearly = [one["nearly"] for one in seconds if one.get("nearly") is not None]
    return CostRow(
        method,
        comparison.places[place].n,
        _median([run["cost"]["rollouts"] for run in runs]) or 0.0,
        _median([run["cost"]["offline_steps"] for run in runs]) or 0.0,
        _median([one["total"] for one in seconds if "total" in one]),
        len(near),
        len(runs),
        _median([one["rollouts"] for one in there]),
        _median([one["offline_steps"] for one in there]),
        _median(nearly) if there else None,
    )


def _median(values: Sequence[float]) -> float | None:
    return float(np.median(values)) if values else None


def _line(method: ComparedMethod, metric: str) -> Line | None:
    curves = _curves(method, metric)
    if curves is None:
        return None
    kl, values = curves
    seeds = list(zip(kl.mean(2).ravel().tolist(), values.mean(2).ravel().tolist(), strict=True))
    x, y = ([point(one) for one in _grid(curve)] for curve in curves)
    return Line(method.name, x, y, series=method.series, seeds=seeds)


def _grid(values: Float) -> Iterator[Float]:
    """(S, P) of each grid point."""
    return iter(np.moveaxis(values, 1, 0))


def judges(comparison: Comparison) -> list[str]:
    """Metric keys of the judges, in the order of the evaluation."""
    return [f"judge_reward/{name}" for name in comparison.shape.get("judges") or []]
