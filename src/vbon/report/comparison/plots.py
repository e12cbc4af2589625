"""Which figures the page of a comparison has, with their captions."""

from collections.abc import Mapping, Sequence

import numpy as np

from vbon.core.stats import Estimate
from vbon.report import figures as shared
from vbon.report.comparison import figures
from vbon.report.comparison.figures import Guide, Line
from vbon.report.comparison.read import Comparison
from vbon.report.comparison.statistics import (
    KL,
    FrontShare,
    Matched,
    best_of_n_curve,
    judges,
    lines,
    lines_by_n,
    reward_front,
    win_rate_front,
)
from vbon.report.figures import Drawing
from vbon.report.words import number

POINTS = "Large points: mean over seeds, bars 95 % intervals over prompts; small points: each seed."
MARGIN = 1.06


def front_plots(comparison: Comparison) -> list[Drawing]:
    """Win rate and reward against KL, with best-of-n and the best that theory allows."""
    return [_win_rate(comparison), _reward(comparison)]


def distance_plot(comparison: Comparison) -> Drawing | None:
    """KL(π_θ‖π_bon) over N beside its floor."""
    found = lines_by_n(comparison, "kl_policy_bon")
    if not found:
        return None
    floor = [(place.n, place.floor) for place in comparison.places]
    ends = [f"{line.name} {number(line.y[0].value, 2)} to {number(line.y[-1].value, 2)}" for line in found]
    alt = f"KL to best-of-N over N, nats: {'; '.join(ends)}"
    svg = figures.by_n("by-n", found, floor, y_label="KL(π_θ‖π_bon), nats a completion", alt=alt)
    caption = (
        f"Lower is nearer to best-of-N. {POINTS} The dashed line is what the estimate reads at best-of-N itself, where "
        "the truth is 0: a reading cannot be told from a perfect match below it."
    )
    return Drawing("Distance to best-of-N, by N", svg, caption)


def difference_plots(found: Mapping[str, Sequence[Matched]], first: str) -> list[Drawing]:
    """The first method minus each rival over the KLs that both cover, for each metric."""
    drawings = []
    for metric, rows in found.items():
        bands = [one.band for one in rows if one.band.x]
        if bands:
            label = {"win_rate": "Δ win rate", "reward": "Δ reward"}[metric]
            name = label.removeprefix("Δ ")
            alt = f"{first} minus each rival in {name}, over KL: {'; '.join(map(_middle, bands))}"
            svg = figures.differences(f"difference-{metric}", bands, y_label=label, alt=alt)
            caption = (
                f"Above the line {first} is ahead. Linear between grid points, only over KLs that both methods reach; "
                "shaded: 95 % intervals, prompts and seeds resampled together for both."
            )
            drawings.append(Drawing(f"{first} minus each rival at equal KL: {name}", svg, caption))
    return drawings


def front_share_plot(shares: Mapping[str, Sequence[FrontShare]]) -> list[Drawing]:
    """How much of each front every method holds."""
    drawings = []
    for metric, rows in shares.items():
        if rows:
            bars = [(one.method.name, Estimate(*(100 * part for part in one.share)), one.method.series) for one in rows]
            name = metric.replace("_", " ")
            counted = "; ".join(f"{one.method.name} {one.points}" for one in rows)
            alt = f"Points on the front of {name} and KL, {rows[0].of} in all: {counted}"
            svg = shared.bars(f"front-{metric}", bars, floor=None, x_label="% of the points on the front", alt=alt)
            caption = (
                f"A grid point is on the front if no other has at most its KL and at least its {name}. {rows[0].of} "
                "points are. Bars: 95 % intervals over prompts."
            )
            drawings.append(Drawing(f"Share of the front: {name} and KL", svg, caption))
    return drawings


def judge_plots(comparison: Comparison) -> list[Drawing]:
    """Each judge's reward against KL: where it falls while the reward rises, the reward is being exploited."""
    drawings = []
    for place, key in enumerate(judges(comparison)):
        found = lines(comparison, key)
        if found:
            name = key.removeprefix("judge_reward/")
            alt = f"Judge {name} against KL: {_said(found)}"
            guides = _best_of_n(comparison, key)
            svg = figures.plane(f"judge-{place}", found, guides, y_label="judge's mean reward", alt=alt)
            caption = f"A judge that no method was trained on. {POINTS}"
            drawings.append(Drawing(f"Judge {name} against KL", svg, caption))
    return drawings


