"""A poor reference: references ever less likely to write the letters that the reward likes; vbon, KL-RL, BoN-SFT.

The reference's logits of every good letter are lowered by 0, 2, 4, 6. Untrained part, exact: best-of-N, KL-RL's
optimum at its KL, and the optima of a pool of M for vbon (π_ref·Ŵ) and BoN-SFT (the pool's samples by their weights).
Trained part: final quality is exact; convergence is the first iteration from which on the mean reward of ten
iterations' rollouts is above 90 % of the gain that best-of-N makes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from vbon.figures.shapes import Line, Panel
from vbon.lab.exact import Float, Truth, expectation, measure, normalised
from vbon.lab.experiment import Context
from vbon.lab.experiments.backward_kl import matched_kl_coef
from vbon.lab.pools import Counts, draw_counts, interval
from vbon.lab.rows import Row, line, summary, where
from vbon.lab.training import LONG, Job, Scale, run_all, run_with_curve, truth_of
from vbon.lab.world import World

TITLE = "weak-reference: quality and convergence as the reference gets worse (exact; nats)"
TRAINED_BY = ""
COLUMNS = "weakness n method seed top_percent reward_ref reward reward_bon share_of_gain kl_policy_bon converged_at"
METHODS: dict[str, dict[str, Any]] = {
    "vbon": {},
    "reward": {"objective": "reward"},
    "bon-sft": {"algorithm": "offline"},
}
GAIN, WINDOW = 0.9, 10
NOTHING = -200.0  # log of the mass of what was never drawn: none, but finite


@dataclass(frozen=True, kw_only=True)
class Preset:
    weakness: tuple[float, ...] = (0.0, 2.0, 4.0, 6.0)
    ns: tuple[int, ...] = (8, 64)
    methods: tuple[str, ...] = tuple(METHODS)
    num_samples: int = 1000
    scale: Scale = LONG
    seeds: tuple[int, ...] = (0, 1, 2)


PRESETS = {
    "quick": Preset(weakness=(0.0, 4.0), ns=(8,), scale=Scale(num_iterations=80), seeds=(0,)),
    "medium": Preset(ns=(8,), scale=Scale(num_iterations=100), seeds=(0, 1)),
    "full": Preset(),
    "untrained": Preset(ns=(8, 64, 512), methods=(), seeds=(0, 1, 2, 3, 4)),
}


def run(preset: Preset, context: Context) -> dict[str, Any]:
    cases = [
        (weakness, n, method, seed)
        for weakness in preset.weakness
        for n in preset.ns
        for method in preset.methods
        for seed in context.seeds
    ]
    jobs = [_job(*case, preset, context) for case in cases]
    done = run_all(run_with_curve, jobs, context.num_workers)
    trained = [_row(*case, *pair) for case, pair in zip(cases, done, strict=True)]
    return {"rows": trained or [row for seed in context.seeds for row in untrained(preset, seed)]}


def untrained(preset: Preset, seed: int) -> Iterator[dict[str, Any]]:
    """Rows of the exact optima; the seed is that of the pools."""
    for weakness in preset.weakness:
        world = World(good_letter_logit=-weakness)
        truth = truth_of(world)
        counts = draw_counts(truth.ref_probs[0], truth.rewards[0], preset.num_samples, np.random.default_rng(seed))
        for n in preset.ns:
            for method, log_policy in optima(world, truth, counts, n).items():
                yield _row(weakness, n, method, seed, measure(log_policy[None], truth, n), [])


def optima(world: World, truth: Truth, counts: Counts, n: int) -> dict[str, Float]:
    """log of what each method converges to, (C,); the first is the target itself."""
    log_ref = np.log(truth.ref_probs[0])
    log_weight = interval(counts, n)
    drawn = np.where(counts.k_eq > 0, np.log(np.maximum(counts.k_eq, 1)), NOTHING)  # without ties a level is a text
    return {
        "best-of-n": truth.log_bon(n)[0],
        "KL-RL at its KL": normalised(log_ref + truth.rewards[0] / matched_kl_coef(world, "reward", n)),
        "vbon, pool of M": normalised(log_ref + log_weight),
        "BoN-SFT, pool of M": normalised(drawn + log_weight),
    }


def _job(weakness: float, n: int, method: str, seed: int, preset: Preset, context: Context) -> Job:
    world, flags = World(good_letter_logit=-weakness), dict(METHODS[method])
    if method == "reward":
        flags["kl_coef"] = matched_kl_coef(world, "reward", n)
    return Job(
        world=world, n=n, seed=seed, scale=preset.scale, work=context.work, num_samples=preset.num_samples, flags=flags
    )


def _row(
    weakness: float, n: int, method: str, seed: int, measured: dict[str, float], curve: list[Row]
) -> dict[str, Any]:
    base, truth = truth_of(World()), truth_of(World(good_letter_logit=-weakness))
    best_percent = base.rewards > np.quantile(base.rewards, 0.99)
    reference = expectation(truth.ref_probs, truth.rewards)
    target = expectation(np.exp(truth.log_bon(n)), truth.rewards)
    rewards = [row["reward"] for row in curve if "reward" in row]
    return {
        "weakness": weakness,
        "n": n,
        "method": method,
        "seed": seed,
        "top_percent": expectation(truth.ref_probs, best_percent.astype(np.float64)),
        "reward_ref": reference,
        "reward_bon": target,
        "share_of_gain": (measured["reward"] - reference) / (target - reference),
        "converged_at": converged_at(rewards, reference + GAIN * (target - reference)),
        **measured,
    }


def converged_at(rewards: list[float], level: float) -> int | None:
    """The first iteration from which on every mean of ten is above the level; None where the last is not."""
    if len(rewards) < WINDOW:
        return None
    means = np.convolve(rewards, np.full(WINDOW, 1 / WINDOW), "valid")
    below = np.flatnonzero(means < level)
    if not len(below):
        return WINDOW
    return None if below[-1] == len(means) - 1 else int(below[-1]) + 1 + WINDOW


def panels(result: dict[str, Any]) -> list[Panel]:
    rows, weakness = result["rows"], "logit taken from good letters"
    shares, rewards, distances = (_lines(rows, key) for key in ("share_of_gain", "reward", "kl_policy_bon"))
    return [
        Panel("share of best-of-N's gain in reward", weakness, "share", shares, x_log=False, y_log=False),
        Panel("mean reward", weakness, "reward", rewards, x_log=False, y_log=False),
        Panel("distance to best-of-N", weakness, "KL(π_θ‖π_bon), nats", distances, x_log=False),
    ]


def _lines(rows: list[Row], key: str) -> list[Line]:
    kept = [{name: row[name] for name in ("method", "n", "weakness", key)} for row in rows]
    medians = summary(kept, ("method", "n", "weakness"), key)
    cases = dict.fromkeys((row["method"], row["n"]) for row in rows)
    return [line(where(medians, method=method, n=n), "weakness", key, f"{method}, N = {n}") for method, n in cases]
