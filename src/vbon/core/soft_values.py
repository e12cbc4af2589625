"""The value of a prefix under best-of-N, from samples of the reference alone.

π_bon conditions like any density: π_bon(y_t | x, y_<t) = π_ref(y_t | x, y_<t) · h(y_≤t)/h(y_<t) with
h(y_<t) = E_ref[W_N | y_<t] and h of the bare prompt = E_ref[W_N] = 1. So V_t = log h is the critic of a policy that has
arrived, and it is fitted to the pool before a single rollout. (Not in arXiv 2407.06057; it follows from W_N.)
"""

import torch
from torch import Tensor


def soft_value_loss(values: Tensor, weights: Tensor, mask: Tensor, trace_decay: float) -> Tensor:
    """Mean over real tokens of e^V_t − G_t·V_t, the Poisson loss whose minimum is V_t = log E[G_t | y_<t].

    The first value only says how far off the prompt's own is, whose mean is known: its target is 1, and V_t = v_t − v_0
    at the others. v_0 is then one number less to learn for each prompt.

    Args:
        values: v_t before each token, (B, T), nats.
        weights: W_N of each completion, (B,), mean 1 under π_ref.
        mask: (B, T), True where a token is real.
        trace_decay: λ in [0, 1] of the targets G, see `soft_returns`.
    """
    relative = torch.cat([values[:, :1], values[:, 1:] - values[:, :1]], 1)
    targets = soft_returns(relative.detach(), weights, mask, trace_decay)
    targets[:, 0] = 1
    losses = relative.exp() - targets * relative
    return (losses * mask).sum() / mask.sum()


def soft_returns(values: Tensor, weights: Tensor, mask: Tensor, trace_decay: float) -> Tensor:
    """G_t = (1−λ)·e^V_{t+1} + λ·G_{t+1}, and W at the last real token; an estimate of E[W | y_<t]. (B, T).

    λ = 1 is W itself at every token. A smaller one averages over how the reference might have gone on.
    """
    result = torch.empty_like(values)
    after = weights.to(values.dtype)
    following = after
    is_last = mask & ~torch.cat([mask[:, 1:], torch.zeros_like(mask[:, :1])], 1)
    for t in reversed(range(values.shape[1])):
        following = torch.where(is_last[:, t], after, following)
        result[:, t] = following
        following = (1 - trace_decay) * values[:, t].exp() + trace_decay * following
    return result
