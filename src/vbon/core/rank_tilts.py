"""Tilts of the reference by the rank of the reward: best-of-N and its relatives, with ties and a known normaliser.

For a density w on [0, 1], π(y) ∝ π_ref(y)·w(F(y)) needs no normaliser, since E_ref[w(F)] = ∫w = 1. With ties the
weight of a completion whose rewards' ranks fill the interval (a, b) is the mean of w over that interval,

    W(a, b) = (1/(b − a)) ∫_a^b w(u) du,    E_ref[W] = 1

Best-of-N is w(u) = N·u^(N−1) (Variational Best-of-N, arXiv 2407.06057). Every tilt has a strength `n`, by which the
sequence reward log W/(n − 1) and the KL coefficient 1/(n − 1) are scaled, as for best-of-N.

Everything is float64 numpy. Probabilities are plain, densities are logs in nats.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vbon.core import best_of_n
from vbon.core.special import log_binomial, log_gamma

Float = NDArray[np.float64]
_NODES, _NODE_WEIGHTS = np.polynomial.legendre.leggauss(400)


@dataclass(frozen=True)
class RankTilt:
    """A density of the reward's rank, by which the reference is tilted.

    Args:
        kind: `best` (of N), `worst` (of N), `capped` (best-of-N whose density is constant above the quantile
            `parameter`), `poisson` (best of 1 + Poisson(n − 1) samples), or `kth` (the `parameter`-th best of N).
        n: the number of samples, > 1; an integer for `kth`.
        parameter: the quantile in (0, 1) of `capped`, the integer from 1 to N of `kth`, None for the others.

    Raises:
        ValueError: an unknown kind, or a value out of its range.
    """

    kind: str
    n: float
    parameter: float | None = None

    @property
    def name(self) -> str:
        """The name for messages and tables, such as best-of-8 or worst-of-8."""
        n, parameter = f"{self.n:g}", f"{self.parameter or 0:g}"
        return {
            "best": f"best-of-{n}",
            "worst": f"worst-of-{n}",
            "poisson": f"best-of-Poisson (mean {n})",
            "capped": f"best-of-{n} capped at the quantile {parameter}",
            "kth": f"{parameter}-th best of {n}",
        }[self.kind]

    def __post_init__(self) -> None:
        if self.kind not in _MEAN_DENSITIES:
            raise ValueError(f"kind is {self.kind!r}, but must be one of {', '.join(_MEAN_DENSITIES)}")
        if not 1 < self.n < np.inf:
            raise ValueError(f"n must be greater than 1 and finite, got {self.n}")
        if (self.parameter is None) != (self.kind not in ("capped", "kth")):
            raise ValueError(f"{self.kind} takes {'a parameter' if self.parameter is None else 'no parameter'}")
        if self.kind == "capped" and not 0 < float(self.parameter or 0) < 1:
            raise ValueError(f"capped takes a quantile between 0 and 1, got {self.parameter}")
        if self.kind == "kth" and not (self.n % 1 == 0 and self.parameter in range(1, int(self.n) + 1)):
            raise ValueError(f"kth takes integers 1 ≤ k ≤ n, got k = {self.parameter} and n = {self.n}")


Target = float | RankTilt
"""What a policy is trained towards: a rank tilt; a number N stands for best-of-N."""


def parse(text: str, n: float) -> RankTilt:
    """Return the tilt named by a text: `best`, `worst`, `poisson`, `capped:QUANTILE` or `kth:K`.

    Raises:
        ValueError: no such kind, or a parameter out of its range.
    """
    kind, _, parameter = text.partition(":")
    return RankTilt(kind, n, float(parameter) if parameter else None)


def log_weight(cdf_lt: ArrayLike, cdf_le: ArrayLike, target: Target) -> Float:
    """log W(a, b), the log-density of the tilted policy relative to π_ref; a = b gives log w(a).

    Args:
        cdf_lt: a = F_<, any shape, in [0, 1].
        cdf_le: b = F_≤, broadcastable with `cdf_lt`, in [a, 1].
        target: the density w, or N of best-of-N.

    Returns:
        float64 of the broadcast shape; −inf where the tilted policy has no mass.

    Raises:
        ValueError: probabilities out of order or out of range.
    """
    if not isinstance(target, RankTilt):
        return best_of_n.log_weight(cdf_lt, cdf_le, target)
    a, b = np.broadcast_arrays(np.asarray(cdf_lt, np.float64), np.asarray(cdf_le, np.float64))
    if not (np.all(a >= 0) and np.all(a <= b) and np.all(b <= 1)):
        raise ValueError("log_weight needs 0 ≤ cdf_lt ≤ cdf_le ≤ 1")
    with np.errstate(divide="ignore"):
        return np.asarray(_MEAN_DENSITIES[target.kind](a, b, target))


def order_statistic_weights(num_samples: int, target: Target) -> Float:
    """Compute weights of the M ordered samples of a pool, under which they represent the tilted policy.

    For best-, worst- and k-th best of a whole N ≤ M they are the probabilities that a sample is the chosen one of N
    drawn without replacement, and for Poisson their mixture over the number of draws. Expectations under these are
    unbiased; draws of more than M are taken to be of M. Otherwise they are ∫w over ((j−1)/M, j/M), biased by O(1/M).

    Args:
        num_samples: M.
        target: the tilt, or N of best-of-N.

    Returns:
        float64 (M,), lowest reward first, ≥ 0, with sum 1.
    """
    m = num_samples
    if target == 1:
        return np.full(m, 1 / m)
    tilt = as_tilt(target)
    whole = tilt.n % 1 == 0 and tilt.n <= m
    if tilt.kind == "poisson":
        draws = np.arange(1, min(m, int(tilt.n + 12 * np.sqrt(tilt.n) + 40)) + 1)
        log_pmf = (draws - 1) * np.log(tilt.n - 1) - (tilt.n - 1) - log_gamma(draws.astype(np.float64))
        pmf = np.exp(log_pmf)
        pmf[-1] += 1 - pmf.sum()
        return np.asarray(pmf @ np.array([best_of_n.order_statistic_weights(m, int(n)) for n in draws]))
    if tilt.kind == "capped" or not whole:
        edges = np.arange(m + 1) / m
        return np.asarray(np.exp(log_weight(edges[:-1], edges[1:], tilt)) / m)
    n, k = int(tilt.n), {"best": 1, "worst": int(tilt.n)}.get(tilt.kind, int(tilt.parameter or 0))
    if k == 1:
        return best_of_n.order_statistic_weights(m, n)
    below, above = np.arange(m, dtype=np.float64), np.arange(m, dtype=np.float64)[::-1]
    possible = (below >= n - k) & (above >= k - 1)
    ways = log_binomial(np.maximum(below, n - k), n - k) + log_binomial(np.maximum(above, k - 1), k - 1)
    return np.asarray(np.exp(np.where(possible, ways - log_binomial(m, n), -np.inf)))


def kl_from_reference(target: Target) -> float:
    """KL(π‖π_ref) = ∫ w log w, nats, for continuous rewards; an upper bound where rewards tie."""
    tilt = as_tilt(target)
    if tilt.kind == "best":
        return best_of_n.kl_from_reference(tilt.n)
    u, weights = _quadrature(tilt)
    log_w = log_weight(u, u, tilt)
    return float(weights @ np.where(np.isfinite(log_w), np.exp(log_w) * log_w, 0.0))


def win_rate(target: Target) -> float:
    """P(one tilted sample beats one reference sample) = ∫ u·w(u) du, for continuous rewards."""
    tilt = as_tilt(target)
    if tilt.kind == "best":
        return best_of_n.win_rate(tilt.n)
    u, weights = _quadrature(tilt)
    return float(weights @ (np.exp(log_weight(u, u, tilt)) * u))


def kl_floor(num_samples: int, target: Target) -> float:
    """Compute what the plug-in estimate of KL(π_θ‖π) reads at π_θ = π itself, where the true KL is 0; nats.

    It is E_{u~w}[log w(u) − E_{k~Bin(M,u)} log Ŵ_k] for continuous rewards, about ∝ 1/M.
    """
    tilt = as_tilt(target)
    if tilt.kind == "best":
        return best_of_n.kl_floor(num_samples, tilt.n)
    u, weights = _quadrature(tilt)
    k = np.arange(num_samples + 1, dtype=np.float64)
    log_pmf = log_binomial(num_samples, k) + np.log(u)[:, None] * k + np.log1p(-u)[:, None] * (num_samples - k)
    pmf = (weights * np.exp(log_weight(u, u, tilt))) @ np.exp(log_pmf)
    estimated = log_weight(k / (num_samples + 1), (k + 1) / (num_samples + 1), tilt)
    return float(kl_from_reference(tilt) - pmf @ estimated)


def as_tilt(target: Target) -> RankTilt:
    """The tilt that a target is: a number N is best-of-N."""
    return target if isinstance(target, RankTilt) else RankTilt("best", target)


def _quadrature(tilt: RankTilt) -> tuple[Float, Float]:
    """Gauss-Legendre points and weights on [0, 1], apart on both sides of the kink of a capped density."""
    kink = tilt.parameter if tilt.kind == "capped" else None
    edges = [0.0, 1.0] if kink is None else [0.0, float(kink), 1.0]
    pieces = [
        (low + (high - low) * (_NODES + 1) / 2, (high - low) * _NODE_WEIGHTS / 2)
        for low, high in itertools.pairwise(edges)
    ]
    return np.concatenate([u for u, _ in pieces]), np.concatenate([weight for _, weight in pieces])


def _best(a: Float, b: Float, tilt: RankTilt) -> Float:
    return best_of_n.log_weight(a, b, tilt.n)


def _worst(a: Float, b: Float, tilt: RankTilt) -> Float:
    return best_of_n.log_weight(1 - b, 1 - a, tilt.n)


def _capped(a: Float, b: Float, tilt: RankTilt) -> Float:
    """The mean of N·min(u, q)^(N−1)/c, c = q^N + N·q^(N−1)·(1 − q): the parts of (a, b) on each side of q, added."""
    n, q = tilt.n, float(tilt.parameter or 0)
    log_top = np.log(n) + (n - 1) * np.log(q)
    low, high = np.minimum(a, q), np.minimum(b, q)
    below = np.where(b > a, (high - low) / np.where(b > a, b - a, 1.0), a < q)
    log_below = best_of_n.log_weight(low, high, n) + np.log(below)
    log_norm = np.logaddexp(n * np.log(q), log_top + np.log1p(-q))
    return np.asarray(np.logaddexp(log_below, log_top + np.log(1 - below)) - log_norm)


def _poisson(a: Float, b: Float, tilt: RankTilt) -> Float:
    """∫w = u·e^{μ(u−1)}, so that W = e^{μ(b−1)}·[1 + μa·(1 − e^{−μ(b−a)})/(μ(b−a))]: a sum of positive terms."""
    mu = tilt.n - 1
    x = mu * (b - a)
    share = np.where(x > 0, -np.expm1(-x) / np.where(x > 0, x, 1.0), 1.0)
    return np.asarray(mu * (b - 1) + np.log1p(mu * a * share))


def _kth(a: Float, b: Float, tilt: RankTilt) -> Float:
    """The chance that the j-th smallest of N, j = N − k + 1, lies in (a, b), over b − a: positive terms alone.

    i of the N lie below a, N − i − h inside and h above b, with i < j ≤ N − h:
    Σ N!/(i! (N−i−h)! h!)·a^i·(b−a)^(N−i−h−1)·(1−b)^h.
    """
    n, k = int(tilt.n), int(tilt.parameter or 0)
    log_a, log_inside, log_above = (np.log(x) for x in (a, b - a, 1 - b))
    total = np.full(a.shape, -np.inf)
    for i in range(n - k + 1):
        for h in range(k):
            inside = n - i - h
            coefficient = log_gamma(n + 1) - log_gamma(i + 1) - log_gamma(inside + 1) - log_gamma(h + 1)
            terms = [times * log for times, log in ((i, log_a), (inside - 1, log_inside), (h, log_above)) if times]
            total = np.logaddexp(total, sum(terms, coefficient))
    return total


_MEAN_DENSITIES: dict[str, Callable[[Float, Float, RankTilt], Float]] = {
    "best": _best,
    "worst": _worst,
    "capped": _capped,
    "poisson": _poisson,
    "kth": _kth,
}
