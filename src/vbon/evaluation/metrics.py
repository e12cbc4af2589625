"""Per-prompt metrics from samples: pure functions, (P, K) in, (P,) out, float64. docs/metrics.md lists their keys."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vbon.core.best_of_n import order_statistic_weights

Float = NDArray[np.float64]
MAX_EXPONENT = 50.0  # a completion that best-of-N prefers by so much decides the mean by itself, whatever its number


def win_rate(k_lt: ArrayLike, k_eq: ArrayLike, num_samples: ArrayLike) -> Float:
    """Share of the pool that each completion beats, ties counted half: (k_< + k_≤)/(2M).

    Args:
        k_lt, k_eq: how many of the pool's M samples lie below and tie, (P, K). num_samples: M, (P,).
    """
    k_lt, k_eq = np.asarray(k_lt, np.float64), np.asarray(k_eq, np.float64)
    return (k_lt + k_eq / 2) / np.asarray(num_samples, np.float64)[:, None]


def win_rate_bon(k_lt: ArrayLike, k_eq: ArrayLike, bon_cdf: Sequence[Float]) -> Float:
    """P(each completion beats one draw of best-of-N), ties counted half: (B(k_<) + B(k_≤))/2, B from the pool.

    Args:
        k_lt, k_eq: as in `win_rate`. bon_cdf: B of each prompt, (M+1,): B(k) is the probability that best-of-N is one
            of the k lowest of the pool's samples.
    """
    rows = zip(np.asarray(k_lt), np.asarray(k_eq), bon_cdf, strict=True)
    return np.array([(cdf[lt] + cdf[lt + eq]) / 2 for lt, eq, cdf in rows])


def best_of_k(values: ArrayLike, k: int) -> Float:
    """Unbiased mean of the best of k among each prompt's K samples: Σ_i C(i−1, k−1)/C(K, k)·v_(i). (P, K) → (P,).

    `values`: the reward, or what rises with it within a prompt. Raises ValueError unless k is an integer in [1, K].
    """
    ordered = np.sort(np.asarray(values, np.float64), axis=1)
    return np.asarray(ordered @ order_statistic_weights(ordered.shape[1], k))


def length_reward_correlation(lengths: ArrayLike, rewards: ArrayLike) -> Float:
    """Pearson correlation within each prompt, (P, K) → (P,); 0 where all lengths or all rewards of a prompt agree."""
    x, y = _centred(lengths), _centred(rewards)
    scale = np.sqrt((x**2).sum(1) * (y**2).sum(1))
    return np.clip(np.divide((x * y).sum(1), scale, out=np.zeros(len(x)), where=scale > 0), -1, 1)


def share_worse(win_rates: ArrayLike) -> Float:
    """1 for each prompt whose mean win rate over its K samples is below ½, else 0. (P, K) → (P,)."""
    return (np.asarray(win_rates).mean(1) < 0.5).astype(np.float64)


def kl_policy_bon(log_ratio: ArrayLike, log_weight: ArrayLike) -> Float:
    """KL(π_θ‖π_bon) = mean over y ~ π_θ of [log π_θ/π_ref − log Ŵ]. Both (P, K), nats.

    `log_ratio`: of the sampled tokens (k1), or Σ_t KL_t over the vocabulary, which has the same mean.
    """
    return np.asarray(np.mean(np.asarray(log_ratio, np.float64) - np.asarray(log_weight, np.float64), axis=1))


def kl_policy_bon_cv(log_ratio: ArrayLike, log_weight: ArrayLike) -> Float:
    """KL(π_θ‖π_bon) as the mean of R + e^(−R) − 1 with R = log π_θ/π_ref − log Ŵ, both (P, K), nats.

    E[e^(−R)] = E_ref[Ŵ] = 1 for every policy that can say what the reference can, so the control variate e^(−R) − 1
    has mean 0. Near best-of-N, R and −e^(−R) vary together, and no term is negative. Far from it the old reading is the
    less noisy one, since a policy that has lost some of best-of-N's completions hardly ever shows them.
    """
    residual = np.asarray(log_ratio, np.float64) - np.asarray(log_weight, np.float64)
    return np.asarray(np.mean(residual + np.expm1(np.minimum(-residual, MAX_EXPONENT)), axis=1))


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


def _centred(values: ArrayLike) -> Float:
    """Deviations from each row's mean as shares of the largest, so that squares stay in range; 0 in constant rows."""
    values = np.asarray(values, np.float64)
    deviations = np.where(np.ptp(values, axis=1, keepdims=True) > 0, values - values.mean(1, keepdims=True), 0.0)
    largest = np.abs(deviations).max(1, keepdims=True)
    return np.divide(deviations, largest, out=np.zeros_like(values), where=largest > 0)
