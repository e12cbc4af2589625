"""`vbon inspect`: the content of a pool, whether M is large enough, and the expected gain of best-of-N for every N."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from vbon.config.pool import InspectConfig
from vbon.core import pool_size, rank_tilts, stats
from vbon.core.rank_tilts import RankTilt, parse
from vbon.core.reward_cdf import RewardCDF
from vbon.core.tail_cdf import Tail, kl_floor
from vbon.errors import VbonError
from vbon.models.load import resolve_device
from vbon.pool.judged import check_judges, judge_best_of_n, judge_table, judge_warning
from vbon.pool.predict import predict
from vbon.pool.store import ReferencePool
from vbon.rewards import Reward, load_configured_reward

DRIFT_P_VALUE = 1e-3
_CAPTION = (
    "Second lines: 95 % intervals over prompts. no ties: the value without ties, N/(N+1) or log N − (N−1)/N. "
    "floor: the estimate of KL(π_θ‖π_bon) for a perfect policy. *: this M costs training more than 0.01 nats of "
    "KL(·‖π_bon); M of about 25·N does not."
)
IDS_SHOWN = 5
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


def inspect_command(config: InspectConfig) -> dict[str, Any]:
    """Inspect the pool at `config.pool`, print the tables, and return the result of `inspect`."""
    pool = ReferencePool.open(config.pool, allow_incomplete=True)
    device = str(resolve_device(config.device)) if config.judges else "cpu"
    judges = [load_configured_reward(spec, config, device) for spec in config.judges]
    result = inspect(pool, config.n or None, seed=config.seed, judges=judges, tilt=config.tilt, tail=config.tail)
    print_inspection(result, Console())
    return result


def inspect(
    pool: ReferencePool,
    ns: Sequence[int] | None = None,
    *,
    seed: int = 0,
    judges: Sequence[Reward] = (),
    tilt: str = "best",
    tail: Tail = "counts",
) -> dict[str, Any]:
    """Compute all that `vbon inspect` shows, as JSON values.

    Args:
        pool: the pool.
        ns: values of N; default: 2, 4, 8, … up to the smallest M.
        seed: seed of the intervals, which are of 95 % over prompts (core.stats.bootstrap).
        judges: rewards that score best-of-N of the pool's own reward.
        tilt: the rank tilt to predict for, as `vbon train --tilt` spells it; N is its strength.
        tail: "exponential" extrapolates the reward of best-of-N to an N above M (`core.tail_cdf`).

    Returns:
        The numbers by name; `best_of_n` has a row for each N, and `judges` a part for each judge.

    Raises:
        VbonError: an N is above every M without the tail, the pool has no samples, or no texts for a judge, or a judge
            is given twice.
    """
    check_judges(judges)
    if not len(pool):
        raise VbonError(f"{pool.path}: holds no samples yet")
    chosen = _default_ns(pool) if ns is None else list(ns)
    if chosen and max(chosen) > pool.num_samples.max() and tail == "counts":
        most = f"the pool has at most {pool.num_samples.max()} samples of a prompt"
        raise VbonError(f"--n {max(chosen)}: {most}; --tail exponential extrapolates")
    result = {
        "pool": str(pool.path),
        "complete": pool.manifest.complete,
        "num_prompts": len(pool),
        "num_samples": _spread(pool.num_samples),
        "fingerprint": pool.fingerprint.to_json(),
        "unknown": pool.fingerprint.unknown(),
        "reward": _reward_summary(pool),
        "ties": _ties(pool),
        "completions": _completion_summary(pool),
        "drift": _drift(pool, seed),
        "best_of_n": [_row(pool, parse(tilt, n), seed, tail) for n in chosen],
        "judges": [judge_best_of_n(pool, judge, chosen, seed) for judge in judges],
    }
    return {**result, "warnings": _warnings(result)}


def print_inspection(result: dict[str, Any], console: Console) -> None:
    """Print the result of `inspect`."""
    console.print(_overview(result))
    console.print(_prediction_table(result["best_of_n"]))
    for judged in result["judges"]:
        console.print(judge_table(judged))
    for line in result["warnings"]:
        console.print(f"[yellow]warning:[/] {line}", highlight=False)


def _default_ns(pool: ReferencePool) -> list[int]:
    return [2**power for power in range(1, 63) if 2**power <= pool.num_samples.min()]


def _spread(values: NDArray[np.int64]) -> dict[str, float]:
    return {"min": int(values.min()), "median": float(np.median(values)), "max": int(values.max())}


def _reward_summary(pool: ReferencePool) -> dict[str, Any]:
    quantiles = np.quantile(pool.rewards, QUANTILES)
    per_prompt = pool.per_prompt(pool.rewards)
    return {
        "mean": stats.mean([rewards.mean() for rewards in per_prompt])._asdict(),
        "std_within_prompts": float(np.sqrt(np.mean([rewards.var() for rewards in per_prompt]))),
        "quantiles": {f"{q:g}": float(value) for q, value in zip(QUANTILES, quantiles, strict=True)},
    }


def _ties(pool: ReferencePool) -> dict[str, Any]:
    counts = [np.unique(rewards, return_counts=True)[1] for rewards in pool.per_prompt(pool.rewards)]
    tied = [prompt.prompt_id for prompt, levels in zip(pool.prompts, counts, strict=True) if len(levels) == 1]
    pairs = [np.sum(c * (c - 1)) / max(c.sum() * (c.sum() - 1), 1) for c in counts]
    return {
        "tied_pairs": float(np.mean(pairs)),
        "mean_levels": float(np.mean([len(c) for c in counts])),
        "prompts_all_tied": len(tied) / len(counts),
        "all_tied": {"count": len(tied), "prompt_ids": tied[:IDS_SHOWN]},
    }


def _completion_summary(pool: ReferencePool) -> dict[str, float | None]:
    logprobs = pool.ref_logprobs
    return {
        "finished_rate": _mean(pool.finished.values.cast(pa.int8())),
        "mean_length": _mean(pc.list_value_length(pool.completion_ids.values)),
        "entropy": float(-logprobs.mean()) if np.isfinite(logprobs).all() else None,
    }


def _mean(values: pa.ChunkedArray) -> float | None:
    mean = pc.mean(values).as_py()
    return None if mean is None else float(mean)


def _drift(pool: ReferencePool, seed: int) -> dict[str, float] | None:
    """Rank the second half of each prompt's samples among the first half, to test whether all were drawn alike."""
    halves = pool.num_samples // 2
    if not halves.any():
        return None
    sample_index = np.arange(len(pool.rewards)) - np.repeat(pool.offsets[:-1], pool.num_samples)
    in_first = sample_index < halves[pool.prompt_index]
    usable = halves > 0
    first = RewardCDF(pool.rewards[in_first], halves[usable])
    rows = ~in_first & usable[pool.prompt_index]
    index = (np.cumsum(usable) - 1)[pool.prompt_index[rows]]
    k_lt, k_eq = first.counts(index, pool.rewards[rows])
    test = stats.rank_test(k_lt, k_eq, first.num_samples[index], index, seed=seed)
    return {"chi2": test.chi2, "p_value": test.p_value}


