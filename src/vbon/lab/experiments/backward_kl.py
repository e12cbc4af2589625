"""How close backward KL gets: KL(π_θ‖π_bon) and KL(π_bon‖π_θ) after training, exact, beside what exact gradients reach.

F is near exact: pools of 20,000. KL-RL and the quantile reward train at the β that spends best-of-N's KL.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from vbon.figures.shapes import Line, Panel
from vbon.lab import laws
from vbon.lab.enumerate import exact_log_probs
from vbon.lab.exact import measure
from vbon.lab.experiment import Context
from vbon.lab.laws import Law, enumerated_law
from vbon.lab.optima import exact_gradient_optimum
from vbon.lab.rows import Row, distinct, line, where
from vbon.lab.rows import summary as rows_over_seeds
from vbon.lab.training import Job, Scale, run_cases, truth_of
from vbon.lab.training import run as run_job
from vbon.lab.world import World, reference

TITLE = "backward-kl: distance to best-of-N after training (nats; medians over seeds, lowest and highest beside)"
TRAINED_BY = ""
COLUMNS = "n method seeds kl_policy_bon lowest highest above_optimum kl_bon_policy entropy"
OPTIMUM = "exact gradient"
METHODS: dict[str, Mapping[str, Any]] = {
    "vbon": {},
    "vbon-bound": {"objective": "vbon-bound"},
    "vbon ppo": {"algorithm": "ppo"},
    "offline": {"algorithm": "offline"},
    "reward": {"objective": "reward"},
    "quantile": {"objective": "quantile"},
    "bond": {"objective": "bond"},
}


LONGER = Scale(num_iterations=400, rollouts_per_iteration=512)


@dataclass(frozen=True, kw_only=True)
class Preset:
    ns: tuple[int, ...] = (2, 4, 8, 16, 32, 64, 128)
    methods: tuple[str, ...] = tuple(METHODS)
    scale: Scale = LONGER
    optimum_steps: int = 600
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)


PRESETS = {
    "quick": Preset(ns=(2, 8, 64), methods=("vbon", "vbon-bound"), scale=Scale(), optimum_steps=200, seeds=(0,)),
    "medium": Preset(ns=(2, 4, 8, 16, 32, 64), methods=("vbon",), scale=Scale(num_iterations=80), optimum_steps=200),
    "wide": Preset(ns=(2, 8, 32, 128), scale=Scale(num_iterations=80), optimum_steps=200, seeds=(0,)),
    "vbon": Preset(methods=("vbon",)),
    "full": Preset(),
}


def run(preset: Preset, context: Context) -> dict[str, Any]:
    cases = [
        ({"n": n, "method": method}, _job(n, method, seed, preset, context))
        for method in preset.methods
        for n in preset.ns
        for seed in context.seeds
    ]
    runs = run_cases(run_job, cases, context.num_workers)
    optimum = [
        {"n": n, "method": OPTIMUM, "seed": 0, **optimum_of(World(), n, preset.optimum_steps)} for n in preset.ns
    ]
    return {"rows": summary(optimum + runs), "runs": runs, "optimum": optimum}


def optimum_of(world: World, n: float, steps: int) -> dict[str, float]:
    """What the same network reaches by exact gradients of KL(π_θ‖π_bon)."""
    truth, ref_policy = truth_of(world), reference(world)
    policy = exact_gradient_optimum(ref_policy, world, truth, n, steps=steps)
    return measure(exact_log_probs(policy, world), truth, n)


def summary(runs: list[Row]) -> list[Row]:
    """Return one row for each N and method."""
    floor = {row["n"]: row["kl_policy_bon"] for row in where(runs, method=OPTIMUM)}
    ordered = sorted(runs, key=lambda row: (row["n"], row["method"]))
    rows = rows_over_seeds(ordered, ("n", "method"))
    return [row | {"above_optimum": row["kl_policy_bon"] - floor[row["n"]]} for row in rows]


def _job(n: int, method: str, seed: int, preset: Preset, context: Context) -> Job:
    world, flags = World(), dict(METHODS[method])
    if method in ("reward", "quantile"):
        flags["kl_coef"] = matched_kl_coef(world, method, n)
    return Job(world=world, n=n, seed=seed, scale=preset.scale, work=context.work, flags=flags)


def matched_kl_coef(world: World, objective: str, n: float) -> float:
    """The β at which the objective's optimum spends best-of-N's KL to π_ref, to six digits."""
    law: Law = enumerated_law(truth_of(world))
    if objective == "quantile":
        law = replace(law, rewards=(law.lower + law.upper) / 2)
    return float(f"{laws.kl_matched(law, n):.6g}")


def panels(result: dict[str, Any]) -> list[Panel]:
    return [
        Panel("mode-seeking", "N", "KL(π_θ‖π_bon), nats", _lines(result["rows"], "kl_policy_bon", seeds_shown=True)),
        Panel("mass-covering", "N", "KL(π_bon‖π_θ), nats", _lines(result["rows"], "kl_bon_policy", seeds_shown=False)),
    ]


def _lines(rows: list[Row], key: str, *, seeds_shown: bool) -> list[Line]:
    band = (lambda row: (row["lowest"], row["highest"])) if seeds_shown else None
    return [
        line(where(rows, method=method), "n", key, method, "--" if method == OPTIMUM else "-", band=band)
        for method in distinct(rows, "method")
    ]
