"""Where the map from N to the β of KL-constrained RL is exact: its optimum π_ref·exp(r/β) then matches best-of-N.

For other rewards there is no closed form (`vbon lab n-beta` solves for it). Not in the paper (arXiv 2407.06057).
"""

import math

from vbon.core.best_of_n import kl_coef_from_n, kl_from_reference


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


def _check(n: float, **positive: float) -> None:
    for name, value in positive.items():
        if not value > 0:
            raise ValueError(f"{name} must be positive, got {value}")
    if not n > 1:
        raise ValueError(f"n must be greater than 1, got {n}")
