"""The size that a pool needs: the cost of estimating F from M samples, in nats of KL to best-of-N.

To first order in 1/M, continuous rewards. With δ = (N−1)·(F̂ − F)/F, F̂ − F a Brownian bridge of variance F(1−F)/M,

    KL(π̂_bon‖π_bon) ≈ ½·Var_bon(δ),   E[Var_bon(δ)] = (N−1)/M − (N−1)²/(M(2N−1)) = N(N−1)/(M(2N−1))

Where π_ref is peaked the cost is lower: completions that carry mass determine their own F̂. Not in the paper (arXiv
2407.06057), which leaves M open; docs/experiments.md compares it with simulation.
"""

import math

TOLERANCE = 0.01
"""Nats of KL(π̂_bon‖π_bon) that a pool may cost: M ≈ 25·N for large N, 17·N for N = 2."""


def kl_from_pool(num_samples: int, n: float) -> float:
    """Estimate the expected KL(π̂_bon‖π_bon) ≈ N(N−1)/(2M(2N−1)), about N/(4M) nats, of F̂ from M samples of a prompt.

    Raises:
        ValueError: M < 1, or N < 1 or infinite.
    """
    if num_samples < 1 or not 1 <= n < math.inf:
        raise ValueError(f"needs num_samples ≥ 1 and a finite n ≥ 1, got {num_samples} and {n}")
    return n * (n - 1) / (2 * num_samples * (2 * n - 1))


def num_samples_for(n: float, kl: float = TOLERANCE) -> int:
    """Find the smallest M whose pool costs at most `kl` nats; it inverts `kl_from_pool`.

    Raises:
        ValueError: kl ≤ 0.
    """
    if not kl > 0:
        raise ValueError(f"kl must be positive, got {kl}")
    return max(1, math.ceil(kl_from_pool(1, n) / kl - 1e-9))
