"""Closed forms that map N to the β of KL-constrained RL, whose optimum π_ref·exp(r/β) then matches best-of-N.

For other rewards there is no closed form (`vbon lab n-beta` solves for it). Not in the paper (arXiv 2407.06057).
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vbon.core.best_of_n import kl_coef_from_n, kl_from_reference

_BISECTIONS = 200
_TINY = 1e-300


def kl_coef_for_gaussian(n: float, std: float) -> float:
    """Compute β = σ/√(2·KL_N) with KL_N = log N − (N−1)/N: the same KL to π_ref as best-of-N where rewards are normal.

    The optimum shifts the mean of the rewards by σ²/β.

    Raises:
        ValueError: std ≤ 0 or N ≤ 1.
    """
    _check(n, std=std)
    return std / math.sqrt(2 * kl_from_reference(n))


def kl_coef_for_verifier(n: float, pass_rate: float) -> float:
    """Compute β = 1/log[(1−(1−p)^N)/(p·(1−p)^{N−1})]: the same distribution as best-of-N for a reward of 0 or 1.

    Raises:
        ValueError: the pass rate p is outside (0, 1), or N ≤ 1.
    """
    _check(n, pass_rate=pass_rate)
    if not pass_rate < 1:
        raise ValueError(f"pass_rate must be less than 1, got {pass_rate}")
    log_failure = math.log1p(-pass_rate)
    return 1 / (math.log(-math.expm1(n * log_failure)) - math.log(pass_rate) - (n - 1) * log_failure)


def kl_coef_for_log_rank(n: float, scale: float) -> float:
    """Compute β = s/(N−1): the same distribution as best-of-N where the reward is s·log F plus a constant.

    This is the case of vBoN itself, whose sequence reward without ties is log F.

    Raises:
        ValueError: s ≤ 0 or N ≤ 1.
    """
    _check(n, scale=scale)
    return scale * kl_coef_from_n(n)


def tilted_weights(scores: ArrayLike, kl_coef: float) -> NDArray[np.float64]:
    """Compute the weights π_ref·exp(score/β)/Z of M samples of π_ref, the optimum of E[score] − β·KL.

    `scores` is (M,); the weights are (M,) and sum to 1.
    """
    scaled = np.asarray(scores, np.float64) / kl_coef
    weights = np.exp(scaled - scaled.max())
    return np.asarray(weights / weights.sum())


def kl_of_samples_tilt(scores: ArrayLike, kl_coef: float) -> float:
    """Compute the KL in nats of the tilted samples to the samples themselves, which have equal weights.

    As an estimate of KL(π_ref·exp(score/β)/Z ‖ π_ref) it is biased low: it is at most log M. See `kl_of_tilt`.
    """
    weights = tilted_weights(scores, kl_coef)
    kept = weights[weights > 0]
    return float(np.sum(kept * np.log(kept * len(weights))))


def kl_of_tilt(scores: ArrayLike, kl_coef: float) -> float:
    """Estimate KL(π_ref·exp(score/β)/Z ‖ π_ref) in nats from M samples of π_ref, without the bias of order 1/M.

    Delete-one jackknife: M·K − (M−1)·mean_i K₋ᵢ of the samples' own KL (`kl_of_samples_tilt`). A bias of higher order
    remains where a few samples carry the tilt; it is of the size of the correction at most.
    """
    tilt = np.asarray(scores, np.float64) / kl_coef
    count = len(tilt)
    if count < 2:
        return 0.0
    tilt = tilt - tilt.max()
    weight, moment = np.exp(tilt), tilt * np.exp(tilt)
    # The sums without sample i; without the largest, what is left may underflow: its own maximum is its KL then.
    z, first = np.maximum(weight.sum() - weight, _TINY), moment.sum() - moment
    left_out = first / z - np.log(z / (count - 1))
    top = tilt >= 0
    if top.sum() == 1:
        left_out[top] = kl_of_samples_tilt(tilt[~top], 1.0)
    return float(count * kl_of_samples_tilt(tilt, 1.0) - (count - 1) * left_out.mean())


def kl_coef_for_samples(
    scores: Sequence[ArrayLike], kl: float, kl_of: Callable[[ArrayLike, float], float] = kl_of_tilt
) -> float:
    """Find the β whose optimum has a KL of `kl` nats to π_ref, as a mean over prompts.

    `scores` holds an array (M,) of scores of π_ref's samples for each prompt. KL falls as β rises: bisection in log β.
    `kl_of`: the KL of one prompt; `kl_of_samples_tilt` where the samples are the law itself and no estimate of one.

    Raises:
        ValueError: kl ≤ 0, or larger than the samples can show.
    """
    rows = [np.asarray(one, np.float64) for one in scores]
    spread = max(float(np.ptp(row)) for row in rows)
    if not kl > 0 or not spread > 0:
        raise ValueError(f"kl must be positive and the scores not all equal, got kl = {kl}, spread {spread}")
    low, high = math.log(spread * 1e-6), math.log(spread * 1e6)
    if float(np.mean([kl_of(row, math.exp(low)) for row in rows])) < kl:
        raise ValueError(f"the samples cannot reach {kl:g} nats")
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        reached = float(np.mean([kl_of(row, math.exp(middle)) for row in rows]))
        low, high = (middle, high) if reached > kl else (low, middle)
    return math.exp((low + high) / 2)


class Frontier(NamedTuple):
    """A point on the front of win rate and KL."""

    kl: float
    win_rate: float


def win_rate_frontier(scale: float) -> Frontier:
    """Compute the highest win rate over π_ref that its KL allows: the optimum of the quantile reward.

    Ranks u of continuous rewards are tilted by e^{su}, s = `scale` = 1/β ≥ 0; s = 0 is π_ref. Then E[u] = 1/(1−e^{−s})
    − 1/s and KL = s·E[u] − log((e^s − 1)/s), in nats.
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
