"""Where the map from N to the β of KL-constrained RL is exact: its optimum π_ref·exp(r/β) then matches best-of-N.

For other rewards there is no closed form (`vbon lab n-beta` solves for it). Not in the paper (arXiv 2407.06057).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vbon.core.best_of_n import kl_coef_from_n, kl_from_reference

_BISECTIONS = 200


def kl_coef_for_gaussian(n: float, std: float) -> float:
    """β = σ/√(2·KL_N): equal KL to π_ref where rewards are normal (the optimum shifts their mean by σ²/β).

    KL_N = log N − (N−1)/N. Raises ValueError for std ≤ 0, N ≤ 1.
    """
    _check(n, std=std)
    return std / math.sqrt(2 * kl_from_reference(n))


def kl_coef_for_verifier(n: float, pass_rate: float) -> float:
    """β = 1/log[(1−(1−p)^N)/(p·(1−p)^{N−1})]: the same distribution as best-of-N, for a reward of 0 or 1.

    Raises ValueError for p outside (0, 1), N ≤ 1.
    """
    _check(n, pass_rate=pass_rate)
    if not pass_rate < 1:
        raise ValueError(f"pass_rate must be less than 1, got {pass_rate}")
    log_failure = math.log1p(-pass_rate)
    return 1 / (math.log(-math.expm1(n * log_failure)) - math.log(pass_rate) - (n - 1) * log_failure)


def kl_coef_for_log_rank(n: float, scale: float) -> float:
    """β = s/(N−1): the same distribution as best-of-N, where the reward is s·log F up to a constant.

    vBoN's own case: its sequence reward is log F, without ties. Raises ValueError for s ≤ 0, N ≤ 1.
    """
    _check(n, scale=scale)
    return scale * kl_coef_from_n(n)


def tilted_weights(scores: ArrayLike, kl_coef: float) -> NDArray[np.float64]:
    """π_ref·exp(score/β)/Z on M samples of π_ref, the optimum of E[score] − β·KL: weights (M,) that sum to 1."""
    scaled = np.asarray(scores, np.float64) / kl_coef
    weights = np.exp(scaled - scaled.max())
    return np.asarray(weights / weights.sum())


def kl_of_tilt(scores: ArrayLike, kl_coef: float) -> float:
    """KL(π_ref·exp(score/β)/Z ‖ π_ref), plug-in from M samples of π_ref, nats; at most log M."""
    weights = tilted_weights(scores, kl_coef)
    kept = weights[weights > 0]
    return float(np.sum(kept * np.log(kept * len(weights))))


def kl_coef_for_samples(scores: Sequence[ArrayLike], kl: float) -> float:
    """The β whose optimum spends `kl` nats, mean over prompts: `scores` holds samples of π_ref, (M,) of each prompt.

    KL falls as β rises: bisection in log β. Raises ValueError for kl ≤ 0, or one that the samples cannot reach.
    """
    rows = [np.asarray(one, np.float64) for one in scores]
    spread = max(float(np.ptp(row)) for row in rows)
    if not kl > 0 or not spread > 0:
        raise ValueError(f"kl must be positive and the scores not all equal, got kl = {kl}, spread {spread}")
    low, high = math.log(spread * 1e-6), math.log(spread * 1e6)
    if float(np.mean([kl_of_tilt(row, math.exp(low)) for row in rows])) < kl:
        raise ValueError(f"the samples cannot reach {kl:g} nats")
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        reached = float(np.mean([kl_of_tilt(row, math.exp(middle)) for row in rows]))
        low, high = (middle, high) if reached > kl else (low, middle)
    return math.exp((low + high) / 2)


class Frontier(NamedTuple):
    """A point of the win-rate–KL front."""

    kl: float
    win_rate: float


def win_rate_frontier(scale: float) -> Frontier:
    """The highest win rate over π_ref at its KL: ranks u of continuous rewards tilted by e^{su}, s = 1/β ≥ 0.

    E[u] = 1/(1−e^{−s}) − 1/s,  KL = s·E[u] − log((e^s − 1)/s). The optimum of the quantile reward; at s = 0, π_ref.
    """
    if scale < 1e-4:  # the series: both differences cancel
        return Frontier(scale**2 / 24, 0.5 + scale / 12)
    mean = -1 / math.expm1(-scale) - 1 / scale
    log_normaliser = scale + math.log(-math.expm1(-scale)) - math.log(scale)
    return Frontier(scale * mean - log_normaliser, mean)


def _check(n: float, **positive: float) -> None:
    for name, value in positive.items():
        if not value > 0:
            raise ValueError(f"{name} must be positive, got {value}")
    if not n > 1:
        raise ValueError(f"n must be greater than 1, got {n}")
