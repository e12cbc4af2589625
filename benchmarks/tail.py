"""How far the target of a pool is from best-of-N, by counts alone and with an exponential tail (`--tail exponential`).

python -m benchmarks.tail [--pool POOL] [--json FILE]

Without a pool: rewards of three laws, quantile by quantile, means over pools of M. With a pool: M of each prompt's
samples are a small pool, and the other samples of the prompt are taken to be the truth. KL(π̂‖π_bon) in nats, the
estimate normalised; Z is the mean of Ŵ over the truth, 1 by counts.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from vbon.core.best_of_n import log_weight
from vbon.core.reward_cdf import RewardCDF
from vbon.core.tail_cdf import TailCDF
from vbon.pool.store import ReferencePool

Float = NDArray[np.float64]
LAWS = {"normal": stats.norm(), "student t, 4": stats.t(4), "uniform": stats.uniform()}
SIZES = ((32, 32), (32, 128), (64, 256), (200, 1000), (64, 8))
"""M and N."""
WAYS = {"counts": lambda pool: pool, "tail": TailCDF}
EDGES = np.unique(1 - np.concatenate([np.linspace(1, 1e-2, 2000), np.geomspace(1e-2, 1e-7, 4000)]))
MIDDLE, MASS = (EDGES[1:] + EDGES[:-1]) / 2, np.diff(EDGES)


def distance(cdf: RewardCDF | TailCDF, at: Float, mass: Float, log_target: Float, n: float) -> tuple[float, float]:
    """KL of the normalised estimate from the target, and the estimate's normaliser.

    Args:
        cdf: one small pool.
        at: rewards of the truth, each of which has the probability `mass`.
        mass: (B,), sums to 1.
        log_target: log W of these rewards, (B,).
        n: N.
    """
    found = cdf.interval(np.zeros(len(at), np.int64), at)
    log_w = log_weight(found.cdf_lt, found.cdf_le, n)
    z = float(mass @ np.exp(log_w))
    weights = mass * np.exp(log_w) / z
    gap = np.where(weights > 0, log_w - np.log(z) - log_target, 0.0)
    return float(weights @ gap), z


def of_laws(sizes: Sequence[tuple[int, int]] = SIZES, pools: int = 100, seed: int = 0) -> list[dict[str, Any]]:
    """A row for each law, M, N and way."""
    rng, rows = np.random.default_rng(seed), []
    for name, law in LAWS.items():
        for m, n in sizes:
            log_target = np.log(n) + (n - 1) * np.log(MIDDLE)
            drawn = [RewardCDF(law.ppf(rng.random(m)), [m]) for _ in range(pools)]
            for way, make in WAYS.items():
                found = [distance(make(pool), law.ppf(MIDDLE), MASS, log_target, n) for pool in drawn]
                rows.append({"law": name, "num_samples": m, "n": n, "way": way, **_summary(found)})
    return rows


def of_pool(pool: ReferencePool, sizes: Sequence[tuple[int, int]], seed: int = 0) -> list[dict[str, Any]]:
    """A row for each M, N and way; means over the prompts of the pool."""
    rng, rows = np.random.default_rng(seed), []
    orders = [(rewards, rng.permutation(len(rewards))) for rewards in pool.per_prompt(pool.rewards)]
    for m, n in sizes:
        for way, make in WAYS.items():
            found = []
            for rewards, order in orders:
                truth = rewards[order[m:]]
                ranks = [np.searchsorted(np.sort(truth), truth, side) / len(truth) for side in ("left", "right")]
                mass = np.full(len(truth), 1 / len(truth))
                small = make(RewardCDF(rewards[order[:m]], [m]))
                found.append(distance(small, truth, mass, log_weight(*ranks, n), n))
            rows.append({"law": "pool", "num_samples": m, "n": n, "way": way, **_summary(found)})
    return rows


def _summary(found: list[tuple[float, float]]) -> dict[str, float]:
    kl, z = np.array(found).T
    return {"kl": float(kl.mean()), "kl_error": float(1.96 * kl.std() / np.sqrt(len(kl))), "z": float(z.mean())}


def main() -> None:
    """Print the rows and write them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pool", type=Path, help="a pool of many samples per prompt")
    parser.add_argument("--json", type=Path, help="file to write")
    parser.add_argument("--pools", type=int, default=100, help="pools of each law")
    given = parser.parse_args()
    if given.pool is None:
        rows = of_laws(pools=given.pools)
    else:
        pool = ReferencePool.open(given.pool)
        rows = of_pool(pool, [(m, n) for m, n in SIZES if m + n < pool.num_samples.min()])
    for row in rows:
        print("  ".join(f"{value:.4f}" if isinstance(value, float) else f"{value!s:>12}" for value in row.values()))
    if given.json is not None:
        what = {} if given.pool is None else {"num_prompts": len(pool), "num_samples": int(pool.num_samples.min())}
        given.json.write_text(json.dumps({**what, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
