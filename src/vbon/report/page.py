"""The pages: everything that was read, drawn and worded, put into one HTML text that needs nothing else.

Texts from data enter through jinja2's autoescape only. Two things are marked safe: the SVG of vbon.figures (whose text
matplotlib escapes) and this package's own style and script; a content policy in the page forbids all others.
"""

import base64
import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from vbon.artifacts.evaluation import Evaluation
from vbon.report import comparison_plots, plots, samples, statistics, tables
from vbon.report.plots import Drawing
from vbon.report.read import ComparedMethod, Comparison, Run
from vbon.report.verdict import KL_ALLOWANCE, sentences, verdict
from vbon.report.words import n_text, number, percent_text
from vbon.version import __version__

TEMPLATES = files("vbon.report") / "templates"
MATCHED_METRICS = {"win_rate": ("win rate, percentage points", 1, 100.0), "reward": ("reward", 3, 1.0)}


def render(runs: Sequence[Run], evaluations: Sequence[Evaluation]) -> str:
    """The HTML page, a function of its arguments alone."""
    return fill(
        "report.html.j2",
        title=_title(runs, evaluations),
        evaluations=[_evaluation_section(evaluation, f"e{i}") for i, evaluation in enumerate(evaluations)],
        training=[as_context(drawing) for drawing in plots.training_plots(runs, "t")],
        settings=_settings(runs, evaluations),
        kl_allowance=KL_ALLOWANCE,
    )


def fill(template: str, **context: Any) -> str:
    """Return the page of a template of this package, every text escaped."""
    script = template_text("report.js")
    environment = Environment(
        loader=FunctionLoader(template_text),
        autoescape=select_autoescape(enabled_extensions=("j2",), default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(
        style=Markup(template_text("report.css")),
        script=Markup(script),
        script_hash=script_hash(script),
        version=__version__,
        **context,
    )


def script_hash(script: str) -> str:
    """The hash by which the page's content policy knows its one script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _title(runs: Sequence[Run], evaluations: Sequence[Evaluation]) -> str:
    names = dict.fromkeys([*(name for e in evaluations for name in e.policies), *(run.name for run in runs)])
    return ", ".join(list(names)[:3]) + (" …" if len(names) > 3 else "")


def _evaluation_section(evaluation: Evaluation, key: str) -> dict[str, Any]:
    return {
        "key": key,
        "name": evaluation.name,
        "n": n_text(evaluation.n),
        "verdicts": [verdict(name, evaluation) for name in evaluation.policies],
        "tiles": _tiles(evaluation),
        "table": tables.policy_table(evaluation),
        "differences": tables.differences_table(evaluation),
        "first": next(iter(evaluation.policies), ""),
        "plots": [as_context(drawing) for drawing in plots.evaluation_plots(evaluation, key)],
        "cards": samples.cards(evaluation),
        "num_prompts": evaluation.settings.get("num_prompts"),
        "samples_per_prompt": evaluation.settings.get("samples_per_prompt"),
        "num_samples": evaluation.settings.get("num_samples"),
    }


def _tiles(evaluation: Evaluation) -> list[dict[str, str]]:
    """The first policy's four figures that matter most, each beside what best-of-N has."""
    if len(evaluation.policies) != 1:
        return []
    name, metrics = next(iter(evaluation.policies.items()))
    best, target = f"best-of-{n_text(evaluation.n)}", evaluation.target
    tiles = []
    if {"win_rate"} <= metrics.keys() & target.keys():
        against = f"{best}: {percent_text(target['win_rate'].value)}"
        tiles.append(_tile("win rate", percent_text(metrics["win_rate"].value), against))
    if "reward_gain_share" in metrics:
        tiles.append(_tile("of the reward gain", percent_text(metrics["reward_gain_share"].value), f"{best}: 100 %"))
    if {"kl_policy_ref"} <= metrics.keys() & target.keys():
        against = f"{best}: {number(target['kl_policy_ref'].value, 2)}"
        tiles.append(_tile("nats from the reference", number(metrics["kl_policy_ref"].value, 2), against))
    if "kl_policy_bon" in metrics and evaluation.kl_policy_bon_floor is not None:
        against = f"a perfect match: {number(evaluation.kl_policy_bon_floor, 2)}"
        tiles.append(_tile(f"nats from {best}", number(metrics["kl_policy_bon"].value, 2), against))
    rates = evaluation.throughput
    if {name, "best-of-n"} <= rates.keys():
        tiles.append(
            _tile(f"as fast as {best}", f"{number(rates[name] / rates['best-of-n'], 1)} ×", "same machine, same run")
        )
    return tiles


def _tile(label: str, value: str, against: str) -> dict[str, str]:
    return {"label": label, "value": value, "against": against}


def as_context(drawing: Drawing) -> dict[str, Any]:
    """A drawing as the template takes it: its SVG is this package's own."""
    return {"title": drawing.title, "svg": Markup(drawing.svg), "caption": drawing.caption}


def _settings(runs: Sequence[Run], evaluations: Sequence[Evaluation]) -> list[tuple[str, list[tuple[str, str]]]]:
    return [(f"run {run.name}", tables.settings_rows(run)) for run in runs] + [
        (f"evaluation {evaluation.name}", tables.evaluation_settings_rows(evaluation)) for evaluation in evaluations
    ]


def template_text(name: str) -> str:
    """A template, the style or the script of the page."""
    return (TEMPLATES / name).read_text(encoding="utf-8")


def render_comparison(comparison: Comparison) -> str:
    """The HTML page, a function of the sweep's folder alone."""
    matched = {metric: statistics.matched(comparison, metric) for metric in MATCHED_METRICS}
    shares = {metric: statistics.front_shares(comparison, metric) for metric in MATCHED_METRICS}
    first = comparison.methods[0].name
    drawings = {
        "fronts": comparison_plots.front_plots(comparison),
        "distance": [one for one in [comparison_plots.distance_plot(comparison)] if one is not None],
        "differences": comparison_plots.difference_plots(matched, first),
        "shares": comparison_plots.front_share_plot(shares),
        "judges": comparison_plots.judge_plots(comparison),
        "speeds": comparison_plots.speed_plots(comparison),
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
            for metric, (label, digits, factor) in MATCHED_METRICS.items()
            if matched[metric]
        ],
        costs=tables.cost_table(statistics.costs(comparison)),
        search=tables.search_table(comparison),
        settings=tables.sweep_settings_rows(comparison.settings),
        cards=samples.comparison_cards(comparison),
        drawings={key: [as_context(one) for one in rows] for key, rows in drawings.items()},
    )


def _method(method: ComparedMethod) -> dict[str, Any]:
    return {"name": method.name, "series": method.series, "summary": method.summary, "family": method.family}
