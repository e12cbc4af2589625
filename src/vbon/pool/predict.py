"""Prediction of best-of-N on the prompts of a pool, before anything is trained.

Reward: the unbiased order-statistic mean (core.rank_tilts.order_statistic_weights). For the win rate and
KL(π_bon‖π_ref), a sample without ties is taken to be one of a continuum, and samples that tie to be an atom of mass (b
− a). So a pool without ties gives the closed forms exactly, whatever M is. What an atom takes away from them is

    win rate:  ∫_a^b N u^N du − (b^N − a^N)(a + b)/2
    KL:        ∫_a^b N u^{N−1} log(N u^{N−1}) du − (b^N − a^N) log W_N(a, b)

At the a and b of M samples both are biased: hard verifiers would look as if best-of-N won less, and moved less. So the
win rate is that of N + 1 samples without replacement, which is unbiased, where N < M is an integer; all else is
corrected by the delete-one jackknife, which removes the bias of order 1/M.

For an N that is not an integer, or is above M, the reward uses the weights Ŵ_i/M, which are biased unless N ≪ M; so
it does for a capped tilt, but for the jackknife.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vbon.core import rank_tilts
from vbon.core.best_of_n import kl_from_reference, log_weight, win_rate
from vbon.core.rank_tilts import RankTilt, Target
from vbon.core.special import log_binomial
from vbon.core.tail_cdf import Tail, tail_mean

Float = NDArray[np.float64]
_POINTS, _WEIGHTS = np.polynomial.legendre.leggauss(16)


class Prediction(NamedTuple):
    """Best-of-N on one prompt: mean reward, win rate against one reference sample, and KL(π_bon‖π_ref) in nats."""

    reward: float
    win_rate: float
    kl_bon_ref: float


def predict(rewards: ArrayLike, n: Target, tail: Tail = "counts") -> Prediction:
    """Predict best-of-N, for any real N ≥ 1, or another rank tilt from the M rewards of one prompt.

    With an exponential tail, the reward of best-of-N for a whole N above M is `core.tail_cdf.tail_mean`.
    """
    if isinstance(n, RankTilt):
        if n.kind != "best":
            return _predict_tilt(np.asarray(rewards, np.float64), n)
        n = n.n
    rewards = np.asarray(rewards, np.float64)
    _, counts = np.unique(rewards, return_counts=True)
    extrapolated = tail_mean(rewards, int(n)) if tail == "exponential" and n > len(rewards) and n % 1 == 0 else np.nan
    reward = float(sample_weights(rewards, n) @ rewards) if np.isnan(extrapolated) else extrapolated
    return Prediction(reward, _win_rate(counts, n), _kl(counts, n))


def sample_weights(rewards: ArrayLike, n: Target) -> Float:
    """Compute weights, (M,) with sum 1, under which the M samples of one prompt represent best-of-N or another tilt.

    They are `core.rank_tilts.order_statistic_weights`, averaged over samples of equal reward: unbiased where those are.
    """
    rewards = np.asarray(rewards, np.float64)
    return _averaged_over_ties(rewards, rank_tilts.order_statistic_weights(len(rewards), n))


def _averaged_over_ties(rewards: Float, weights: Float) -> Float:
    """Weights of the ordered samples, as those of the samples in the order of `rewards`."""
    cumulative = np.concatenate([[0.0], np.cumsum(weights)])
    ordered = np.sort(rewards)
    low, high = np.searchsorted(ordered, rewards, "left"), np.searchsorted(ordered, rewards, "right")
    return np.asarray((cumulative[high] - cumulative[low]) / (high - low))


def _mean_reward(rewards: Float, tilt: RankTilt) -> float:
    """The mean reward of a tilt; for the capped one corrected by the jackknife, which removes the bias of order 1/M."""
    ordered, m = np.sort(rewards), len(rewards)
    whole = rank_tilts.order_statistic_weights(m, tilt)
    if tilt.kind != "capped" or m == 1:
        return float(whole @ ordered)
    rest, place = rank_tilts.order_statistic_weights(m - 1, tilt), np.arange(m)
    # Of m pools without one sample, m − 1 − place leave this one its place, and `place` move it down by one.
    left_out = (np.append(rest, 0) * (m - 1 - place) + np.append(0, rest) * place) / m
    return float((m * whole - (m - 1) * left_out) @ ordered)


def _predict_tilt(rewards: Float, tilt: RankTilt) -> Prediction:
    """As `predict`: the value without ties, corrected at the levels of several samples."""
    _, counts = np.unique(rewards, return_counts=True)

    kink = float(tilt.parameter or 0) if tilt.kind == "capped" else 0.0

    def excess(a: Float, b: Float) -> tuple[Float, Float]:
        """What an atom (a, b) gives beyond the continuum of its ranks: win rate, and KL."""
        edges = np.stack([a, np.clip(kink, a, b), b])
        width = np.diff(edges, axis=0)[..., None]
        u = edges[:-1, :, None] + width * (_POINTS + 1) / 2
        log_w, log_atom = rank_tilts.log_weight(u, u, tilt), rank_tilts.log_weight(a, b, tilt)
        density, atom = width * _WEIGHTS / 2 * np.exp(log_w), (b - a) * np.exp(log_atom)
        with np.errstate(invalid="ignore"):  # 0·log 0 = 0, in a piece of width 0
            win, kl = (density * u).sum((0, 2)), np.where(density > 0, density * log_w, 0.0).sum((0, 2))
        return atom * (a + b) / 2 - win, atom * log_atom - kl

    win = rank_tilts.win_rate(tilt) + _jackknifed(lambda a, b: excess(a, b)[0], counts)
    kl = rank_tilts.kl_from_reference(tilt) + _jackknifed(lambda a, b: excess(a, b)[1], counts)
    return Prediction(_mean_reward(rewards, tilt), win, kl)


def _win_rate(counts: NDArray[np.int64], n: float) -> float:
    """Estimate the win rate from the number of samples of each reward level, lowest first."""
    size = int(counts.sum())
    if n % 1 != 0 or n >= size:
        return win_rate(n) + _jackknifed(lambda a, b: _win_atom(a, b, n) - _win_integral(a, b, n), counts)
    upper = np.cumsum(counts).astype(np.float64)
    lower = upper - counts
    # One sample of the level is the opponent; the best of N others is of its level or below, or only below.
    ways = log_binomial(np.float64(size - 1), n)
    not_above = np.where(upper - 1 >= n, np.exp(log_binomial(np.maximum(upper - 1, n), n) - ways), 0.0)
    below = np.where(lower >= n, np.exp(log_binomial(np.maximum(lower, n), n) - ways), 0.0)
    return float(np.sum(counts / size * (1 - (not_above + below) / 2)))


def _kl(counts: NDArray[np.int64], n: float) -> float:
    """Estimate KL(π_bon‖π_ref) from the number of samples of each reward level, lowest first."""
    return kl_from_reference(n) + _jackknifed(lambda a, b: _kl_atom(a, b, n) - _kl_integral(a, b, n), counts)


def _jackknifed(excess: Callable[[Float, Float], Float], counts: NDArray[np.int64]) -> float:
    """Estimate Σ excess(a, b) over the levels of several samples, corrected by leaving out each sample in turn."""
    size, upper = float(counts.sum()), np.cumsum(counts).astype(np.float64)
    lower = upper - counts
    lower, upper = lower[counts > 1], upper[counts > 1]
    if not len(lower):
        return 0.0
    rest = size - 1
    below = np.where(lower > 0, lower * excess(np.maximum(lower - 1, 0) / rest, (upper - 1) / rest), 0.0)
    inside = (upper - lower) * excess(lower / rest, (upper - 1) / rest)
    above = np.where(upper < size, (size - upper) * excess(lower / rest, np.minimum(upper, rest) / rest), 0.0)
    left_out = (below + inside + above) / size
    return float(np.sum(size * excess(lower / size, upper / size) - rest * left_out))


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
