"""How close backward KL gets: KL(π_θ‖π_bon) and KL(π_bon‖π_θ) after training, exact, beside what exact gradients reach.

F is near exact: pools of 20,000. KL-RL and the quantile reward train at the β that spends best-of-N's KL.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from vbon.lab import laws
from vbon.lab.enumerate import exact_log_probs
from vbon.lab.exact import measure
from vbon.lab.figures import Line, Panel
from vbon.lab.lab import Context
from vbon.lab.laws import Law, enumerated_law
from vbon.lab.optimum import exact_gradient_optimum
from vbon.lab.training import Job, Scale, run_all, truth_of
from vbon.lab.training import run as run_job
from vbon.lab.world import World, reference

TITLE = "backward-kl: distance to best-of-N after training (nats; medians over seeds, lowest and highest beside)"
COLUMNS = ("n", "method", "seeds", "kl_policy_bon", "lowest", "highest", "above_optimum", "kl_bon_policy", "entropy")
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


@dataclass(frozen=True, kw_only=True)
class Preset:
    ns: tuple[int, ...] = (2, 4, 8, 16, 32, 64, 128)
    methods: tuple[str, ...] = tuple(METHODS)
    scale: Scale = field(default_factory=lambda: Scale(num_iterations=400, rollouts_per_iteration=512))
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
    jobs = [
        _job(n, method, seed, preset, context) for method in preset.methods for n in preset.ns for seed in context.seeds
    ]
    measured = run_all(run_job, [job for _, job in jobs], context.num_workers)
    runs = [
        {"n": job.n, "method": method, "seed": job.seed, **row}
        for (method, job), row in zip(jobs, measured, strict=True)
    ]
    optimum = [
        {"n": n, "method": OPTIMUM, "seed": 0, **optimum_of(World(), n, preset.optimum_steps)} for n in preset.ns
    ]
    return {"rows": summary(optimum + runs), "runs": runs, "optimum": optimum}


def optimum_of(world: World, n: float, steps: int) -> dict[str, float]:
    """What the same network reaches by exact gradients of KL(π_θ‖π_bon)."""
    truth, ref_policy = truth_of(world), reference(world)
    policy = exact_gradient_optimum(ref_policy, world, truth, n, steps=steps)
    return measure(exact_log_probs(policy, world), truth, n)


def summary(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each N and method."""
    floor = {row["n"]: row["kl_policy_bon"] for row in runs if row["method"] == OPTIMUM}
    rows = []
    for n, method in sorted({(row["n"], row["method"]) for row in runs}):
        chosen = [row for row in runs if (row["n"], row["method"]) == (n, method)]
        kls = [row["kl_policy_bon"] for row in chosen]
        medians = {key: float(np.median([row[key] for row in chosen])) for key in chosen[0] if key not in _NAMES}
        rows.append(
            {
                "n": n,
                "method": method,
                "seeds": len(chosen),
                **medians,
                "lowest": min(kls),
                "highest": max(kls),
                "above_optimum": float(np.median(kls)) - floor[n],
            }
        )
    return rows


_NAMES = ("n", "method", "seed")


def _job(n: int, method: str, seed: int, preset: Preset, context: Context) -> tuple[str, Job]:
    world, flags = World(), dict(METHODS[method])
    if method in ("reward", "quantile"):
        flags["kl_coef"] = matched_kl_coef(world, method, n)
    return method, Job(
        world=world, reward="continuous", n=n, seed=seed, scale=preset.scale, work=str(context.work), flags=flags
    )


def matched_kl_coef(world: World, objective: str, n: float) -> float:
    """The β at which the objective's optimum spends best-of-N's KL to π_ref, to six digits."""
    law: Law = enumerated_law(truth_of(world))
    if objective == "quantile":
        law = replace(law, rewards=(law.lower + law.upper) / 2)
    return float(f"{laws.kl_matched(law, n):.6g}")


def panels(result: dict[str, Any]) -> list[Panel]:
    return [
        Panel("mode-seeking", "N", "KL(π_θ‖π_bon), nats", _lines(result["rows"], "kl_policy_bon")),
        Panel("mass-covering", "N", "KL(π_bon‖π_θ), nats", _lines(result["rows"], "kl_bon_policy")),
    ]


def _lines(rows: list[dict[str, Any]], key: str) -> list[Line]:
    lines = []
    for method in dict.fromkeys(row["method"] for row in rows):
        chosen = [row for row in rows if row["method"] == method]
        band = key == "kl_policy_bon"
        low, high = ([row[end] for row in chosen] if band else None for end in ("lowest", "highest"))
        style = "--" if method == OPTIMUM else "-"
        lines.append(Line(method, [row["n"] for row in chosen], [row[key] for row in chosen], low, high, style))
    return lines
