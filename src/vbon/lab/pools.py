"""Pools drawn straight from an exact π_ref, and the estimators of best-of-N's density that read them."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vbon.core.best_of_n import log_weight
from vbon.core.special import log_beta
from vbon.lab.exact import Float, level_masses

Int = NDArray[np.int64]


class Counts(NamedTuple):
    """(k_<, k_=) of every completion (C,) in one pool of `num_samples` draws."""

    k_lt: Int
    k_eq: Int
    num_samples: int


def draw_counts(probs: Float, rewards: Float, num_samples: int, rng: np.random.Generator) -> Counts:
    """A pool of one prompt, as ranks of all completions in it. `probs`, `rewards`: (C,)."""
    mass, index = level_masses(probs, rewards)
    drawn = rng.multinomial(num_samples, mass / mass.sum())
    below = np.cumsum(drawn) - drawn
    return Counts(below[index], drawn[index], num_samples)


def one_sided(counts: Counts, n: float) -> Float:
    """(N−1)·log((k_<+1)/(M+1)): the paper's estimator, as in the published code."""
    return np.asarray((n - 1) * np.log((counts.k_lt + 1) / (counts.num_samples + 1)))


def interval(counts: Counts, n: float) -> Float:
    """log W_N(k_</(M+1), (k_<+k_=+1)/(M+1)): vbon's."""
    m = counts.num_samples + 1
    return log_weight(counts.k_lt / m, (counts.k_lt + counts.k_eq + 1) / m, n)


def mid_rank(counts: Counts, n: float) -> Float:
    """(N−1)·log of the middle of that interval."""
    return np.asarray((n - 1) * np.log((counts.k_lt + (counts.k_eq + 1) / 2) / (counts.num_samples + 1)))


def beta_posterior(counts: Counts, n: float) -> Float:
    """log E[F^{N−1}], F ~ Beta(k_< + k_=/2 + 1, M − k_< − k_=/2 + 1): the posterior mean under a flat prior."""
    middle = counts.k_lt + counts.k_eq / 2
    a, b = middle + 1, counts.num_samples - middle + 1
    return log_beta(a + n - 1, b) - log_beta(a, b)


ESTIMATORS: dict[str, Callable[[Counts, float], Float]] = {
    "one-sided": one_sided,
    "interval": interval,
    "mid-rank": mid_rank,
    "beta-posterior": beta_posterior,
}


def ks_p_value(a: Float, b: Float) -> float:
    """Two-sample Kolmogorov–Smirnov test, asymptotic: Q(λ) = 2·Σ_{k≥1} (−1)^{k−1}·exp(−2k²λ²), λ = D·√(nm/(n+m))."""
    grid = np.concatenate([a, b])
    gap = np.searchsorted(np.sort(a), grid, "right") / len(a) - np.searchsorted(np.sort(b), grid, "right") / len(b)
    scaled = np.abs(gap).max() * np.sqrt(len(a) * len(b) / (len(a) + len(b)))
    k = np.arange(1, 101)
    return float(np.clip(2 * np.sum((-1.0) ** (k - 1) * np.exp(-2 * k**2 * scaled**2)), 0, 1)) if scaled > 0.2 else 1.0
