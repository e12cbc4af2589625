"""Ties without a tie-break rule: best-of-N with ties broken at random, by a total order, and the paper's sum blindly.

The paper's sum Σ_i C(N,i) F_<^{N−i} π_ref^i assumes that no two completions tie. Where they do, it loses the mass of
every draw in which two different completions share the top: 1 − Σ_y of it is lost before anything is trained.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from vbon.core.best_of_n import kl_from_levels, level_probabilities, log_weight, win_rate_from_levels
from vbon.figures.shapes import Panel
from vbon.lab.exact import Float, Truth, expectation, kl, level_masses, normalised
from vbon.lab.experiment import Context
from vbon.lab.rows import Row, line, seeds_line, where
from vbon.lab.training import LONG, Job, Scale, run_cases, truth_of
from vbon.lab.training import run as run_job
from vbon.lab.world import World

TITLE = "ties: exact best-of-N under each treatment of ties (nats)"
COLUMNS = "reward n rule mass_lost kl_rule_bon kl_rule_ref reward_mean win_rate"
TRAINED_BY = "reward n rule"
RULES = {"random": {"tie_rule": "random"}, "order": {"tie_rule": "order"}, "one-sided": {"objective": "vbon-bound"}}


@dataclass(frozen=True, kw_only=True)
class Preset:
    ns: tuple[int, ...] = (2, 4, 8, 16, 32, 64, 128)
    rewards: tuple[str, ...] = ("continuous", "levels", "binary")
    trained_n: tuple[int, ...] = (8, 32)
    trained_rewards: tuple[str, ...] = ("levels", "binary")
    num_samples: int = 1000
    scale: Scale = LONG
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)


PRESETS = {
    "quick": Preset(ns=(2, 8, 32), trained_n=(8,), scale=Scale(num_iterations=100), seeds=(0,)),
    "medium": Preset(scale=Scale(num_iterations=100), seeds=(0, 1, 2)),
    "full": Preset(),
    "untrained": Preset(trained_n=()),
}


def run(preset: Preset, context: Context) -> dict[str, Any]:
    truths = {reward: truth_of(World(), reward) for reward in preset.rewards}
    rows = [
        {"reward": reward, "n": n, **row}
        for reward, truth in truths.items()
        for n in preset.ns
        for row in compare(truth, n)
    ]
    verifier = [verify(truths["binary"], n) for n in preset.ns] if "binary" in truths else []
    return {"rows": rows, "verifier": verifier, "trained": run_trained(preset, context)}


def compare(truth: Truth, n: int) -> list[Row]:
    """One row for each treatment of ties, first prompt's world over all prompts."""
    log_bon = truth.log_bon(n)
    blind = blind_sum(truth, n)
    log_rules = {
        "random": (log_bon, 0.0),
        "order": (ordered(truth).log_bon(n), 0.0),
        "paper's sum": (normalised(blind), float(1 - np.exp(blind).sum(-1).mean())),
    }
    lower, upper = truth.cdf
    return [
        {
            "rule": rule,
            "mass_lost": lost,
            "kl_rule_bon": kl(log_rule, log_bon),
            "kl_rule_ref": kl(log_rule, np.log(truth.ref_probs)),
            "reward_mean": expectation(np.exp(log_rule), truth.rewards),
            "win_rate": expectation(np.exp(log_rule), (lower + upper) / 2),
        }
        for rule, (log_rule, lost) in log_rules.items()
    ]


def blind_sum(truth: Truth, n: int) -> Float:
    """log Σ_{i≥1} C(N,i) F_<^{N−i} π_ref^i = log[(F_< + π_ref)^N − F_<^N] = log π_ref + log W_N(F_<, F_< + π_ref)."""
    lower = truth.cdf[0]
    return np.log(truth.ref_probs) + log_weight(lower, np.minimum(lower + truth.ref_probs, 1.0), n)


def ordered(truth: Truth) -> Truth:
    """The same world with ties refined into a total order: the place of the completion in the enumeration."""
    places = np.arange(truth.rewards.shape[1])
    ranks = [np.lexsort((places, rewards)).argsort() for rewards in truth.rewards]
    return Truth(truth.ref_logprobs, np.array(ranks, np.float64))


def verify(truth: Truth, n: int) -> dict[str, float]:
    """The verifier's case: W on success is (1−(1−p)^N)/p. First prompt; `gap` is the largest difference found."""
    mass, index = level_masses(truth.ref_probs[0], truth.rewards[0])
    p = mass[-1]
    formula = np.where(index == 1, (1 - (1 - p) ** n) / p, (1 - p) ** (n - 1))
    return {
        "n": n,
        "p": float(p),
        "w_success": float((1 - (1 - p) ** n) / p),
        "pass_rate": float(level_probabilities(mass, n)[-1]),
        "win_rate": win_rate_from_levels(mass, n),
        "kl_bon_ref": kl_from_levels(mass, n),
        "gap": float(np.abs(np.exp(truth.log_weight(n)[0]) / formula - 1).max()),
    }


def run_trained(preset: Preset, context: Context) -> list[Row]:
    """vbon with either tie rule and the one-sided estimator, all judged by best-of-N with ties broken at random."""
    job_of = partial(Job, world=World(), scale=preset.scale, work=context.work, num_samples=preset.num_samples)
    cases = [
        ({"n": n, "rule": rule}, job_of(reward=reward, judged_by=reward, n=n, seed=seed, flags=flags))
        for reward in preset.trained_rewards
        for n in preset.trained_n
        for rule, flags in RULES.items()
        for seed in context.seeds
    ]
    runs = run_cases(run_job, cases, context.num_workers)
    return [
        {**run, "reward_mean": run["reward"], "reward": job.reward} for run, (_, job) in zip(runs, cases, strict=True)
    ]


def panels(result: dict[str, Any]) -> list[Panel]:
    return [
        _panel(result["rows"], "mass_lost", "mass that the paper's sum loses", ("paper's sum",)),
        _panel(result["rows"], "kl_rule_ref", "KL to π_ref for the same levels, nats", ("random", "order")),
        _panel(result["rows"], "reward_mean", "mean reward", ("random", "paper's sum")),
        *([_trained_panel(result["trained"])] if result["trained"] else []),
    ]


def _panel(rows: list[Row], key: str, label: str, rules: tuple[str, ...]) -> Panel:
    lines = [
        line(where(rows, reward=reward, rule=rule), "n", key, f"{reward}, {rule}")
        for reward in ("levels", "binary")
        for rule in rules
    ]
    return Panel(label, "N", label, lines, y_log=False)


def _trained_panel(trained: list[Row]) -> Panel:
    cases = dict.fromkeys((run["reward"], run["rule"]) for run in trained)
    lines = [
        seeds_line(where(trained, reward=reward, rule=rule), "n", "kl_policy_bon", f"{reward}, {rule}")
        for reward, rule in cases
    ]
    return Panel("trained: distance to best-of-N, ties at random", "N", "KL(π_θ‖π_bon), nats", lines)
