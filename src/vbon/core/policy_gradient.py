"""Parts of policy-gradient methods, pure functions of tensors (B, T): B completions of T tokens.

`mask` is True where a token counts. PPO follows Schulman et al. (arXiv 1707.06347), generalised advantage estimation
arXiv 1506.02438, and the leave-one-out baseline arXiv 2402.14740.
"""

import torch
from torch import Tensor

from vbon.core.masked import last_token, masked_mean


def token_rewards(sequence_reward: Tensor, token_kl: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
    """Distribute reward and KL over tokens: −β·KL_t on every token, and ρ added on the last real token (EOS included).

    Args:
        sequence_reward: ρ of each completion, (B,).
        token_kl: KL_t at each token, (B, T), nats.
        mask: bool (B, T), True where a token counts.
        kl_coef: β.

    Returns:
        Rewards of the tokens, (B, T), in the dtype of `sequence_reward`; 0 outside the mask.
    """
    rewards = (-kl_coef * token_kl * mask).to(sequence_reward.dtype)
    last = last_token(mask)
    return rewards.scatter_add(1, last[:, None], (sequence_reward * mask.any(dim=1))[:, None])


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gae_lambda: float, gamma: float = 1.0) -> Tensor:
    """Compute generalised advantages A_t = Σ_{l≥0} (γλ)^l δ_{t+l} with δ_t = r_t + γ·V_{t+1} − V_t (arXiv 1506.02438).

    Args:
        rewards: r_t, (B, T), 0 outside the mask.
        values: V_t, the critic's value before each token, (B, T); V is 0 after the last real token.
        mask: bool (B, T), True where a token counts.
        gae_lambda: λ in [0, 1]; 1 is Monte Carlo.
        gamma: discount γ.

    Returns:
        Advantages, (B, T), 0 outside the mask.
    """
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
    """Compute the undiscounted return Σ_{s≥t} r_s over real tokens: (B, T), (B, T) → (B, T)."""
    return (rewards * mask).flip(1).cumsum(1).flip(1) * mask


def leave_one_out(returns: Tensor, prompt_index: Tensor) -> Tensor:
    """Subtract from each return the mean return of the other samples of the same prompt (arXiv 2402.14740).

    `returns` is (B,), `prompt_index` int64 (B,); the result is (B,).

    Raises:
        ValueError: a prompt has only one sample.
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
    """Compute PPO's policy loss, −mean over real tokens of min(w·A, clip(w, 1±ε)·A), w = π_θ/π_old (arXiv 1707.06347).

    Args:
        logprobs: log π_θ(y_t), (B, T), nats, differentiable.
        old_logprobs: log π_old(y_t) of the policy that sampled, (B, T).
        advantages: A_t, (B, T).
        mask: bool (B, T), True where a token counts.
        clip_range: ε.

    Returns:
        The loss, a scalar.
    """
    return masked_mean(clipped_token_loss(logprobs, old_logprobs, advantages, clip_range), mask)


def clipped_token_loss(logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, clip_range: float) -> Tensor:
    """Compute −min(w·A, clip(w, 1±ε)·A) at each token, w = π_θ/π_old (arXiv 1707.06347).

    Args:
        logprobs: log π_θ(y_t), (B, T), nats, differentiable.
        old_logprobs: log π_old(y_t) of the policy that sampled, (B, T).
        advantages: A_t, (B, T).
        clip_range: ε.

    Returns:
        The unreduced loss, (B, T).
    """
    ratio = (logprobs - old_logprobs).exp()
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - clip_range, 1 + clip_range) * advantages)


def clipped_value_loss(values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, clip_range: float) -> Tensor:
    """Compute PPO's value loss, ½·mean over real tokens of max((V−R)², (V_clip−R)²), V_clip within ±ε of the old value.

    Args:
        values: V_t, (B, T), differentiable.
        old_values: the values at the time of the rollout, (B, T).
        returns: R_t, the targets, (B, T).
        mask: bool (B, T), True where a token counts.
        clip_range: ε, in the unit of the values.

    Returns:
        The loss, a scalar.
    """
    clipped = old_values + (values - old_values).clamp(-clip_range, clip_range)
    return masked_mean(torch.maximum((values - returns) ** 2, (clipped - returns) ** 2), mask) / 2
