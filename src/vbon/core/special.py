"""Special functions that numpy lacks, computed by torch, so that core does not need scipy. float64 numpy in and out."""

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

Float = NDArray[np.float64]


def log_gamma(x: ArrayLike) -> Float:
    """Compute log Γ(x) for x > 0."""
    # np.array copies: torch refuses reversed views and warns of read-only ones
    return np.asarray(torch.lgamma(torch.from_numpy(np.array(x, np.float64))).numpy())


def log_beta(a: ArrayLike, b: ArrayLike) -> Float:
    """Compute log B(a, b) = log Γ(a) + log Γ(b) − log Γ(a+b)."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return np.asarray(log_gamma(a) + log_gamma(b) - log_gamma(a + b))


def log_binomial(n: ArrayLike, k: ArrayLike) -> Float:
    """Compute log C(n, k) for real n ≥ k ≥ 0."""
    n, k = np.asarray(n, np.float64), np.asarray(k, np.float64)
    return np.asarray(log_gamma(n + 1) - log_gamma(k + 1) - log_gamma(n - k + 1))


def chi2_sf(x: float, dof: int) -> float:
    """Compute P(χ²_dof > x), the upper regularised incomplete gamma function Q(dof/2, x/2)."""
    half = torch.tensor([dof / 2, x / 2], dtype=torch.float64)
    return float(torch.special.gammaincc(half[0], half[1]))
