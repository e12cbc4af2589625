"""Which β of KL-RL matches each N, in KL and in reward, for several laws of the reward; exact, nothing is trained.

KL-RL's optimum is π_ref·exp(r/β). Where the reward is 0 or 1, or s·log F, it is best-of-N itself and core.kl_rl has
the map; where rewards are normal, the β of equal KL. Elsewhere the map is solved for, and fitted by β/σ = c·(N−1)^−k.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vbon.core import kl_rl
from vbon.figures.shapes import Line, Panel
from vbon.lab import laws
from vbon.lab.experiment import Context
from vbon.lab.laws import Law, continuous_law, enumerated_law
from vbon.lab.rows import Row, distinct, line, where
from vbon.lab.training import truth_of
from vbon.lab.world import World

TITLE = "n-beta: the β of KL-RL that matches best-of-N (β/σ; σ the reward's standard deviation under π_ref)"
TRAINED_BY = ""
COLUMNS = "law n beta_kl beta_reward kl_bon_ref reward_gain reward_gain_bon win_rate win_rate_bon kl_rl_bon"
CONTINUOUS = {
    "normal": laws.normal_quantile,
    "uniform": laws.uniform_quantile,
    "exponential": laws.exponential_quantile,
    "log-rank": laws.log_rank_quantile,
}
ENUMERATED = ("continuous", "levels", "binary", "stretched_tail")


@dataclass(frozen=True, kw_only=True)
class Preset:
    ns: tuple[int, ...] = (2, 4, 8, 16, 32, 64, 128)
    seeds: tuple[int, ...] = (0,)


PRESETS = {"quick": Preset(), "full": Preset(ns=(2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128))}


def run(preset: Preset, context: Context) -> dict[str, Any]:
    """Exact, hence without seeds or intervals."""
    every: dict[str, Law] = {name: continuous_law(quantile) for name, quantile in CONTINUOUS.items()}
    every |= {f"lab {name}": enumerated_law(truth_of(World(), name)) for name in ENUMERATED}
    rows = [{"law": name, "n": n, **match_row(law, n)} for name, law in every.items() for n in preset.ns]
    return {"rows": rows, "fits": [fit(name, rows) for name in every], "exact": closed_forms(every, preset.ns)}


def match_row(law: Law, n: float) -> dict[str, float]:
    """β/σ matched in KL and in reward; gains in σ; the win rate, and KL(KL-RL‖π_bon), at the β of equal KL."""
    log_bon, std = law.log_bon(n), law.std()
    beta = laws.kl_matched(law, n)
    tilted, reference = law.log_tilted(beta), law.mean(law.log_ref)
    probs = np.exp(tilted)
    return {
        "beta_kl": beta / std,
        "beta_reward": laws.reward_matched(law, n) / std,
        "kl_bon_ref": law.kl_from_ref(log_bon),
        "reward_gain": (law.mean(tilted) - reference) / std,
        "reward_gain_bon": (law.mean(log_bon) - reference) / std,
        "win_rate": law.win_rate(tilted),
        "win_rate_bon": law.win_rate(log_bon),
        "kl_rl_bon": float(np.sum(np.where(probs > 0, probs * (tilted - log_bon), 0.0))),
    }


def fit(name: str, rows: list[Row]) -> dict[str, Any]:
    """c and k of β/σ = c·(N−1)^−k, least squares in logs, and the largest relative error over the N measured."""
    chosen = where(rows, law=name)
    log_n, log_beta = np.log([row["n"] - 1 for row in chosen]), np.log([row["beta_kl"] for row in chosen])
    slope, intercept = np.polyfit(log_n, log_beta, 1)
    return {
        "law": name,
        "c": float(np.exp(intercept)),
        "k": float(-slope),
        "largest_error": float(np.abs(np.expm1(log_beta - intercept - slope * log_n)).max()),
    }


def closed_forms(every: dict[str, Law], ns: tuple[int, ...]) -> list[Row]:
    """core.kl_rl beside the solver, relative differences."""
    binary = every["lab binary"]
    pass_rate = float(np.exp(binary.log_ref) @ binary.rewards)
    forms = {
        "normal": lambda n: kl_rl.kl_coef_for_gaussian(n, 1.0),
        "log-rank": lambda n: kl_rl.kl_coef_for_log_rank(n, 1.0),
        "lab binary": lambda n: kl_rl.kl_coef_for_verifier(n, pass_rate),
    }
    return [
        {"law": name, "n": n, "beta": form(n), "relative_gap": form(n) / laws.kl_matched(every[name], n) - 1}
        for name, form in forms.items()
        for n in ns
    ]


def panels(result: dict[str, Any]) -> list[Panel]:
    def lines(key: str, without: Sequence[str] = ()) -> list[Line]:
        names = [name for name in distinct(result["rows"], "law") if name not in without]
        return [line(where(result["rows"], law=name), "n", key, name) for name in names]

    distances = lines("kl_rl_bon", without=("lab binary", "log-rank"))
    return [
        Panel("β of equal KL", "N", "β/σ", lines("beta_kl")),
        Panel("β of equal reward", "N", "β/σ", lines("beta_reward")),
        Panel("KL-RL against best-of-N at equal KL", "N", "KL(KL-RL‖π_bon), nats", distances),
    ]
