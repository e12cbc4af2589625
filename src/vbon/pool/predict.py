"""Prediction of best-of-N on the prompts of a pool, before anything is trained.

Reward: the unbiased order-statistic mean (core.best_of_n.tie_averaged_weights). For the win rate and KL(π_bon‖π_ref), a
sample without ties is taken to be one of a continuum, and samples that tie to be an atom of mass (b − a). So a pool
without ties gives the closed forms exactly, whatever M is, and a verifier's pool gives the sums over its levels:

    F^N, u ∈ [a, b]:  continuum ∫ N u^{N−1}·g(u) du     atom (b^N − a^N)·g(a, b)
    KL:  g(u) = log(N u^{N−1}),  g(a, b) = log W_N(a, b)          win rate:  g(u) = u,  g(a, b) = (a + b)/2

For an N that is not an integer, or is above M, the reward uses the weights Ŵ_i/M, which are biased unless N ≪ M.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vbon.core.best_of_n import log_weight, tie_averaged_weights
from vbon.core.reward_cdf import RewardCDF

Float = NDArray[np.float64]


class Prediction(NamedTuple):
    """Best-of-N on one prompt: mean reward, win rate against one reference sample, and KL(π_bon‖π_ref) in nats."""

    reward: float
    win_rate: float
    kl_bon_ref: float


def predict(rewards: ArrayLike, n: float) -> Prediction:
    """Predict best-of-N from the M rewards of one prompt, for any real N ≥ 1."""
    rewards = np.asarray(rewards, np.float64)
    _, counts = np.unique(rewards, return_counts=True)
    cdf_le = np.cumsum(counts) / len(rewards)
    cdf_lt = np.concatenate([[0.0], cdf_le[:-1]])
    continuum = counts == 1
    win = np.where(continuum, _win_integral(cdf_lt, cdf_le, n), _win_atom(cdf_lt, cdf_le, n))
    kl = np.where(continuum, _kl_integral(cdf_lt, cdf_le, n), _kl_atom(cdf_lt, cdf_le, n))
    return Prediction(float(sample_weights(rewards, n) @ rewards), float(win.sum()), float(kl.sum()))


def sample_weights(rewards: ArrayLike, n: float) -> Float:
    """Compute weights, (M,) with sum 1, under which the M samples of one prompt represent best-of-N.

    They are unbiased (core.best_of_n.tie_averaged_weights) for an integer N ≤ M; otherwise they are Ŵ_i/M, which are
    those of draws with replacement.
    """
    rewards = np.asarray(rewards, np.float64)
    if n % 1 == 0 and n <= len(rewards):
        return tie_averaged_weights(rewards, int(n))
    interval = RewardCDF(rewards, [len(rewards)]).pool_interval()
    return np.asarray(np.exp(log_weight(interval.cdf_lt, interval.cdf_le, n)) / len(rewards))


def _win_integral(a: Float, b: Float, n: float) -> Float:
    return n / (n + 1) * (b ** (n + 1) - a ** (n + 1))


def _win_atom(a: Float, b: Float, n: float) -> Float:
    return (b**n - a**n) * (a + b) / 2


def _kl_integral(a: Float, b: Float, n: float) -> Float:
    return _kl_antiderivative(b, n) - _kl_antiderivative(a, n)


def _kl_antiderivative(u: Float, n: float) -> Float:
    """Compute ∫₀ᵘ N v^{N−1}·log(N v^{N−1}) dv = u^N·[log N + (N−1)·(log u − 1/N)]."""
    log_u = np.log(np.where(u > 0, u, 1.0))
    return u**n * (np.log(n) + (n - 1) * (log_u - 1 / n))


def _kl_atom(a: Float, b: Float, n: float) -> Float:
    return (b**n - a**n) * log_weight(a, b, n)
