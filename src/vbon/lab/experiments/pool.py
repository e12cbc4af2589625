"""The exact questions asked of text: monotone maps, the bound, M, and the map N ↔ β, on the prompts of real pools.

A pool's own M samples, each of mass 1/M, are taken for the reference: then F, best-of-N, KL-RL's optimum and what a
smaller pool estimates of them are exact, prompt by prompt. Intervals are 95 %, bootstrapped over prompts. Each pool
that is given is a row of its own: builds of one task stand for seeds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vbon.core import kl_rl, pool_size, stats
from vbon.figures.shapes import Panel
from vbon.lab.exact import Float, kl, normalised
from vbon.lab.experiment import Context
from vbon.lab.laws import MAPS, Law, spread_of
from vbon.lab.pools import ESTIMATORS, draw_counts
from vbon.lab.rows import RULE, Row, distinct, interval, line, where
from vbon.pool.store import ReferencePool

TITLE = "pool: best-of-N and its rivals on the prompts of a pool (nats; means over prompts)"
TRAINED_BY = ""
COLUMNS = (
    "pool n kl_bon_ref win_rate_bon win_rate_kl_rl kl_rl_bon kl_one_sided_bon kl_upper_bon kl_rl_moved_by_exp "
    "bon_moved_by_tanh one_sided_moved_by_tanh"
)


@dataclass(frozen=True, kw_only=True)
class Preset:
    ns: tuple[int, ...] = (2, 4, 8, 16, 32)
    num_samples: tuple[int, ...] = (8, 16, 32, 64, 128, 256)
    seeds: tuple[int, ...] = (0,)


PRESETS = {"quick": Preset()}


def run(preset: Preset, context: Context) -> dict[str, Any]:
    """Rows of each pool and N; and of each pool, N, M and estimator."""
    found = [ReferencePool.open(path) for path in context.pools]
    every = [laws_of(pool) for pool in found]
    rng = np.random.default_rng(context.seeds[0])
    cases = [(number, laws, n) for number, laws in enumerate(every, 1) for n in preset.ns]
    return {
        "rows": [{"pool": number, "n": n, **compare(laws, n)} for number, laws, n in cases],
        "samples": [
            {"pool": number, "n": n, **row}
            for number, laws, n in cases
            for row in sub_pools(laws, n, preset.num_samples, rng)
        ],
        "pools": [{"prompts": len(pool), "samples": int(pool.num_samples.min())} for pool in found],
    }


def laws_of(pool: ReferencePool) -> list[Law]:
    """The law of each prompt's samples, ties shared."""
    return [law_of(rewards) for rewards in pool.per_prompt(pool.rewards)]


def law_of(rewards: Float) -> Law:
    """M draws as atoms of 1/M, with the exact F_< and F_≤ of that law."""
    ordered = np.sort(rewards)
    lower, upper = (np.searchsorted(ordered, rewards, side) / len(rewards) for side in ("left", "right"))
    return Law(np.full(len(rewards), -np.log(len(rewards))), rewards, lower, upper)


def compare(laws: Sequence[Law], n: float) -> dict[str, Any]:
    """Best-of-N and what stands beside it, each mean with its interval under `intervals`."""
    spread = spread_of(law.rewards for law in laws)
    beta, mapped_beta = kl_matched(laws, n), kl_matched([mapped(law, "exponential", spread) for law in laws], n)
    columns = [_compare(law, n, beta, mapped_beta, spread) for law in laws]
    estimates = {name: stats.mean([row[name] for row in columns]) for name in columns[0]}
    return {
        "beta": beta,
        "beta_over_std": beta / spread,
        **{name: estimate.value for name, estimate in estimates.items()},
        "intervals": {name: [estimate.low, estimate.high] for name, estimate in estimates.items()},
    }


def mapped(law: Law, reward_map: str, spread: float) -> Law:
    """The law of the rewards after one of `MAPS`."""
    return law_of(MAPS[reward_map](law.rewards, spread))


