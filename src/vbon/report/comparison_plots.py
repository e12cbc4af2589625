"""Figures of the page of a comparison, with their captions."""

from collections.abc import Mapping, Sequence

import numpy as np

from vbon.core.estimate import Estimate
from vbon.figures.shapes import REFERENCE_SERIES, TARGET_SERIES, Line, Panel, highest, value_of
from vbon.figures.svg import draw_bars, draw_panels
from vbon.report.plots import Drawing, against_kl
from vbon.report.plots import best_of_n_curve as theory
from vbon.report.read import Comparison
from vbon.report.statistics import (
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
from vbon.report.words import number

POINTS = "Large points: mean over seeds, bars 95 % intervals over prompts; small points: each seed."
MARGIN = 1.06
LARGE = (7.4, 4.6)
LEGEND = "outside right upper"
SPREAD = 0.035
"""Methods at one N stand apart by this share of an octave, so that their bars do not cover each other."""


def front_plots(comparison: Comparison) -> list[Drawing]:
    """Win rate and reward against KL, with best-of-n and the best that theory allows."""
    return [_win_rate(comparison), _reward(comparison)]


def distance_plot(comparison: Comparison) -> Drawing | None:
    """KL(π_θ‖π_bon) over N beside its floor."""
    found = lines_by_n(comparison, "kl_policy_bon")
    if not found:
        return None
    ns, floors = zip(*((place.n, place.floor) for place in comparison.places), strict=True)
    floor = Line("best-of-N itself (floor)", ns, floors, style="--", series=TARGET_SERIES)
    ends = [f"{line.name} {number(value_of(line.y[0]), 2)} to {number(value_of(line.y[-1]), 2)}" for line in found]
    alt = f"KL to best-of-N over N, nats: {'; '.join(ends)}"
    panel = Panel("", "N", "KL(π_θ‖π_bon), nats per completion", [floor, *_apart(found)])
    svg = draw_panels("by-n", [panel], alt=alt, size=LARGE, legend=LEGEND)
    caption = (
        f"Lower is nearer to best-of-N. {POINTS} The dashed line is the estimate for best-of-N itself, "
        "above 0 because the pool is finite: a value near it cannot be distinguished from a perfect match."
    )
    return Drawing("Distance to best-of-N, by N", svg, caption)


def difference_plots(found: Mapping[str, Sequence[Matched]], first: str) -> list[Drawing]:
    """The first method minus each rival over the KLs that both cover, for each metric."""
    drawings = []
    for metric, rows in found.items():
        bands = [one.along for one in rows if one.along.x]
        if bands:
            label = {"win_rate": "Δ win rate", "reward": "Δ reward"}[metric]
            name = label.removeprefix("Δ ")
            alt = f"{first} minus each rival in {name}, over KL: {'; '.join(map(_middle, bands))}"
            svg = _differences(f"difference-{metric}", bands, label, alt)
            caption = (
                f"Above the line {first} is ahead. Linear between grid points, only over KLs that both methods reach; "
                "shaded: 95 % intervals, prompts and seeds resampled together for both."
            )
            drawings.append(Drawing(f"{first} minus each rival at equal KL: {name}", svg, caption))
    return drawings


def front_share_plot(shares: Mapping[str, Sequence[FrontShare]]) -> list[Drawing]:
    """Share of each front that every method holds."""
    drawings = []
    for metric, rows in shares.items():
        if rows:
            bars = [(one.method.name, Estimate(*(100 * part for part in one.share)), one.method.series) for one in rows]
            name = metric.replace("_", " ")
            counted = "; ".join(f"{one.method.name} {one.points}" for one in rows)
            alt = f"Points on the front of {name} and KL, {rows[0].of} in all: {counted}"
            svg = draw_bars(f"front-{metric}", bars, x_label="% of the points on the front", alt=alt)
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
            svg = _plane(f"judge-{place}", [*guides, *found], "judge's mean reward", alt)
            caption = f"A judge that no method was trained on. {POINTS}"
            drawings.append(Drawing(f"Judge {name} against KL", svg, caption))
    return drawings


def speed_plots(comparison: Comparison) -> list[Drawing]:
    """One sample of a trained policy against best-of-n, at a full batch and at batch 1."""
    drawings = []
    for key, title, timings, unit in (
        ("rate", "Speed", comparison.rates, "completions per second"),
        ("latency", "Latency at batch 1", comparison.latencies, "seconds for one prompt"),
    ):
        rows = [(_speed_name(name), Estimate(v, v, v), _speed_series(name)) for name, v in timings.items()]
        if rows:
            alt = f"{title}: {'; '.join(f'{name} {value.value:.3g}' for name, value, _ in rows)} {unit}"
            svg = draw_bars(f"speed-{key}", rows, x_label=unit, alt=alt)
            caption = "Measured once, after the runs. Best-of-n draws n and scores them for each completion."
            drawings.append(Drawing(title, svg, caption))
    return drawings


def _win_rate(comparison: Comparison) -> Drawing:
    found = lines(comparison, "win_rate")
    most = _most_kl(found, comparison)
    guides = [
        Line("best win rate at any KL", *win_rate_front(most), series=REFERENCE_SERIES),
        Line("best-of-n, any n", *theory(most), style="--", series=TARGET_SERIES),
        *_best_of_n(comparison, "win_rate"),
    ]
    alt = f"Win rate against KL: {_said(found)}"
    svg = _plane("win-rate", [*guides, *found], "win rate against the reference", alt)
    caption = (
        f"{POINTS} Grey: no policy can win more often at its KL (ranks tilted by e^{{su}}, the optimum of the quantile "
        "reward, continuous rewards). Dashed: best-of-n for every n in theory; stars: exact on the held-out pool."
    )
    return Drawing("Win rate against KL", svg, caption)


def _reward(comparison: Comparison) -> Drawing:
    found = lines(comparison, "reward")
    front = reward_front(comparison.reward_quantiles, _most_kl(found, comparison))
    guides = [
        Line("best reward at any KL", *front, series=REFERENCE_SERIES),
        Line("best-of-n", *best_of_n_curve(comparison, "reward"), style="--", series=TARGET_SERIES),
        *_best_of_n(comparison, "reward"),
    ]
    svg = _plane("reward", [*guides, *found], "mean reward", f"Reward against KL: {_said(found)}")
    caption = (
        f"{POINTS} Grey: the optimum of KL-RL, π_ref·exp(r/β)/Z for every β, on the quantiles of the held-out pool's "
        "rewards: no policy can have more reward at its KL. Stars: best-of-N, exact on the held-out pool."
    )
    return Drawing("Reward against KL", svg, caption)


def _plane(key: str, lines: Sequence[Line], y_label: str, alt: str) -> str:
    return against_kl(key, lines, y_label=y_label, alt=alt, size=LARGE, legend=LEGEND)


def _apart(lines: Sequence[Line]) -> list[Line]:
    """The lines side by side, where all have their points at the same N."""
    shifts = [2.0 ** (SPREAD * (place - (len(lines) - 1) / 2)) for place in range(len(lines))]
    return [
        line._replace(x=[value_of(x) * shift for x in line.x], seeds=[(x * shift, y) for x, y in line.seeds])
        for line, shift in zip(lines, shifts, strict=True)
    ]


def _differences(key: str, bands: Sequence[Line], y_label: str, alt: str) -> str:
    """A small plot for each rival, all to one scale; above the line the first method is ahead."""
    panels = [
        Panel(f"− {band.name}", "KL(π_θ‖π_ref), nats", y_label, [band], x_log=False, y_log=False, level=("", 0.0))
        for band in bands
    ]
    columns = min(2, len(bands))
    size = (7.4, 0.3 + 2.1 * -(-len(bands) // columns))
    return draw_panels(key, panels, alt=alt, size=size, columns=columns, legend="none", share_y=True)


def _best_of_n(comparison: Comparison, metric: str) -> list[Line]:
    xs, ys = best_of_n_curve(comparison, metric)
    ns = ", ".join(f"{place.n:g}" for place in comparison.places)
    return [Line(f"best-of-N, N = {ns}", xs, ys, style="none", series=TARGET_SERIES, marker="*")] if xs else []


def _most_kl(found: Sequence[Line], comparison: Comparison) -> float:
    seen = [highest(line.x) for line in found] + [x for line in found for x, _ in line.seeds]
    return MARGIN * max([*seen, *best_of_n_curve(comparison, KL)[0], 0.1])


def _said(found: Sequence[Line]) -> str:
    return "; ".join(f"{line.name} {_place(line, 0)} to {_place(line, -1)}" for line in found)


def _place(line: Line, index: int) -> str:
    return f"{number(value_of(line.y[index]))} at {number(value_of(line.x[index]), 2)}"


def _middle(band: Line) -> str:
    value = value_of(band.y[len(band.y) // 2])
    return f"{band.name} {number(value) if np.isfinite(value) else 'not known'} halfway"


def _speed_name(name: str) -> str:
    return "one sample of a policy" if name == "policy" else name


def _speed_series(name: str) -> int:
    return 0 if name == "policy" else TARGET_SERIES
