"""Figures of a page: from runs and evaluations to drawings with captions."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vbon.artifacts.evaluation import Evaluation, Metrics
from vbon.artifacts.json_files import is_number
from vbon.core import best_of_n
from vbon.core.estimate import Estimate
from vbon.figures.shapes import REFERENCE_SERIES, TARGET_SERIES, Line, Panel, highest, value_of
from vbon.figures.svg import draw_bars, draw_panels
from vbon.report.captions import LATENCY_CAPTION, SPEED_CAPTION, TRAINING
from vbon.report.read import Run
from vbon.report.words import n_text, number

VALIDATION = "validation/"
PROMPTS_SHOWN = 4


class Drawing(NamedTuple):
    """One figure of the page: what it shows in words, its SVG, and the caption under it."""

    title: str
    svg: str
    caption: str


def best_of_n_curve(max_kl: float) -> tuple[list[float], list[float]]:
    """Return the theoretical curve of best-of-n, n real, up to `max_kl`, for continuous rewards.

    It is (log n − (n−1)/n, n/(n+1)).
    """
    ns = np.geomspace(1.0, best_of_n.n_from_kl(max_kl), 80)
    return [best_of_n.kl_from_reference(float(n)) for n in ns], [best_of_n.win_rate(float(n)) for n in ns]


def against_kl(
    key: str,
    lines: Sequence[Line],
    *,
    y_label: str,
    alt: str,
    size: tuple[float, float] = (5.4, 3.7),
    legend: str = "lower right",
) -> str:
    """Draw lines in the plane of KL(π_θ‖π_ref) and `y_label`.

    Args:
        key: The figure's name, with which its ids begin.
        lines: Policies with their intervals, and what stands beside them.
        y_label: Of the vertical axis.
        alt: The figure in words.
        size: Width and height in inches.
        legend: A matplotlib location.

    Returns:
        The SVG element.
    """
    panel = Panel("", "KL(π_θ‖π_ref), nats per completion", y_label, lines, x_log=False, y_log=False)
    return draw_panels(key, [panel], alt=alt, size=size, legend=legend)


def evaluation_plots(evaluation: Evaluation, key: str) -> list[Drawing]:
    """Reward and win rate against KL, and the distance to best-of-N, as far as they were measured."""
    plots = [
        _win_rate_plot(evaluation, f"{key}-win"),
        _reward_plot(evaluation, f"{key}-reward"),
        _distance_plot(evaluation, f"{key}-distance"),
        _best_of_k_plot(evaluation, f"{key}-best-of-k"),
        _cdf_plot(evaluation, f"{key}-cdf"),
        *_timing_plots(evaluation, key),
    ]
    return [plot for plot in plots if plot is not None]


def training_plots(runs: Sequence[Run], key: str) -> list[Drawing]:
    """One figure a metric, all runs in it: rollouts as lines, validation prompts dashed."""
    drawings = []
    for metric, (title, label, caption) in TRAINING.items():
        lines = list(_lines(runs, metric))
        if lines:
            alt = f"{title} over training iterations: {'; '.join(map(_ends, lines))}"
            panel = Panel("", "iteration", label, lines, x_log=False, y_log=False, level=_level(runs, metric))
            svg = draw_panels(f"{key}-{metric}", [panel], alt=alt, size=(4.4, 2.8), legend=_legend(panel))
            drawings.append(Drawing(title, svg, caption))
    return drawings


def _win_rate_plot(evaluation: Evaluation, key: str) -> Drawing | None:
    points = list(_points(evaluation, "win_rate"))
    if not points:
        return None
    most = max(highest(point.x) for point in points)
    theory = best_of_n_curve(1.08 * max(most, _target_kl(evaluation), 0.1))
    lines = [Line("best-of-n, any n", *theory, style="--", series=TARGET_SERIES), *_targets(evaluation, "win_rate")]
    alt = _alt("Win rate", points, evaluation, "win_rate")
    svg = against_kl(key, [*lines, *points], y_label="win rate against the reference", alt=alt)
    caption = (
        "To the right: further from the reference. Upwards: more wins against it. The dashed curve is best-of-n for "
        "every n, if rewards do not tie. A policy below the curve has moved further than best-of-n for the same win "
        "rate. Bars: 95 % intervals over prompts."
    )
    return Drawing("Win rate against KL", svg, caption)


def _reward_plot(evaluation: Evaluation, key: str) -> Drawing | None:
    points = list(_points(evaluation, "reward"))
    if not points:
        return None
    alt = _alt("Reward", points, evaluation, "reward")
    svg = against_kl(key, [*_targets(evaluation, "reward"), *points], y_label="mean reward", alt=alt)
    caption = (
        "Mean reward against the distance from the reference. The star is best-of-N of the reference, predicted from "
        "the pool; a policy that matches best-of-N lies on it. Bars: 95 % intervals over prompts."
    )
    return Drawing("Reward against KL", svg, caption)


def _distance_plot(evaluation: Evaluation, key: str) -> Drawing | None:
    rows = [
        (name, metrics["kl_policy_bon"], series)
        for series, name, metrics in _numbered(evaluation)
        if "kl_policy_bon" in metrics
    ]
    if not rows:
        return None
    said = "; ".join(f"{name} {number(value.value, 2)} nats" for name, value, _ in rows)
    floor = evaluation.kl_policy_bon_floor
    alt, x_label = f"Distance to best-of-N: {said}", "KL(π_θ‖π_bon), nats per completion"
    svg = draw_bars(key, rows, floor=floor, x_label=x_label, alt=alt)
    caption = (
        "How far each policy is from best-of-N; shorter is better. The dashed line is the estimate for a perfect "
        "policy, which is above 0 because the pool is finite."
    )
    return Drawing("Distance to best-of-N", svg, caption)


def _timing_plots(evaluation: Evaluation, key: str) -> Iterable[Drawing]:
    for name, title, timings, unit, text, caption in (
        (
            "speed",
            "Speed",
            evaluation.throughput,
            "completions per second",
            "{:,.0f} completions per second",
            SPEED_CAPTION,
        ),
        ("latency", "Latency at batch 1", evaluation.latency, "seconds for one prompt", "{:.3g} s", LATENCY_CAPTION),
    ):
        rows = _timings(evaluation, timings)
        if rows:
            said = "; ".join(f"{label} {text.format(value.value)}" for label, value, _ in rows)
            svg = draw_bars(f"{key}-{name}", rows, x_label=unit, alt=f"{title}: {said}")
            yield Drawing(title, svg, caption)


def _timings(evaluation: Evaluation, timings: Mapping[str, float]) -> list[tuple[str, Estimate, int]]:
    order = [(name, name, series) for series, name, _ in _numbered(evaluation)]
    order.append(("best-of-n", f"best-of-{n_text(evaluation.n)}", TARGET_SERIES))
    return [(label, Estimate(*[timings[name]] * 3), series) for name, label, series in order if name in timings]


def _best_of_k_plot(evaluation: Evaluation, key: str) -> Drawing | None:
    lines = []
    for series, name, _ in _numbered(evaluation):
        points = [
            (k, metrics["win_rate"].value) for k, metrics in evaluation.best_of_k.get(name, ()) if "win_rate" in metrics
        ]
        if len(points) > 1:
            ks, wins = zip(*points, strict=True)
            style, marker = ("--", "o") if series == REFERENCE_SERIES else ("-", "")
            lines.append(Line(name, ks, wins, style=style, series=series, marker=marker))
    if not lines:
        return None
    target = evaluation.target.get("win_rate")
    level = None if target is None else (f"best-of-{n_text(evaluation.n)} of the reference", target.value)
    alt = f"Win rate of the best of k samples, k from 1: {'; '.join(map(_ends, lines))}"
    panel = Panel("", "k, samples to choose from", "win rate", lines, x_log=False, y_log=False, level=level)
    svg = draw_panels(key, [panel], alt=alt, size=(4.4, 2.8), legend=_legend(panel))
    caption = (
        "The win rate if the best of k samples is taken from each policy in turn. A line that rises shows variety that "
        "is left; a flat line is a policy that always writes the same."
    )
    return Drawing("Best of k of each policy", svg, caption)


def _cdf_plot(evaluation: Evaluation, key: str) -> Drawing | None:
    shown = [row for row in evaluation.reward_cdfs if _are_quantiles(row.get("reward_quantiles"))][:PROMPTS_SHOWN]
    if not shown:
        return None
    panels = [
        reward_cdf(f"prompt {place}", row["reward_quantiles"], _marks(evaluation, row.get("prompt_id")), evaluation.n)
        for place, row in enumerate(shown, 1)
    ]
    alt = f"Reward CDF of the reference and of best-of-{n_text(evaluation.n)}: {'; '.join(map(_heights, panels))}"
    size = (5.4, 0.6 + 1.9 * -(-len(panels) // 2))
    svg = draw_panels(key, panels, alt=alt, size=size, columns=2, legend="outside lower center")
    # Prompts are named here and not in the figure: its font may lack their letters.
    prompts = "; ".join(f"{place} “{row.get('prompt')!s:.60}”" for place, row in enumerate(shown, 1))
    caption = (
        "For each reward, the share of samples that do not exceed it: of the reference (solid) and of best-of-N "
        "(dashed). Points are samples of the policies, at the share of the reference's samples that they beat; like "
        f"best-of-N's, most should lie near the top of the solid line. Prompts: {prompts}."
    )
    return Drawing("Ranks of rewards for a few prompts", svg, caption)


def reward_cdf(title: str, rewards: Sequence[float], marks: Sequence[Line], n: float) -> Panel:
    """Panel of F of the reference and F^n of best-of-n, as staircases.

    Args:
        title: Of the panel.
        rewards: The reference's rewards at evenly spaced shares from 0 to 1.
        marks: Samples of the policies, at their reward and win rate.
        n: N of best-of-N.

    Returns:
        The panel.
    """
    share, x = np.linspace(0.0, 1.0, len(rewards)), np.repeat(rewards, 2)[1:].tolist()
    stairs = [np.repeat(share**power, 2)[:-1].tolist() for power in (1.0, n)]
    lines = [
        Line("F, the reference", x, stairs[0], series=REFERENCE_SERIES),
        Line(f"F^{n:g}, best-of-{n:g}", x, stairs[1], style="--", series=TARGET_SERIES),
    ]
    return Panel(title, "reward", "", [*lines, *marks], x_log=False, y_log=False)


def _marks(evaluation: Evaluation, prompt_id: Any) -> list[Line]:
    marks = []
    for series, name in enumerate(evaluation.policies):
        rows = [row for row in evaluation.samples if (row.get("policy"), row.get("prompt_id")) == (name, prompt_id)]
        points = [(row.get("reward"), row.get("win_rate")) for row in rows]
        known = [(x, y) for x, y in points if is_number(x) and is_number(y)]
        marks.append(Line(name, [x for x, _ in known], [y for _, y in known], style="none", series=series))
    return marks


def _heights(panel: Panel) -> str:
    said = [f"{mark.name} at {', '.join(number(value_of(y), 2) for y in mark.y)}" for mark in panel.lines[2:] if mark.y]
    return f"{panel.title}, samples of {' and of '.join(said)}" if said else panel.title


def _are_quantiles(values: Any) -> bool:
    return isinstance(values, list) and len(values) > 1 and all(map(is_number, values))


def _numbered(evaluation: Evaluation) -> Iterable[tuple[int, str, Metrics]]:
    """(series, name, metrics) of every policy, the reference last."""
    for series, (name, metrics) in enumerate(evaluation.policies.items()):
        yield series, name, metrics
    yield REFERENCE_SERIES, "reference", evaluation.reference


def _points(evaluation: Evaluation, metric: str) -> Iterable[Line]:
    for series, name, metrics in _numbered(evaluation):
        if metric in metrics and "kl_policy_ref" in metrics:
            yield Line(name, [metrics["kl_policy_ref"]], [metrics[metric]], style="none", series=series)


def _targets(evaluation: Evaluation, metric: str) -> list[Line]:
    target = evaluation.target
    if not {"kl_policy_ref", metric} <= target.keys():
        return []
    x, y = target["kl_policy_ref"].value, target[metric].value
    return [Line(f"best-of-{n_text(evaluation.n)}", [x], [y], style="none", series=TARGET_SERIES, marker="*")]


def _target_kl(evaluation: Evaluation) -> float:
    return evaluation.target["kl_policy_ref"].value if "kl_policy_ref" in evaluation.target else 0.0


def _alt(what: str, points: Sequence[Line], evaluation: Evaluation, metric: str) -> str:
    targets = _targets(evaluation, metric)
    said = [f"{point.name} {number(value_of(point.y[0]))} at KL {number(value_of(point.x[0]), 2)}" for point in points]
    said += [f"{one.name} {number(value_of(one.y[0]))} at KL {number(value_of(one.x[0]), 2)}" for one in targets]
    return f"{what} against KL to the reference: {'; '.join(said)}"


def _lines(runs: Sequence[Run], metric: str) -> Iterable[Line]:
    for series, run in enumerate(runs):
        for prefix, name in (("", run.name), (VALIDATION, f"{run.name}, validation")):
            rows = [row for row in run.history if _is_value(row.get(prefix + metric))]
            if rows:
                x, y = [row["iteration"] for row in rows], [row[prefix + metric] for row in rows]
                style, marker = ("--", "o") if prefix else ("-", "")
                yield Line(name, x, y, style=style, series=series, marker=marker)


def _level(runs: Sequence[Run], metric: str) -> tuple[str, float] | None:
    """Where best-of-N stands, where all runs aim at one N."""
    ns = {run.record.get("n") for run in runs}
    n: Any = ns.pop() if len(ns) == 1 else None
    if not _is_value(n) or n <= 1:
        return None
    heights = {"kl_policy_ref": best_of_n.kl_from_reference(n), "win_rate": best_of_n.win_rate(n), "kl_policy_bon": 0.0}
    return (f"best-of-{n_text(n)}", heights[metric]) if metric in heights else None


def _legend(panel: Panel) -> str:
    """A figure's one line needs no legend."""
    return "best" if len(panel.lines) > 1 or panel.level is not None else "none"


def _ends(line: Line) -> str:
    return f"{line.name} from {number(value_of(line.y[0]))} to {number(value_of(line.y[-1]))}"


def _is_value(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
