"""Losses on the samples of a pool, without rollouts or a critic.

Sequence log-probabilities are float64 (P, M), in nats: P prompts, M samples of each. `log_ratio` = log π_θ(y|x) − log
π_ref(y|x).
"""

import torch
from torch import Tensor


def weighted_sft(logprobs: Tensor, weights: Tensor) -> Tensor:
    """Compute −Σ_i w_i·log π_θ(y_i), mean over prompts: BoN-SFT on all samples.

    It is the expected cross-entropy on the best of N, at lower variance, and its minimum is that of KL(π_bon‖π_θ).
    `weights` is (P, M), each row sums to 1: order-statistic weights, or Ŵ_i/M.
    """
    return -(weights * logprobs).sum(-1).mean()


def regression(log_ratio: Tensor, log_weight: Tensor, n: float) -> Tensor:
    """Compute offline vBoN, the mean of ((log π_θ/π_ref − log Ŵ_N)/(N−1))²: QRPO's log transform (arXiv 2507.08068).

    It needs no partition function, since E_ref[W] = 1. The division by N−1 keeps targets of tens of nats at unit size.
    """
    return (((log_ratio - log_weight) / (n - 1)) ** 2).mean()


def listwise(log_ratio: Tensor, weights: Tensor) -> Tensor:
    """Compute −Σ_i w_i·log softmax_i(log π_θ/π_ref), mean over prompts.

    It has the optimum of `regression` and a bounded gradient. `weights` is (P, M), each row sums to 1.
    """
    return -(weights * torch.log_softmax(log_ratio, dim=-1)).sum(-1).mean()


def dpo(best_log_ratio: Tensor, worst_log_ratio: Tensor, kl_coef: float) -> Tensor:
    """Compute the DPO loss, −log σ(β·(log-ratio of the chosen − log-ratio of the rejected)) (arXiv 2305.18290)."""
    return -torch.nn.functional.logsigmoid(kl_coef * (best_log_ratio - worst_log_ratio)).mean()


def ipo(best_log_ratio: Tensor, worst_log_ratio: Tensor, margin: float) -> Tensor:
    """Compute ((log-ratio of the best − that of the worst) − margin)², the IPO half of BoNBoN (arXiv 2406.00832)."""
    return ((best_log_ratio - worst_log_ratio - margin) ** 2).mean()


def bonbon(
    best_logprobs: Tensor, best_log_ratio: Tensor, worst_log_ratio: Tensor, n: int, sft_weight: float = 0.005
) -> Tensor:
    """Compute the BoNBoN loss: α·SFT(best of N) + (1−α)·IPO(best, worst) (arXiv 2406.00832).

    Args:
        best_logprobs: log π_θ of the best of each set of N samples, any shape, nats.
        best_log_ratio: log π_θ/π_ref of the same completions, of the same shape.
        worst_log_ratio: log π_θ/π_ref of the worst of each set, of the same shape.
        n: integer N ≥ 2, which sets the margin (`bonbon_margin`).
        sft_weight: α in [0, 1].

    Returns:
        The loss, a scalar.

    Raises:
        ValueError: N is not an integer of at least 2.
    """
    alignment = ipo(best_log_ratio, worst_log_ratio, bonbon_margin(n))
    return sft_weight * -best_logprobs.mean() + (1 - sft_weight) * alignment


def jeffreys(forward: Tensor, backward: Tensor, backward_weight: float = 0.5) -> Tensor:
    """Compute (1−λ)·KL(π_bon‖π_θ) + λ·KL(π_θ‖π_bon), the objective of BOND (arXiv 2407.14622).

    `forward` and `backward` are these two divergences in nats, each up to a constant; λ is `backward_weight`.
    """
    return (1 - backward_weight) * forward + backward_weight * backward


def bonbon_margin(n: int) -> float:
    """Compute 1/(2β_N) = (N−1)·Σ_{k=1..N−1} 1/k, the margin of BoNBoN (arXiv 2406.00832).

    It is the expected log-ratio of the best sample minus that of the worst under best-of-N.

    Raises:
        ValueError: N is not an integer of at least 2.
    """
    if not n >= 2 or n % 1 != 0:
        raise ValueError(f"BoNBoN needs an integer n ≥ 2, got {n}")
    return (n - 1) * sum(1 / k for k in range(1, int(n)))