def _row(pool: ReferencePool, tilt: RankTilt, seed: int, tail: Tail) -> dict[str, Any]:
    n = int(tilt.n)
    chosen = [rewards for rewards in pool.per_prompt(pool.rewards) if len(rewards) >= n or tail == "exponential"]
    predictions = np.array([predict(rewards, tilt, tail) for rewards in chosen])
    smallest = min(len(rewards) for rewards in chosen)
    floor = kl_floor(smallest, tilt, tail)
    # At the target itself the estimate reads about twice what the pool costs, and both fall as 1/M.
    is_best = tilt.kind == "best"
    cost = pool_size.kl_from_pool(smallest, n) if is_best else floor / 2
    wanted = pool_size.num_samples_for(n) if is_best else math.ceil(smallest * cost / pool_size.TOLERANCE)
    return {
        "n": n,
        "num_prompts": len(chosen),
        "left_out": len(pool) - len(chosen),
        "reward": stats.mean(predictions[:, 0], seed)._asdict(),
        "win_rate": stats.mean(predictions[:, 1], seed)._asdict(),
        "kl_bon_ref": stats.mean(predictions[:, 2], seed)._asdict(),
        "win_rate_closed_form": rank_tilts.win_rate(tilt),
        "kl_bon_ref_closed_form": rank_tilts.kl_from_reference(tilt),
        "kl_policy_bon_floor": floor,
        "kl_from_pool": cost,
        "num_samples_wanted": wanted,
        "enough_samples": smallest >= wanted,
    }


