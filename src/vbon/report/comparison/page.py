"""The page of a comparison, put together; what it says of safety is said in vbon.report.page."""

from typing import Any

from vbon.report.comparison import plots, samples, statistics, tables
from vbon.report.comparison.read import ComparedMethod, Comparison
from vbon.report.comparison.verdict import sentences
from vbon.report.page import as_context, fill
from vbon.report.words import n_text

METRICS = {"win_rate": ("win rate, percentage points", 1, 100.0), "reward": ("reward", 3, 1.0)}


def render(comparison: Comparison) -> str:
    """The HTML page, a function of the sweep's folder alone."""
    matched = {metric: statistics.matched(comparison, metric) for metric in METRICS}
    shares = {metric: statistics.front_shares(comparison, metric) for metric in METRICS}
    first = comparison.methods[0].name
    drawings = {
        "fronts": plots.front_plots(comparison),
        "distance": [one for one in [plots.distance_plot(comparison)] if one is not None],
        "differences": plots.difference_plots(matched, first),
        "shares": plots.front_share_plot(shares),
        "judges": plots.judge_plots(comparison),
        "speeds": plots.speed_plots(comparison),
    }
    return fill(
        "comparison.html.j2",
        name=comparison.name,
        first=first,
        sentences=sentences(comparison, matched, shares),
        methods=[_method(method) for method in comparison.methods],
        shape=comparison.shape,
        pool=comparison.pool,
        ns=[n_text(place.n) for place in comparison.places],
        num_runs=comparison.num_runs,
        failed=comparison.failed,
        results=tables.results_table(comparison),
        matched=[
            (label, tables.matched_table(comparison, matched[metric], digits, factor))
            for metric, (label, digits, factor) in METRICS.items()
            if matched[metric]
        ],
        costs=tables.cost_table(statistics.costs(comparison)),
        search=tables.search_table(comparison),
        settings=tables.settings_rows(comparison.settings),
        cards=samples.cards(comparison),
        drawings={key: [as_context(one) for one in rows] for key, rows in drawings.items()},
    )


def _method(method: ComparedMethod) -> dict[str, Any]:
    return {"name": method.name, "series": method.series, "summary": method.summary, "family": method.family}