def kl_matched(laws: Sequence[Law], n: float) -> float:
    """The one β of all prompts whose optimum spends best-of-N's KL to π_ref, mean over prompts."""
    spent = float(np.mean([law.kl_from_ref(law.log_bon(n)) for law in laws]))
    return kl_rl.kl_coef_for_samples([law.rewards for law in laws], spent, kl_rl.kl_of_samples_tilt)


def sub_pools(laws: Sequence[Law], n: float, sizes: Sequence[int], rng: np.random.Generator) -> list[Row]:
    """KL(π̂_bon‖π_bon) of every estimator from M draws of each prompt's law."""
    rows = []
    for size in sizes:
        counts = [draw_counts(np.exp(law.log_ref), law.rewards, size, rng) for law in laws]
        for name, estimate in ESTIMATORS.items():
            found = [
                _kl(normalised(law.log_ref + estimate(one, n)), law.log_bon(n))
                for law, one in zip(laws, counts, strict=True)
            ]
            mean = stats.mean(found)
            rows.append(
                {
                    "num_samples": size,
                    "estimator": name,
                    "kl": mean.value,
                    "interval": [mean.low, mean.high],
                    "kl_rule": pool_size.kl_from_pool(size, n),
                }
            )
    return rows


def _compare(law: Law, n: float, beta: float, mapped_beta: float, spread: float) -> dict[str, float]:
    log_bon, tilted = law.log_bon(n), law.log_tilted(beta)
    upper = normalised(law.log_ref + (n - 1) * np.log(law.upper))
    exp, tanh = mapped(law, "exponential", spread), mapped(law, "saturated", spread)
    return {
        "kl_bon_ref": law.kl_from_ref(log_bon),
        "win_rate_bon": law.win_rate(log_bon),
        "reward_bon": law.mean(log_bon),
        "win_rate_kl_rl": law.win_rate(tilted),
        "reward_kl_rl": law.mean(tilted),
        "kl_rl_bon": _kl(tilted, log_bon),
        "kl_one_sided_bon": _kl(_one_sided(law, n), log_bon),
        "kl_upper_bon": _kl(upper, log_bon),
        "kl_rl_moved_by_exp": _kl(exp.log_tilted(mapped_beta), tilted),
        "bon_moved_by_exp": _kl(exp.log_bon(n), log_bon),
        "bon_moved_by_tanh": _kl(tanh.log_bon(n), log_bon),
        "one_sided_moved_by_tanh": _kl(_one_sided(tanh, n), log_bon),
    }


def _one_sided(law: Law, n: float) -> Float:
    """log of the optimum of the published count, π_ref·(F_< + one sample's mass)^(N−1)."""
    return normalised(law.log_ref + (n - 1) * np.log(law.lower + np.exp(law.log_ref)))


def _kl(log_p: Float, log_q: Float) -> float:
    return kl(log_p[None], log_q[None])


def panels(result: dict[str, Any]) -> list[Panel]:
    first = where(result["rows"], pool=1)
    names = {
        "kl_rl_bon": "KL-RL at equal KL",
        "kl_one_sided_bon": "one-sided count",
        "kl_upper_bon": "F_≤ form",
        "kl_rl_moved_by_exp": "KL-RL moved by exp",
    }
    distances = [line(first, "n", key, label, band=interval(key), least_of_band=1e-6) for key, label in names.items()]
    largest = max(row["n"] for row in first if row["n"] <= 8)
    rows = where(result["samples"], pool=1, n=largest)
    estimators = [
        line(
            where(rows, estimator=name), "num_samples", "kl", name, band=lambda row: row["interval"], least_of_band=1e-6
        )
        for name in ESTIMATORS
    ]
    rule = line(where(rows, estimator=next(iter(ESTIMATORS))), "num_samples", "kl_rule", RULE, "--")
    betas = [
        line(where(result["rows"], pool=i), "n", "beta_over_std", f"pool {i}") for i in distinct(result["rows"], "pool")
    ]
    return [
        Panel("what differs from best-of-N", "N", "KL(·‖π_bon), nats", distances),
        Panel(f"a pool of M, N = {largest}", "M", "KL(π̂_bon‖π_bon), nats", [*estimators, rule]),
        Panel("the map N ↔ β", "N", "β/σ", betas),
    ]
