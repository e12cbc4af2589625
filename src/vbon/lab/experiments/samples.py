"""How M trades cost for quality: estimators of F̂ from M samples, and the rule for choosing M for an N.

Pools are drawn from the exact π_ref. For each estimator: the root mean square error of log Ŵ/(N−1), the trainer's
sequence reward, over y ~ π_bon after its mean is taken out (a constant trains nothing), and KL(π̂_bon‖π_bon), with
π̂_bon ∝ π_ref·Ŵ: what perfect training on that pool would reach. Beside it core.pool_size's N(N−1)/(2M(2N−1)).
"""

import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from vbon.core import best_of_n, pool_size
from vbon.figures.shapes import Line, Panel
from vbon.lab.exact import Float, Truth, kl, mean_and_error, normalised
from vbon.lab.experiment import Context
from vbon.lab.pools import ESTIMATORS, draw_counts, ks_p_value
from vbon.lab.rows import RULE, Row, distinct, line, plus_minus, seeds_line, where
from vbon.lab.training import LONG, Job, Scale, run_cases, truth_of
from vbon.lab.training import run as run_job
from vbon.lab.world import WORLDS, World

TITLE = "samples: what a pool of M costs (nats; ± is the 95 % interval over pools)"
COLUMNS = "world n num_samples estimator rmse kl kl_error kl_rule"
TRAINED_BY = "n num_samples"
WORLD_NAMES = ("large", "default", "peaked")
KS_LARGE = 100_000
KS_LEVEL = 0.05


@dataclass(frozen=True, kw_only=True)
class Preset:
    ns: tuple[int, ...] = (2, 8, 32, 128)
    num_samples: tuple[int, ...] = (4, 16, 64, 250, 1000, 4000, 16000, 64000)
    pools: int = 100
    ks_pools: int = 400
    trained_n: tuple[int, ...] = (8, 32)
    trained_num_samples: tuple[int, ...] = (16, 64, 250, 1000, 20_000)
    scale: Scale = LONG
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)


PRESETS = {
    "quick": Preset(
        ns=(2, 8, 32),
        num_samples=(4, 32, 250, 2000),
        pools=20,
        ks_pools=100,
        trained_n=(8,),
        trained_num_samples=(32, 250),
        scale=Scale(num_iterations=100),
        seeds=(0,),
    ),
    "medium": Preset(
        ns=(8, 32),
        num_samples=(16, 64, 250, 1000, 4000),
        pools=20,
        ks_pools=100,
        scale=Scale(num_iterations=100),
        seeds=(0, 1, 2),
    ),
    "full": Preset(),
    "untrained": Preset(pools=40, trained_n=()),
}


def run_estimators(preset: Preset, seed: int) -> list[Row]:
    """One row for each world, N, M (up to 1,000·N) and estimator."""
    rows = []
    for name in WORLD_NAMES:
        truth = truth_of(WORLDS[name])
        for num_samples in preset.num_samples:
            rng = np.random.default_rng([seed, num_samples])
            pools = [draw_counts(truth.ref_probs[0], truth.rewards[0], num_samples, rng) for _ in range(preset.pools)]
            for n in (n for n in preset.ns if num_samples <= 1000 * n):
                for estimator, estimate in ESTIMATORS.items():
                    errors = [_errors(truth, estimate(counts, n), n) for counts in pools]
                    rows.append(
                        {
                            "world": name,
                            "n": n,
                            "num_samples": num_samples,
                            "estimator": estimator,
                            **_summary(errors),
                            "kl_rule": pool_size.kl_from_pool(num_samples, n),
                        }
                    )
    return rows


def _errors(truth: Truth, log_weight: Float, n: float) -> tuple[float, float]:
    """(error of ρ over π_bon with its mean taken out, KL(π̂_bon‖π_bon)) of one pool of the first prompt."""
    log_bon = truth.log_bon(n)[0]
    error = (log_weight - truth.log_weight(n)[0]) / (n - 1)
    bon = np.exp(log_bon)
    spread = np.sqrt(bon @ (error - bon @ error) ** 2)
    estimated = normalised(np.log(truth.ref_probs[0]) + log_weight)
    return float(spread), kl(estimated[None], log_bon[None])


