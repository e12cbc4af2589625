"""Estimators of KL(p‖q) in nats from samples of p, and the exact per-token form over the vocabulary.

k1, k2, k3 as named by Schulman ("Approximating KL divergence"); all take log p and log q at the sampled tokens.
"""

from torch import Tensor


def k1(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """log p − log q: unbiased, may be negative."""
    return logprobs - ref_logprobs


def k2(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """(log p − log q)²/2: biased, never negative, low variance where p is near q."""
    return (logprobs - ref_logprobs) ** 2 / 2


def k3(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """q/p − 1 − log(q/p): unbiased, never negative."""
    log_ratio = ref_logprobs - logprobs
    return log_ratio.expm1() - log_ratio


def importance_weighted_k3(logprobs: Tensor, old_logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """w·k3, w = π_θ/π_old at the sampled token, differentiable: the KL term of a loss (GRPO), unreduced.

    Its expected gradient over y_t ~ π_old is ∇KL_t at the visited prefix; that of a bare k3 is ∇KL(π_ref‖π_θ).
    """
    return (logprobs - old_logprobs).exp() * k3(logprobs, ref_logprobs)


def full_vocabulary_kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Exact Σ_v p(v)·(log p(v) − log q(v)) at each position. log-softmaxed (..., V) → (...), differentiable in both."""
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def entropy(log_p: Tensor) -> Tensor:
    """−Σ_v p(v)·log p(v) at each position. log-softmaxed (..., V) → (...)."""
    return -(log_p.exp() * log_p).sum(-1)


def future_kl(token_kl: Tensor, mask: Tensor) -> Tensor:
    """KL_{t+1} at position t, 0 at the end: what the action y_t is answerable for.

    With KL_t over the vocabulary, ∇E[Σ_t KL_t] = E[Σ_t ∇KL_t + Σ_t ∇log π_θ(y_t)·Σ_{s>t} KL_s] (Rao-Blackwellised):
    ∇KL_t is a differentiable loss, and the future KL enters the return of y_t through this shift. Shapes (B, T).
    """
    shifted = (token_kl * mask).roll(-1, dims=1)
    shifted[:, -1] = 0
    return shifted
