"""Per-prompt metrics from samples: pure functions, (P, K) in, (P,) out, float64. docs/metrics.md lists their keys."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float = NDArray[np.float64]


def win_rate(k_lt: ArrayLike, k_eq: ArrayLike, num_samples: ArrayLike) -> Float:
    """Share of the pool that each completion beats, ties counted half: (k_< + k_≤)/(2M).

    Args:
        k_lt, k_eq: how many of the pool's M samples lie below and tie, (P, K). num_samples: M, (P,).
    """
    k_lt, k_eq = np.asarray(k_lt, np.float64), np.asarray(k_eq, np.float64)
    return (k_lt + k_eq / 2) / np.asarray(num_samples, np.float64)[:, None]


def kl_policy_bon(log_ratio: ArrayLike, log_weight: ArrayLike) -> Float:
    """KL(π_θ‖π_bon) = mean over y ~ π_θ of [log π_θ/π_ref − log Ŵ]. Both (P, K), nats.

    `log_ratio`: of the sampled tokens (k1), or Σ_t KL_t over the vocabulary, which has the same mean.
    """
    return np.asarray(np.mean(np.asarray(log_ratio, np.float64) - np.asarray(log_weight, np.float64), axis=1))


def kl_bon_policy(log_weight: ArrayLike, ref_logprobs: ArrayLike, logprobs: ArrayLike) -> float:
    """KL(π_bon‖π_θ) of one prompt from its pool: Σ_i Ŵ_i/M · (log Ŵ_i + log π_ref(y_i) − log π_θ(y_i)), nats.

    All (M,): log Ŵ leave-one-out, whose weights Ŵ_i/M sum to 1 exactly; sequence log-probabilities. Plug-in: biased
    unless N ≪ M.
    """
    log_weight = np.asarray(log_weight, np.float64)
    terms = log_weight + np.asarray(ref_logprobs, np.float64) - np.asarray(logprobs, np.float64)
    return float(np.mean(np.exp(log_weight) * terms))


def distinct_n(completions: Sequence[Sequence[int]], size: int) -> float:
    """Distinct n-grams of tokens over all n-grams, all completions of one prompt together; 0 where there are none.

    Li et al., arXiv 1510.03055. `size`: tokens in an n-gram.
    """
    ngrams = [tuple(row[i : i + size]) for row in completions for i in range(len(row) - size + 1)]
    return len(set(ngrams)) / len(ngrams) if ngrams else 0.0


def distinct_completions(completions: Sequence[Sequence[int]]) -> float:
    """Distinct completions over all completions of one prompt: 1/K where a policy has collapsed onto one."""
    return len({tuple(row) for row in completions}) / len(completions)