def _summary(errors: list[tuple[float, float]]) -> dict[str, float]:
    spread, divergence = np.array(errors).T
    mean, half = mean_and_error(divergence)
    return {"rmse": float(np.sqrt(np.mean(spread**2))), "kl": mean, "kl_error": half}


def run_ks(preset: Preset, seed: int) -> list[Row]:
    """Share of pools of M that a two-sample KS test at 5 % tells from a large sample of the same π_ref."""
    truth = truth_of(World())
    probs, rewards = truth.ref_probs[0], truth.rewards[0]
    rng = np.random.default_rng([seed, 1])
    large = rng.choice(rewards, KS_LARGE, p=probs)
    rows = []
    for num_samples in preset.num_samples:
        pools = (rng.choice(rewards, num_samples, p=probs) for _ in range(preset.ks_pools))
        rejected = float(np.mean([ks_p_value(pool, large) < KS_LEVEL for pool in pools]))
        half = 1.96 * np.sqrt(max(rejected * (1 - rejected), 1 / preset.ks_pools) / preset.ks_pools)
        rows.append({"num_samples": num_samples, "rejected": rejected, "rejected_error": float(half)})
    return rows


def run_trained(preset: Preset, context: Context) -> list[Row]:
    """Train on pools of M; exact results, and the cost of the pool in samples for each prompt."""
    job_of = partial(Job, world=World(), scale=preset.scale, work=context.work)
    cases = [
        ({"n": n, "num_samples": m}, job_of(n=n, seed=seed, num_samples=m))
        for n in preset.trained_n
        for m in preset.trained_num_samples
        for seed in context.seeds
    ]
    return run_cases(run_job, cases, context.num_workers)


def run_rule(preset: Preset) -> list[Row]:
    """The rule: M that costs 0.1, 0.01 and 0.001 nats, and the floor of the evaluation's reading at the middle one."""
    return [
        {
            "n": n,
            **{f"num_samples_for_{cost:g}": pool_size.num_samples_for(n, cost) for cost in (0.1, 0.01, 0.001)},
            "kl_floor": best_of_n.kl_floor(pool_size.num_samples_for(n), n),
        }
        for n in preset.ns
    ]


def run(preset: Preset, context: Context) -> dict[str, Any]:
    start = time.monotonic()
    rows = run_estimators(preset, context.seeds[0])
    return {
        "rows": rows,
        "ks": run_ks(preset, context.seeds[0]),
        "rule": run_rule(preset),
        "seconds_untrained": round(time.monotonic() - start, 1),
        "trained": run_trained(preset, context),
    }


def panels(result: dict[str, Any]) -> list[Panel]:
    drawn = [_panel(result["rows"], world, 32) for world in WORLD_NAMES]
    trained = [_trained_panel(result["trained"])] if result["trained"] else []
    return [*drawn, _ks_panel(result["ks"]), *trained]


def _panel(rows: list[Row], world: str, n: int) -> Panel:
    chosen = where(rows, world=world, n=n)
    lines = [
        line(where(chosen, estimator=name), "num_samples", "kl", name, band=plus_minus("kl"), least_of_band=1e-6)
        for name in ESTIMATORS
    ]
    rule = line(where(chosen, estimator=next(iter(ESTIMATORS))), "num_samples", "kl_rule", RULE, "--")
    return Panel(f"{world} π_ref, N = {n}", "M", "KL(π̂_bon‖π_bon), nats", [*lines, rule])


def _ks_panel(rows: list[Row]) -> Panel:
    rejected = line(rows, "num_samples", "rejected", "rejected at 5 %", band=plus_minus("rejected"))
    expected = Line("5 %", rejected.x, [KS_LEVEL] * len(rows), style="--")
    return Panel("KS test against 100,000 samples", "M", "share of pools rejected", [rejected, expected], y_log=False)


def _trained_panel(trained: list[Row]) -> Panel:
    """The trained policy's distance, and the rule's, which is what perfect training would leave."""
    lines, sizes = [], distinct(trained, "num_samples")
    for n in distinct(trained, "n"):
        lines.append(seeds_line(where(trained, n=n), "num_samples", "kl_policy_bon", f"N = {n}"))
        lines.append(Line(f"N = {n}, the rule", sizes, [pool_size.kl_from_pool(m, n) for m in sizes], style="--"))
    return Panel("trained on pools of M", "M", "KL(π_θ‖π_bon), nats", lines)