def speed_plots(comparison: Comparison) -> list[Drawing]:
    """One sample of a trained policy against best-of-n, at a full batch and at batch 1."""
    drawings = []
    for key, title, timings, unit in (
        ("rate", "Speed", comparison.rates, "completions a second"),
        ("latency", "Latency at batch 1", comparison.latencies, "seconds for one prompt"),
    ):
        rows = [(_speed_name(name), Estimate(v, v, v), _speed_series(name)) for name, v in timings.items()]
        if rows:
            alt = f"{title}: {'; '.join(f'{name} {value.value:.3g}' for name, value, _ in rows)} {unit}"
            svg = shared.bars(f"speed-{key}", rows, floor=None, x_label=unit, alt=alt)
            caption = "Measured once, after the runs. Best-of-n draws n and scores them for each completion."
            drawings.append(Drawing(title, svg, caption))
    return drawings


def _win_rate(comparison: Comparison) -> Drawing:
    found = lines(comparison, "win_rate")
    most = _most_kl(found, comparison)
    guides = [
        Guide("best win rate at any KL", *win_rate_front(most), style="-", is_target=False),
        Guide("best-of-n, any n", *shared.best_of_n_curve(most)),
        *_best_of_n(comparison, "win_rate"),
    ]
    alt = f"Win rate against KL: {_said(found)}"
    svg = figures.plane("win-rate", found, guides, y_label="win rate against the reference", alt=alt)
    caption = (
        f"{POINTS} Grey: no policy can win more often at its KL (ranks tilted by e^{{su}}, the optimum of the quantile "
        "reward, continuous rewards). Dashed: best-of-n for every n in theory; stars: exact on the held-out pool."
    )
    return Drawing("Win rate against KL", svg, caption)


def _reward(comparison: Comparison) -> Drawing:
    found = lines(comparison, "reward")
    front = reward_front(comparison.reward_quantiles, _most_kl(found, comparison))
    guides = [
        Guide("best reward at any KL", *front, style="-", is_target=False),
        Guide("best-of-n", *best_of_n_curve(comparison, "reward")),
        *_best_of_n(comparison, "reward"),
    ]
    svg = figures.plane("reward", found, guides, y_label="mean reward", alt=f"Reward against KL: {_said(found)}")
    caption = (
        f"{POINTS} Grey: the optimum of KL-RL, π_ref·exp(r/β)/Z for every β, on the quantiles of the held-out pool's "
        "rewards: no policy can have more reward at its KL. Stars: best-of-N, exact on the held-out pool."
    )
    return Drawing("Reward against KL", svg, caption)


def _best_of_n(comparison: Comparison, metric: str) -> list[Guide]:
    xs, ys = best_of_n_curve(comparison, metric)
    ns = ", ".join(f"{place.n:g}" for place in comparison.places)
    return [Guide(f"best-of-N, N = {ns}", xs, ys, marker="*")] if xs else []


def _most_kl(found: Sequence[Line], comparison: Comparison) -> float:
    seen = [x.high for line in found for x in line.x] + [x for line in found for x, _ in line.seeds]
    return MARGIN * max([*seen, *best_of_n_curve(comparison, KL)[0], 0.1])


def _said(found: Sequence[Line]) -> str:
    return "; ".join(
        f"{line.name} {number(line.y[0].value)} at {number(line.x[0].value, 2)} to {number(line.y[-1].value)} at "
        f"{number(line.x[-1].value, 2)}"
        for line in found
    )


def _middle(band: figures.Band) -> str:
    value = band.y[len(band.y) // 2].value
    return f"{band.name} {number(value) if np.isfinite(value) else 'not known'} halfway"


def _speed_name(name: str) -> str:
    return "one sample of a policy" if name == "policy" else name


def _speed_series(name: str) -> int:
    return 0 if name == "policy" else shared.TARGET_SERIES
