"""Estimators of KL(p‖q) in nats from samples of p, and the exact form for each token over the vocabulary.

k1, k2 and k3 are named as in Schulman's note "Approximating KL Divergence" (2020); all take log p and log q at the
sampled tokens, as tensors of one shape, and return that shape.
"""

import torch
from torch import Tensor


def k1(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """Compute log p − log q: unbiased, and may be negative."""
    return logprobs - ref_logprobs


def k2(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """Compute (log p − log q)²/2: biased, never negative, and of low variance where p is near q."""
    return (logprobs - ref_logprobs) ** 2 / 2


def k3(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """Compute q/p − 1 − log(q/p): unbiased, and never negative."""
    log_ratio = ref_logprobs - logprobs
    return log_ratio.expm1() - log_ratio


def importance_weighted_k3(logprobs: Tensor, old_logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """Compute w·k3 with w = π_θ/π_old at the sampled token, the differentiable KL term of GRPO's loss, unreduced.

    Its expected gradient over y_t ~ π_old is ∇KL_t at the visited prefix; that of k3 alone is ∇KL(π_ref‖π_θ). (GRPO:
    arXiv 2402.03300.)
    """
    return (logprobs - old_logprobs).exp() * k3(logprobs, ref_logprobs)


def full_vocabulary_kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Compute the exact Σ_v p(v)·(log p(v) − log q(v)) at each position.

    `log_p` and `log_q` are log-softmax values, (..., V); the result is (...), differentiable in both.
    """
    return (log_p.exp() * (log_p - log_q).masked_fill(log_p == -torch.inf, 0.0)).sum(-1)


def entropy(log_p: Tensor) -> Tensor:
    """Compute −Σ_v p(v)·log p(v) at each position, in nats, from log-softmax values: (..., V) → (...)."""
    return -(log_p.exp() * log_p.masked_fill(log_p == -torch.inf, 0.0)).sum(-1)


def future_kl(token_kl: Tensor, mask: Tensor) -> Tensor:
    """Shift token KLs by one position: KL_{t+1} at position t, and 0 at the end.

    The shifted KL is what the choice of y_t is responsible for. With KL_t over the vocabulary, ∇E[Σ_t KL_t] = E[Σ_t
    ∇KL_t + Σ_t ∇log π_θ(y_t)·Σ_{s>t} KL_s] (Rao-Blackwellised): ∇KL_t is a differentiable loss, and the future KL
    enters the return of y_t through this shift. `token_kl` and `mask` are (B, T), as is the result.
    """
    shifted = (token_kl * mask).roll(-1, dims=1)
    shifted[:, -1] = 0
    return shifted
