"""Is the paper's estimator enough? The optima of four objectives with exact F, and how far each is from best-of-N.

With F exact the optimum of E[ρ] − β·KL is π_ref·exp(ρ/β), so nothing is trained here:
exact: ρ = log W/(N−1), whose optimum is best-of-N itself (not in the table).
upper: ρ = log F_≤, which the paper's estimator tends to where nothing ties.   mid: ρ = log (F_<+F_≤)/2.
one-sided: ρ = log F_<, which the paper's estimator tends to where rewards tie; what has F_< = 0 is lost.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from vbon.core.best_of_n import kl_coef_from_n
from vbon.figures.shapes import Panel
from vbon.lab.exact import Float, Truth, expectation, kl, tilted
from vbon.lab.experiment import Context
from vbon.lab.rows import Row, line, where
from vbon.lab.training import truth_of
from vbon.lab.world import WORLDS

TITLE = "bound: the exact optimum of each form of the objective against best-of-N (nats)"
TRAINED_BY = ""
COLUMNS = "world reward n form kl_form_bon kl_bon_form win_rate win_rate_bon excluded"
NEGLIGIBLE = 1e-9


@dataclass(frozen=True, kw_only=True)
class Preset:
    ns: tuple[int, ...] = (2, 4, 8, 16, 32, 64, 128)
    rewards: tuple[str, ...] = ("continuous", "levels", "binary")
    seeds: tuple[int, ...] = (0,)


PRESETS = {"quick": Preset(ns=(2, 8, 32, 128)), "full": Preset()}


def run(preset: Preset, context: Context) -> dict[str, Any]:
    """Exact, hence without seeds or intervals."""
    rows, worlds = [], {}
    for name, world in WORLDS.items():
        for reward in preset.rewards:
            truth = truth_of(world, reward)
            worlds[name] = _describe(truth)
            rows += [{"world": name, "reward": reward, "n": n, **row} for n in preset.ns for row in compare(truth, n)]
    return {"worlds": worlds, "rows": rows}


def compare(truth: Truth, n: float) -> list[Row]:
    """One row for each form; `kl_bon_form` is None, for infinite, where the form excludes what best-of-N keeps."""
    log_bon, (lower, upper) = truth.log_bon(n), truth.cdf
    bon_win = expectation(np.exp(log_bon), (lower + upper) / 2)
    rows = []
    for form, log_form in forms(truth, n).items():
        kept = np.isfinite(log_form)
        excluded = expectation(np.exp(log_bon), (~kept).astype(np.float64))
        rows.append(
            {
                "form": form,
                "kl_form_bon": kl(log_form, log_bon),
                "kl_bon_form": kl(np.where(kept, log_bon, -np.inf), log_form) if excluded < NEGLIGIBLE else None,
                "win_rate": expectation(np.exp(log_form), (lower + upper) / 2),
                "win_rate_bon": bon_win,
                "excluded": excluded,
            }
        )
    return rows


def forms(truth: Truth, n: float) -> dict[str, Float]:
    """log of each form's optimum; −inf where the form is."""
    lower, upper = truth.cdf
    beta = kl_coef_from_n(n)
    with np.errstate(divide="ignore"):
        signals = {"upper": np.log(upper), "mid": np.log((lower + upper) / 2), "one-sided": np.log(lower)}
    return {name: tilted(truth, signal, beta) for name, signal in signals.items()}


def panels(result: dict[str, Any]) -> list[Panel]:
    return [_panel(result["rows"], world) for world in ("default", "peaked", "very peaked")]


def _panel(rows: list[Row], world: str) -> Panel:
    lines = [
        line(
            where(rows, world=world, reward=reward, form=form),
            "n",
            "kl_form_bon",
            f"{form}, {reward}",
            style,
            least=1e-8,
        )
        for reward, style in (("continuous", "-"), ("levels", "--"), ("binary", ":"))
        for form in ("upper", "one-sided")
    ]
    return Panel(f"{world} π_ref", "N", "KL(form's optimum‖π_bon), nats", lines)


def _describe(truth: Truth) -> dict[str, float]:
    return {
        "entropy": -expectation(truth.ref_probs, np.log(truth.ref_probs)),
        "largest_probability": float(truth.ref_probs.max()),
    }
