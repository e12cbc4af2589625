"""Policy-gradient pieces, pure functions of (B, T) tensors: B completions, T tokens, `mask` True where a token counts.

PPO follows Schulman et al. (arXiv 1707.06347); generalised advantages arXiv 1506.02438; leave-one-out arXiv 2402.14740.
"""

import torch
from torch import Tensor

from vbon.core.masked import last_token, masked_mean


def token_rewards(sequence_reward: Tensor, token_kl: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
    """−β·KL_t on every token, ρ added on the last real one (EOS included). sequence_reward (B,) → (B, T), its dtype."""
    rewards = (-kl_coef * token_kl * mask).to(sequence_reward.dtype)
    last = last_token(mask)
    return rewards.scatter_add(1, last[:, None], (sequence_reward * mask.any(dim=1))[:, None])


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gae_lambda: float, gamma: float = 1.0) -> Tensor:
    """Generalised advantages A_t = Σ_{l≥0} (γλ)^l δ_{t+l}, δ_t = r_t + γ·V_{t+1} − V_t; V is 0 past the end."""
    values = values * mask
    advantages = torch.zeros_like(rewards)
    next_advantage = next_value = torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        next_advantage = (delta + gamma * gae_lambda * next_advantage) * mask[:, t]
        next_value = values[:, t]
        advantages[:, t] = next_advantage
    return advantages


def returns_to_go(rewards: Tensor, mask: Tensor) -> Tensor:
    """Undiscounted Σ_{s≥t} r_s over real tokens."""
    return (rewards * mask).flip(1).cumsum(1).flip(1) * mask


def leave_one_out(returns: Tensor, prompt_index: Tensor) -> Tensor:
    """R_i − mean of the other samples of the same prompt. returns (B,), prompt_index int64 (B,) → (B,).

    Raises:
        ValueError: a prompt has one sample only.
    """
    group: Tensor
    count: Tensor
    _, group, count = torch.unique(prompt_index, return_inverse=True, return_counts=True)
    if (count < 2).any():
        raise ValueError("leave_one_out needs at least two samples of each prompt")
    total = torch.zeros(len(count), dtype=returns.dtype, device=returns.device).index_add_(0, group, returns)
    return returns - (total[group] - returns) / (count[group] - 1)


def clipped_policy_loss(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor, clip_range: float
) -> Tensor:
    """−mean over real tokens of min(w·A, clip(w, 1±ε)·A), w = π_θ/π_old at the token."""
    return masked_mean(clipped_token_loss(logprobs, old_logprobs, advantages, clip_range), mask)


def clipped_token_loss(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, clip_range: float) -> Tensor:
    """−min(w·A, clip(w, 1±ε)·A), unreduced."""
    ratio = (logprobs - old_logprobs).exp()
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - clip_range, 1 + clip_range) * advantages)


def clipped_value_loss(values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, clip_range: float) -> Tensor:
    """½·mean over real tokens of max((V−R)², (V_clip−R)²), V_clip within ±ε of the rollout's value."""
    clipped = old_values + (values - old_values).clamp(-clip_range, clip_range)
    return masked_mean(torch.maximum((values - returns) ** 2, (clipped - returns) ** 2), mask) / 2
