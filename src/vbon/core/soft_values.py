"""The value of a prefix under best-of-N, from samples of the reference alone.

π_bon conditions like any density: π_bon(y_t | x, y_<t) = π_ref(y_t | x, y_<t) · h(y_≤t)/h(y_<t) with h(y_<t) =
E_ref[W_N | y_<t], and h of the prompt alone is E_ref[W_N] = 1. So V_t = log h is the critic of a policy that equals
best-of-N, and it can be fitted to the pool before any rollout. (Not in arXiv 2407.06057; it follows from W_N.)
"""

import torch
from torch import Tensor


def soft_value_loss(values: Tensor, weights: Tensor, mask: Tensor, trace_decay: float) -> Tensor:
    """Compute the mean over real tokens of e^V_t − G_t·V_t, the Poisson loss whose minimum is V_t = log E[G_t | y_<t].

    The value of the prompt itself is known to be 0. So v_0 has the target 1, and at other tokens V_t = v_t − v_0: the
    prompt's own error v_0 does not have to be learned at each of them.

    Args:
        values: v_t before each token, (B, T), nats.
        weights: W_N of each completion, (B,), with mean 1 under π_ref.
        mask: bool (B, T), True where a token is real.
        trace_decay: λ in [0, 1] of the targets G, see `soft_returns`.

    Returns:
        The loss, a scalar.
    """
    relative = torch.cat([values[:, :1], values[:, 1:] - values[:, :1]], 1)
    targets = soft_returns(relative.detach(), weights, mask, trace_decay)
    targets[:, 0] = 1
    losses = relative.exp() - targets * relative
    return (losses * mask).sum() / mask.sum()


def soft_returns(values: Tensor, weights: Tensor, mask: Tensor, trace_decay: float) -> Tensor:
    """Compute G_t = (1−λ)·e^V_{t+1} + λ·G_{t+1}, and W at the last real token: an estimate of E[W | y_<t].

    λ = 1 gives W itself at every token. A smaller λ averages over continuations that the reference might have taken.

    Args:
        values: V_t before each token, (B, T), nats.
        weights: W_N of each completion, (B,), with mean 1 under π_ref.
        mask: bool (B, T), True where a token is real.
        trace_decay: λ in [0, 1].

    Returns:
        G, (B, T), in the dtype of `values`.
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