def _warnings(result: dict[str, Any]) -> list[str]:
    short = [row["n"] for row in result["best_of_n"] if not row["enough_samples"]]
    wanted = max((row["num_samples_wanted"] for row in result["best_of_n"] if not row["enough_samples"]), default=0)
    samples = result["num_samples"]["min"]
    drift, ties, finished = result["drift"], result["ties"], result["completions"]["finished_rate"]
    lines = [
        (not result["complete"], "the pool is unfinished; the figures are of what is there"),
        (
            short,
            f"M = {samples} costs more than {pool_size.TOLERANCE} nats of KL(·‖π_bon) for N = {_join(short)}: "
            f"wants M ≥ {wanted}",
        ),
        *(
            (
                row["left_out"],
                f"N = {row['n']}: {row['left_out']} of {result['num_prompts']} prompts have fewer samples "
                "and are left out of its row",
            )
            for row in result["best_of_n"]
        ),
        (
            drift and drift["p_value"] < DRIFT_P_VALUE,
            "the first and second half of the samples differ in reward (drift)",
        ),
        (ties["prompts_all_tied"] > 0.5, "most prompts have one reward level: best-of-N cannot improve them"),
        (finished == 0.0, "no completion ended by itself: is --max-new-tokens long enough, the stop token right?"),
        (result["unknown"], f"not known how the pool was made: {_join(result['unknown'])} (see --declare)"),
    ]
    judged = [line for line in map(judge_warning, result["judges"]) if line is not None]
    return [*(line for holds, line in lines if holds), *judged]


def _join(values: Sequence[Any]) -> str:
    return ", ".join(str(value) for value in values)


def _overview(result: dict[str, Any]) -> Table:
    samples, reward, done = result["num_samples"], result["reward"], result["completions"]
    drift = result["drift"]
    table = Table(title=f"pool {result['pool']}", show_header=False, title_justify="left")
    rows = {
        "prompts": result["num_prompts"],
        "samples per prompt (M)": f"{samples['min']} / {samples['median']:g} / {samples['max']} (min, median, max)",
        "mean reward": f"{_interval(reward['mean'])}, within-prompt std {reward['std_within_prompts']:.3g}",
        "reward quantiles": "  ".join(f"{q}: {value:.4g}" for q, value in reward["quantiles"].items()),
        "tied pairs": f"{result['ties']['tied_pairs']:.2%}, {result['ties']['mean_levels']:.1f} levels per prompt",
        "prompts of one reward": _all_tied(result["ties"]["all_tied"]),
        "finished by a stop token": "unknown" if done["finished_rate"] is None else f"{done['finished_rate']:.2%}",
        "mean length": "unknown" if done["mean_length"] is None else f"{done['mean_length']:.1f} tokens",
        "entropy of the reference": "unknown" if done["entropy"] is None else f"{done['entropy']:.2f} nats",
        "drift between halves": "unknown" if drift is None else f"p = {drift['p_value']:.3g}",
    }
    for name, value in rows.items():
        table.add_row(name, str(value))
    return table


def _all_tied(tied: dict[str, Any]) -> str:
    more = ", …" if tied["count"] > len(tied["prompt_ids"]) else ""
    return f"{tied['count']}" + (f" ({_join(tied['prompt_ids'])}{more})" if tied["count"] else "")


def _prediction_table(rows: Sequence[dict[str, Any]]) -> Table:
    table = Table(
        title="Prediction for best-of-N", title_justify="left", caption=_CAPTION, caption_justify="left", box=SIMPLE
    )
    for name in ("N", "reward", "win rate", "no ties", "KL(bon‖ref)", "no ties", "floor"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            f"{row['n']}{'' if row['enough_samples'] else ' *'}",
            _interval(row["reward"], "\n{}…{}"),
            _interval(row["win_rate"], "\n{}…{}"),
            f"{row['win_rate_closed_form']:.3f}",
            _interval(row["kl_bon_ref"], "\n{}…{}"),
            f"{row['kl_bon_ref_closed_form']:.3f}",
            f"{row['kl_policy_bon_floor']:.3f}",
        )
    return table


def _interval(estimate: dict[str, float], form: str = " ({}, {})") -> str:
    low, high = f"{estimate['low']:.3f}", f"{estimate['high']:.3f}"
    return f"{estimate['value']:.3f}" + (form.format(low, high) if low != high else "")
