"""Best-of-N (BoN) in closed form: densities, bounds and budgets.

Draw N completions from π_ref and keep one with the highest reward; ties are broken uniformly at random. With F_<(R) =
P(r(Y) < R) and F_≤(R) = P(r(Y) ≤ R), Y ~ π_ref,

    π_bon(y|x) = π_ref(y|x) · W_N(F_<, F_≤),    W_N(a, b) = (b^N − a^N)/(b − a) = Σ_{k<N} b^k a^{N−1−k}

This departs from Variational Best-of-N (arXiv 2407.06057), which assumes that different strings have different rewards:
W_N covers every kind of tie, and any real N ≥ 1. With different rewards it equals the paper's binomial sum.

Everything is float64 numpy. Probabilities are plain numbers, densities are logarithms in nats.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vbon.core.special import log_beta, log_binomial

Float = NDArray[np.float64]


def log_weight(cdf_lt: ArrayLike, cdf_le: ArrayLike, n: float) -> Float:
    """Compute log W_N(a, b), the log-density of best-of-N relative to π_ref.

    log W = (N−1)·log b + log[(1−e^{−Nδ})/(1−e^{−δ})] with δ = log b − log a. Special cases: δ → 0 gives (N−1)·log b +
    log N; a = 0 gives (N−1)·log b; N = 1 gives 0; b = 0 (a reward that is never reached) gives −inf.

    Args:
        cdf_lt: a = F_<, any shape, in [0, 1].
        cdf_le: b = F_≤, broadcastable with `cdf_lt`, in [a, 1].
        n: any real N ≥ 1, finite.

    Returns:
        log W_N in nats, float64, of the broadcast shape.

    Raises:
        ValueError: n < 1 or infinite, or probabilities out of order or out of range.
    """
    a, b = np.broadcast_arrays(np.asarray(cdf_lt, np.float64), np.asarray(cdf_le, np.float64))
    _check_n(n)
    if not (np.all(a >= 0) and np.all(a <= b) and np.all(b <= 1)):
        raise ValueError("log_weight needs 0 ≤ cdf_lt ≤ cdf_le ≤ 1")
    if n == 1:
        return np.zeros_like(a)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_b = np.log(b)
        delta = -np.log1p(-(b - a) / b)  # = log b − log a, without cancellation when a is close to b
        ratio = np.log(np.expm1(-n * delta) / np.expm1(-delta))
    ratio = np.where(delta > 0, ratio, np.log(n))  # also where b = 0 and δ is nan: log b = −inf decides there
    return np.asarray((n - 1) * log_b + ratio)


def log_prob(ref_logprob: ArrayLike, cdf_lt: ArrayLike, cdf_le: ArrayLike, n: float) -> Float:
    """Compute the exact log π_bon(y|x) = log π_ref(y|x) + log W_N (generalises arXiv 2407.06057 to ties).

    Args:
        ref_logprob: log π_ref(y|x) of the whole sequence in nats, any shape.
        cdf_lt: F_< of the completion's reward, broadcastable with `ref_logprob`.
        cdf_le: F_≤ of the completion's reward, broadcastable with `ref_logprob`.
        n: any real N ≥ 1, finite.

    Returns:
        log π_bon in nats, float64, of the broadcast shape.

    Raises:
        ValueError: as `log_weight`.
    """
    return np.asarray(ref_logprob, np.float64) + log_weight(cdf_lt, cdf_le, n)


def log_weight_lower_bound(cdf_lt: ArrayLike, n: float) -> Float:
    """Compute (N−1)·log F_< + log N ≤ log W_N, from which the paper's lower bound L(θ) is made (arXiv 2407.06057).

    The result is −inf where F_< = 0.
    """
    return _power_bound(cdf_lt, n)


def log_weight_upper_bound(cdf_le: ArrayLike, n: float) -> Float:
    """Compute (N−1)·log F_≤ + log N, which is at least log W_N."""
    return _power_bound(cdf_le, n)


def kl_coef_from_n(n: float) -> float:
    """Compute β = 1/(N−1), the KL coefficient that belongs to the sequence reward log W_N/(N−1).

    Raises:
        ValueError: N ≤ 1.
    """
    if not n > 1:
        raise ValueError(f"n must be greater than 1, got {n}")
    return 1.0 / (n - 1.0)


def n_from_kl_coef(kl_coef: float) -> float:
    """Compute N = 1/β + 1, the inverse of `kl_coef_from_n`.

    Raises:
        ValueError: β ≤ 0.
    """
    if not kl_coef > 0:
        raise ValueError(f"kl_coef must be positive, got {kl_coef}")
    return 1.0 / kl_coef + 1.0


def kl_from_reference(n: float) -> float:
    """Compute KL(π_bon‖π_ref) = log N − (N−1)/N in nats for continuous rewards.

    Where rewards tie, this is an upper bound; `kl_from_levels` is exact there.
    """
    _check_n(n)
    return float(np.log(n) - (n - 1) / n)


def n_from_kl(kl: float) -> float:
    """Compute the N at which best-of-N has a KL of `kl` nats to π_ref, for continuous rewards.

    It inverts `kl_from_reference` by bisection in log N.

    Raises:
        ValueError: kl outside [0, 700); a larger one has no N that float64 holds.
    """
    if not 0 <= kl < 700:  # beyond that N is no float64
        raise ValueError(f"kl must lie in [0, 700), got {kl}")
    low, high = 0.0, kl + 1.0  # in log N: log N − 1 < kl
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if middle + np.expm1(-middle) < kl else (low, middle)
    return float(np.exp((low + high) / 2))


def win_rate(n: float) -> float:
    """Compute P(the best of N beats one reference sample) = N/(N+1), for continuous rewards."""
    _check_n(n)
    return n / (n + 1)


def level_probabilities(mass: ArrayLike, n: float) -> Float:
    """Compute the probability of each reward level under best-of-N, b^N − a^N.

    `mass` holds π_ref's probability of each level, in ascending order of reward; it sums to 1.
    """
    cdf_lt, cdf_le = _level_cdf(mass)
    return np.asarray(cdf_le**n - cdf_lt**n)


def win_rate_from_levels(mass: ArrayLike, n: float) -> float:
    """Compute the win rate against one reference sample where rewards tie; a tie counts as half a win.

    It is Σ (b^N − a^N)(a + b)/2 over the reward levels, whose probabilities `mass` lists in ascending order of reward.
    """
    cdf_lt, cdf_le = _level_cdf(mass)
    return float(np.sum(level_probabilities(mass, n) * (cdf_lt + cdf_le) / 2))


def kl_from_levels(mass: ArrayLike, n: float) -> float:
    """Compute KL(π_bon‖π_ref) in nats where rewards tie.

    It is Σ (b^N − a^N)·log W_N(a, b) over the reward levels, whose probabilities `mass` lists in ascending order of
    reward.
    """
    cdf_lt, cdf_le = _level_cdf(mass)
    probability = level_probabilities(mass, n)
    kept = probability > 0
    return float(np.sum(probability[kept] * log_weight(cdf_lt[kept], cdf_le[kept], n)))


def order_statistic_weights(num_samples: int, n: int) -> Float:
    """Compute the probability that the k-th smallest of M samples is the best of N drawn without replacement.

    It is C(k−1, N−1)/C(M, N) for k = 1 … M, float64 (M,).

    Raises:
        ValueError: N is not an integer in [1, M]. For other N use Ŵ_i/M, which is biased.
    """
    if not 1 <= n <= num_samples or n % 1 != 0:
        raise ValueError(f"unbiased weights need an integer 1 ≤ n ≤ num_samples = {num_samples}, got n = {n}")
    k = np.arange(1, num_samples + 1, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        return np.exp(np.where(k >= n, log_binomial(k - 1, n - 1) - log_binomial(num_samples, n), -np.inf))


def tie_averaged_weights(rewards: ArrayLike, n: int) -> Float:
    """Give each sample of one pool its `order_statistic_weights`, averaged over samples of equal reward.

    `rewards` is (M,) in any order; the result has the same order, float64 (M,).

    Raises:
        ValueError: a reward is NaN, or N is not an integer in [1, M].
    """
    rewards = np.asarray(rewards, np.float64)
    if np.isnan(rewards).any():
        raise ValueError("a reward is NaN")
    cumulative = np.concatenate([[0.0], np.cumsum(order_statistic_weights(len(rewards), n))])
    ordered = np.sort(rewards)
    low, high = np.searchsorted(ordered, rewards, "left"), np.searchsorted(ordered, rewards, "right")
    return np.asarray((cumulative[high] - cumulative[low]) / (high - low))


def expectation(values: ArrayLike, rewards: ArrayLike, n: int) -> float:
    """Estimate E_bon[value] without bias from one pool of M reference samples, for an integer N ≤ M.

    `values` and `rewards` are (M,) in the same order.
    """
    return float(tie_averaged_weights(rewards, n) @ np.asarray(values, np.float64))


def kl_floor(num_samples: int, n: float) -> float:
    """Compute the value that the plug-in estimate of KL(π_θ‖π_bon) has at π_θ = π_bon, where the true KL is 0.

    It is about (N−1)/(2M), and exactly E_{u~Beta(N,1)}[log W(u) − E_{k~Bin(M,u)} log Ŵ_k] for continuous rewards, where
    k is beta-binomial. In nats.
    """
    _check_n(n)
    k = np.arange(num_samples + 1, dtype=np.float64)
    log_pmf = log_binomial(num_samples, k) + log_beta(k + n, num_samples - k + 1) - log_beta(n, 1.0)
    estimated = log_weight(k / (num_samples + 1), (k + 1) / (num_samples + 1), n)
    return float(kl_from_reference(n) - np.exp(log_pmf) @ estimated)


def _power_bound(cdf: ArrayLike, n: float) -> Float:
    _check_n(n)
    if n == 1:
        return np.zeros(np.shape(cdf))
    with np.errstate(divide="ignore"):
        return np.asarray((n - 1) * np.log(np.asarray(cdf, np.float64)) + np.log(n))


def _level_cdf(mass: ArrayLike) -> tuple[Float, Float]:
    mass = np.asarray(mass, np.float64)
    if not (np.all(mass >= 0) and abs(mass.sum() - 1) < 1e-6):
        raise ValueError("mass must hold probabilities that sum to 1")
    cumulative = np.minimum(np.cumsum(mass), 1.0)
    return np.concatenate([[0.0], cumulative[:-1]]), cumulative


def _check_n(n: float) -> None:
    if not 1 <= n < np.inf:
        raise ValueError(f"n must be at least 1 and finite, got {n}")
