"""Each method's trained policy against the optimum that it leads to, and that optimum against best-of-N.

`kl_optimum_bon` is exact and needs no training: the price of the method itself. `kl_policy_optimum` is what training
leaves. DPO is left out: its pairs are ordered by the reward without error, so its loss is least at the best completion
alone, and only early stopping keeps it from there.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from vbon.config.methods import METHODS, MethodName
from vbon.core.best_of_n import kl_coef_from_n
from vbon.core.kl_rl import kl_coef_for_gaussian
from vbon.figures.shapes import Panel, highest
from vbon.lab.exact import Truth, expectation, kl
from vbon.lab.experiment import Context
from vbon.lab.optima import own_optimum
from vbon.lab.rows import Row, distinct, line, where
from vbon.lab.training import Job, Scale, run_all, run_log_probs, truth_of
from vbon.lab.world import WORLDS, World

TITLE = "methods: each trained policy against its own optimum, and that optimum against best-of-N (exact; nats)"
TRAINED_BY = ""
COLUMNS = "world n method seed kl_optimum_bon kl_policy_optimum kl_policy_bon"
CLOSED_FORMS: tuple[MethodName, ...] = ("vbon", "vbon-bound", "kl-rl", "quantile", "grpo")
TRAINED: tuple[MethodName, ...] = (*CLOSED_FORMS, "bon-sft-all", "bon-sft", "regression", "listwise", "bonbon", "bond")
SMALL = World(letters=3, max_new_tokens=3)
"""40 completions: BoNBoN and BOND need their optima by L-BFGS, over all pairs of completions."""


SHORT = Scale(num_iterations=60)


@dataclass(frozen=True, kw_only=True)
class Preset:
    worlds: tuple[str, ...] = ("small",)
    ns: tuple[int, ...] = (8,)
    methods: tuple[MethodName, ...] = TRAINED
    scale: Scale | None = SHORT
    seeds: tuple[int, ...] = (0,)


PRESETS = {
    "untrained": Preset(
        worlds=("small", "default", "peaked"), ns=(2, 4, 8, 16, 32, 64), methods=CLOSED_FORMS, scale=None
    ),
    "quick": Preset(),
    "full": Preset(ns=(2, 8), scale=Scale(num_iterations=150), seeds=(0, 1, 2)),
}


def run(preset: Preset, context: Context) -> dict[str, Any]:
    """Without a scale nothing is trained."""
    cases = [
        (world, n, method, seed)
        for world in preset.worlds
        for n in preset.ns
        for method in preset.methods
        for seed in context.seeds
    ]
    if preset.scale is None:
        return {"rows": [optimum_row(*case) for case in cases]}
    jobs = [_job(*case, preset.scale, context) for case in cases]
    trained = run_all(run_log_probs, jobs, context.num_workers)
    rows = []
    for case, policy in zip(cases, trained, strict=True):
        world, n, method, _ = case
        truth = truth_of(world_of(world))
        optimum = own_optimum(method, truth, world_of(world), n, kl_coef_of(method, truth, n))
        measured = {"kl_policy_optimum": kl(policy, optimum), "kl_policy_bon": kl(policy, truth.log_bon(n))}
        rows.append(optimum_row(*case) | measured)
    return {"rows": rows}


def optimum_row(world: str, n: int, method: MethodName, seed: int) -> dict[str, Any]:
    """KL(optimum‖π_bon), exact, and what the optimum is worth."""
    truth = truth_of(world_of(world))
    lower, upper = truth.cdf
    optimum = own_optimum(method, truth, world_of(world), n, kl_coef_of(method, truth, n))
    return {
        "world": world,
        "n": n,
        "method": method,
        "seed": seed,
        "kl_optimum_bon": kl(optimum, truth.log_bon(n)),
        "kl_optimum_ref": kl(optimum, truth.ref_logprobs),
        "win_rate": expectation(np.exp(optimum), (lower + upper) / 2),
    }


def world_of(name: str) -> World:
    return SMALL if name == "small" else WORLDS[name]


def kl_coef_of(method: MethodName, truth: Truth, n: int) -> float:
    """β of KL-RL as if rewards were normal, so that it spends about best-of-N's KL; 1/(N−1) for the others."""
    if method != "kl-rl":
        return kl_coef_from_n(n)
    mean = expectation(truth.ref_probs, truth.rewards)
    return kl_coef_for_gaussian(n, expectation(truth.ref_probs, (truth.rewards - mean) ** 2) ** 0.5)


def _job(world: str, n: int, method: MethodName, seed: int, scale: Scale, context: Context) -> Job:
    flags: dict[str, Any] = {"method": method, "warm_start": "none"}
    if METHODS[method].knob == "kl_coef":
        flags["kl_coef"] = kl_coef_of(method, truth_of(world_of(world)), n)
    return Job(world=world_of(world), n=n, seed=seed, scale=scale, work=context.work, flags=flags)


def panels(result: dict[str, Any]) -> list[Panel]:
    return [_panel(where(result["rows"], world=world), world) for world in distinct(result["rows"], "world")]


def _panel(rows: list[Row], world: str) -> Panel:
    """The distance of each method's optimum; those that lead to best-of-N itself are left out."""
    lines = [
        line(where(rows, method=method), "n", "kl_optimum_bon", method, least=1e-6)
        for method in distinct(rows, "method")
    ]
    return Panel(f"{world} π_ref", "N", "KL(optimum‖π_bon), nats", [one for one in lines if highest(one.y) > 1e-6])
