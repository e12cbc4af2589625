"""Losses on the samples of a pool: no rollouts, no critic.

Sequence log-probabilities are float64 (P, M): P prompts, M samples each. `log_ratio` = log π_θ(y|x) − log π_ref(y|x).
"""

import torch
from torch import Tensor


def weighted_sft(logprobs: Tensor, weights: Tensor) -> Tensor:
    """BoN-SFT, all-sample form: −Σ_i w_i·log π_θ(y_i), mean over prompts.

    The expectation of cross-entropy on the best of N, at lower variance. Minimises KL(π_bon‖π_θ).
    `weights` (P, M), each row summing to 1: order-statistic weights, or Ŵ_i/M.
    """
    return -(weights * logprobs).sum(-1).mean()


def regression(log_ratio: Tensor, log_weight: Tensor, n: float) -> Tensor:
    """Offline vBoN, mean of ((log π_θ/π_ref − log Ŵ_N)/(N−1))²; QRPO's log transform (arXiv 2507.08068).

    Needs no partition function: E_ref[W] = 1. The scale keeps targets of tens of nats at unit size.
    """
    return (((log_ratio - log_weight) / (n - 1)) ** 2).mean()


def listwise(log_ratio: Tensor, weights: Tensor) -> Tensor:
    """−Σ_i w_i·log softmax_i(log π_θ/π_ref), mean over prompts: the optimum of `regression`, bounded gradient."""
    return -(weights * torch.log_softmax(log_ratio, dim=-1)).sum(-1).mean()


def dpo(best_log_ratio: Tensor, worst_log_ratio: Tensor, kl_coef: float) -> Tensor:
    """−log σ(β·(log-ratio of the chosen − of the rejected)) (arXiv 2305.18290)."""
    return -torch.nn.functional.logsigmoid(kl_coef * (best_log_ratio - worst_log_ratio)).mean()


def ipo(best_log_ratio: Tensor, worst_log_ratio: Tensor, margin: float) -> Tensor:
    """((log-ratio of the best − of the worst) − margin)², the IPO half of BoNBoN (arXiv 2406.00832)."""
    return ((best_log_ratio - worst_log_ratio - margin) ** 2).mean()


def bonbon(
    best_logprobs: Tensor, best_log_ratio: Tensor, worst_log_ratio: Tensor, n: int, sft_weight: float = 0.005
) -> Tensor:
    """BoNBoN: α·SFT(best of N) + (1−α)·IPO(best, worst), margin 1/(2β_N) = (N−1)·Σ_{k<N} 1/k (arXiv 2406.00832)."""
    alignment = ipo(best_log_ratio, worst_log_ratio, bonbon_margin(n))
    return sft_weight * -best_logprobs.mean() + (1 - sft_weight) * alignment


def jeffreys(forward: Tensor, backward: Tensor, backward_weight: float = 0.5) -> Tensor:
    """BOND: (1−λ)·KL(π_bon‖π_θ) + λ·KL(π_θ‖π_bon), each up to a constant and in nats (arXiv 2407.14622)."""
    return (1 - backward_weight) * forward + backward_weight * backward


def bonbon_margin(n: int) -> float:
    """1/(2β_N) = (N−1)·Σ_{k=1..N−1} 1/k: E[log-ratio of the best − of the worst] under BoN. Integer N ≥ 2."""
    if not n >= 2 or n % 1 != 0:
        raise ValueError(f"BoNBoN needs an integer n ≥ 2, got {n}")
    return (n - 1) * sum(1 / k for k in range(1, int(n)))
