"""Which figures a page has: from runs and evaluations to drawings with captions."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vbon.artifacts.evaluation import Evaluation, Metrics
from vbon.artifacts.json_files import is_number
from vbon.core.stats import Estimate
from vbon.report import figures
from vbon.report.figures import Curve, Drawing, Panel, Point
from vbon.report.read import Run
from vbon.report.words import n_text, number

# metric → (title, axis label, whether validation lines are drawn as well)
TRAINING = {
    "sequence_reward": ("Sequence reward ρ", "ρ = log W/(N−1)"),
    "kl_policy_ref": ("KL to the reference", "KL(π_θ‖π_ref), nats"),
    "kl_policy_bon": ("KL to best-of-N", "KL(π_θ‖π_bon), nats"),
    "win_rate": ("Win rate", "win rate"),
    "entropy": ("Entropy", "nats a completion"),
}
VALIDATION = "validation/"
PROMPTS_SHOWN = 4


def evaluation_plots(evaluation: Evaluation, key: str) -> list[Drawing]:
    """Reward and win rate against KL, and the distance to best-of-N, as far as they were measured."""
    plots = [
        _win_rate_plot(evaluation, f"{key}-win"),
        _reward_plot(evaluation, f"{key}-reward"),
        _distance_plot(evaluation, f"{key}-distance"),
        _best_of_k_plot(evaluation, f"{key}-best-of-k"),
        _cdf_plot(evaluation, f"{key}-cdf"),
        _speed_plot(evaluation, f"{key}-speed"),
        _latency_plot(evaluation, f"{key}-latency"),
    ]
    return [plot for plot in plots if plot is not None]


def training_plots(runs: Sequence[Run], key: str) -> list[Drawing]:
    """One figure a metric, all runs in it: rollouts as lines, validation prompts dashed."""
    drawings = []
    for metric, (title, label) in TRAINING.items():
        lines = list(_lines(runs, metric))
        if lines:
            alt = f"{title} over training iterations: {'; '.join(map(_ends, lines))}"
            svg = figures.curves(f"{key}-{metric}", lines, y_label=label, alt=alt, level=_level(runs, metric))
            drawings.append(Drawing(title, svg, alt))
    return drawings


def _win_rate_plot(evaluation: Evaluation, key: str) -> Drawing | None:
    points = list(_points(evaluation, "win_rate"))
    if not points:
        return None
    most = max(point.x.high for point in points)
    curve = figures.best_of_n_curve(1.08 * max(most, _target_kl(evaluation), 0.1))
    svg = figures.against_kl(
        key,
        points,
        y_label="win rate against the reference",
        alt=_alt("Win rate", points, evaluation, "win_rate"),
        curve=curve,
        targets=_targets(evaluation, "win_rate"),
    )
    caption = (
        "Dashed: best-of-n for every n, (log n − (n−1)/n, n/(n+1)), where rewards do not tie. A policy below the curve "
        "pays more KL than best-of-n does for the same win rate. Bars: 95 % intervals over prompts."
    )
    return Drawing("Win rate against KL", svg, caption)


def _reward_plot(evaluation: Evaluation, key: str) -> Drawing | None:
    points = list(_points(evaluation, "reward"))
    if not points:
        return None
    alt = _alt("Reward", points, evaluation, "reward")
    targets = _targets(evaluation, "reward")
    svg = figures.against_kl(key, points, y_label="mean reward", alt=alt, targets=targets)
    caption = "The star is best-of-N of the reference, predicted from the pool without bias."
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
    svg = figures.bars(
        key, rows, floor=floor, x_label="KL(π_θ‖π_bon), nats a completion", alt=f"Distance to best-of-N: {said}"
    )
    caption = "Shorter is better. The dashed line is what the estimate reads at best-of-N itself, for this pool's M."
    return Drawing("Distance to best-of-N", svg, caption)


def _speed_plot(evaluation: Evaluation, key: str) -> Drawing | None:
    rows = _timings(evaluation, evaluation.throughput)
    if not rows:
        return None
    said = "; ".join(f"{label} {number(rate.value, 0)} completions a second" for label, rate, _ in rows)
    svg = figures.bars(key, rows, floor=None, x_label="completions a second", alt=f"Speed: {said}")
    caption = "Measured within the evaluation, at saturated batch; best-of-N draws N and scores them for each one."
    return Drawing("Speed", svg, caption)


def _latency_plot(evaluation: Evaluation, key: str) -> Drawing | None:
    rows = _timings(evaluation, evaluation.latency)
    if not rows:
        return None
    said = "; ".join(f"{label} {value.value:.3g} s" for label, value, _ in rows)
    svg = figures.bars(key, rows, floor=None, x_label="seconds for one prompt", alt=f"Latency at batch 1: {said}")
    caption = "One prompt at a time: shorter is better. Best-of-N draws its N together, as one batch, and scores them."
    return Drawing("Latency at batch 1", svg, caption)


def _timings(evaluation: Evaluation, timings: Mapping[str, float]) -> list[tuple[str, Estimate, int]]:
    order = [(name, name, series) for series, name, _ in _numbered(evaluation)]
    order.append(("best-of-n", f"best-of-{n_text(evaluation.n)}", figures.TARGET_SERIES))
    return [(label, Estimate(*[timings[name]] * 3), series) for name, label, series in order if name in timings]


def _best_of_k_plot(evaluation: Evaluation, key: str) -> Drawing | None:
    lines = []
    for series, name, _ in _numbered(evaluation):
        points = [
            (k, metrics["win_rate"].value) for k, metrics in evaluation.best_of_k.get(name, ()) if "win_rate" in metrics
        ]
        if len(points) > 1:
            ks, wins = zip(*points, strict=True)
            lines.append(Curve(name, ks, wins, series, dashed=series == figures.REFERENCE_SERIES))
    if not lines:
        return None
    target = evaluation.target.get("win_rate")
    level = None if target is None else (f"best-of-{n_text(evaluation.n)} of the reference", target.value)
    alt = f"Win rate of the best of k samples, k from 1: {'; '.join(map(_ends, lines))}"
    svg = figures.curves(key, lines, y_label="win rate", alt=alt, level=level, x_label="k, samples to choose from")
    caption = "What choosing among a policy's own samples still gains: a flat line is a policy without diversity."
    return Drawing("Best of k of each policy", svg, caption)


def _cdf_plot(evaluation: Evaluation, key: str) -> Drawing | None:
    shown = [row for row in evaluation.reward_cdfs if _are_quantiles(row.get("reward_quantiles"))][:PROMPTS_SHOWN]
    if not shown:
        return None
    panels = [
        Panel(f"prompt {place}", row["reward_quantiles"], _marks(evaluation, row.get("prompt_id")))
        for place, row in enumerate(shown, 1)
    ]
    alt = f"Reward CDF of the reference and of best-of-{n_text(evaluation.n)}: {'; '.join(map(_heights, panels))}"
    svg = figures.reward_cdfs(key, panels, n=evaluation.n, alt=alt)
    # Prompts are named here and not in the figure: its font may lack their letters.
    prompts = "; ".join(f"{place} “{row.get('prompt')!s:.60}”" for place, row in enumerate(shown, 1))
    caption = (
        "Points: each policy's first samples, at their reward and the share of the pool that they beat. The dashed "
        f"line is the CDF of best-of-N's rewards, so most of its own samples lie high on F. Prompts: {prompts}."
    )
    return Drawing("F of a few prompts", svg, caption)


def _marks(evaluation: Evaluation, prompt_id: Any) -> list[Curve]:
    marks = []
    for series, name in enumerate(evaluation.policies):
        rows = [row for row in evaluation.samples if (row.get("policy"), row.get("prompt_id")) == (name, prompt_id)]
        points = [(row.get("reward"), row.get("win_rate")) for row in rows]
        known = [(x, y) for x, y in points if is_number(x) and is_number(y)]
        marks.append(Curve(name, [x for x, _ in known], [y for _, y in known], series))
    return marks


def _heights(panel: Panel) -> str:
    said = [f"{mark.name} at {', '.join(number(y, 2) for y in mark.y)}" for mark in panel.marks if mark.y]
    return f"{panel.title}, samples of {' and of '.join(said)}" if said else panel.title


def _are_quantiles(values: Any) -> bool:
    return isinstance(values, list) and len(values) > 1 and all(map(is_number, values))


def _numbered(evaluation: Evaluation) -> Iterable[tuple[int, str, Metrics]]:
    """(series, name, metrics) of every policy, the reference last."""
    for series, (name, metrics) in enumerate(evaluation.policies.items()):
        yield series, name, metrics
    yield figures.REFERENCE_SERIES, "reference", evaluation.reference


def _points(evaluation: Evaluation, metric: str) -> Iterable[Point]:
    for series, name, metrics in _numbered(evaluation):
        if metric in metrics and "kl_policy_ref" in metrics:
            yield Point(name, metrics["kl_policy_ref"], metrics[metric], series)


def _targets(evaluation: Evaluation, metric: str) -> list[tuple[str, float, float]]:
    target = evaluation.target
    if not {"kl_policy_ref", metric} <= target.keys():
        return []
    return [(f"best-of-{n_text(evaluation.n)}", target["kl_policy_ref"].value, target[metric].value)]


def _target_kl(evaluation: Evaluation) -> float:
    return evaluation.target["kl_policy_ref"].value if "kl_policy_ref" in evaluation.target else 0.0


def _alt(what: str, points: Sequence[Point], evaluation: Evaluation, metric: str) -> str:
    said = [f"{point.name} {number(point.y.value)} at KL {number(point.x.value, 2)}" for point in points]
    said += [f"{name} {number(y)} at KL {number(x, 2)}" for name, x, y in _targets(evaluation, metric)]
    return f"{what} against KL to the reference: {'; '.join(said)}"


def _lines(runs: Sequence[Run], metric: str) -> Iterable[Curve]:
    for series, run in enumerate(runs):
        for prefix, name in (("", run.name), (VALIDATION, f"{run.name}, validation")):
            rows = [row for row in run.history if _is_value(row.get(prefix + metric))]
            if rows:
                x, y = [row["iteration"] for row in rows], [row[prefix + metric] for row in rows]
                yield Curve(name, x, y, series, dashed=bool(prefix))


def _level(runs: Sequence[Run], metric: str) -> tuple[str, float] | None:
    """Where best-of-N stands, where all runs aim at one N."""
    ns = {run.record.get("n") for run in runs}
    n: Any = ns.pop() if len(ns) == 1 else None
    if not _is_value(n) or n <= 1:
        return None
    heights = {
        "kl_policy_ref": figures.best_of_n.kl_from_reference(n),
        "win_rate": figures.best_of_n.win_rate(n),
        "kl_policy_bon": 0.0,
    }
    return (f"best-of-{n_text(n)}", heights[metric]) if metric in heights else None


def _ends(line: Curve) -> str:
    return f"{line.name} from {number(line.y[0])} to {number(line.y[-1])}"


def _is_value(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
