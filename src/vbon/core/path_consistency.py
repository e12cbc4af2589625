"""Path consistency: log π_θ/π_ref of any part of a completion is what the value gains over it, where π_θ is best-of-N.

With V(y_<t) = log E_ref[W | y_<t], best-of-N is π_bon(y_t | y_<t) = π_ref(y_t | y_<t)·exp(V(y_≤t) − V(y_<t)). So

    G_t = V(y_<t) − Σ_{s<t} log π_θ(y_s)/π_ref(y_s)

is the same number before every token. Both ends are known: G is 0 before the first token, since E_ref[W] = 1, and
log W − log π_θ/π_ref after the last one. The squared differences G_j − G_i are losses for π_θ and V together: that of
the two ends is the squared residual of the whole completion (trajectory balance, arXiv 2503.18929); all others tell the
tokens apart (sub-trajectory balance, arXiv 2209.12782; path consistency, arXiv 1702.08892). Each is 0 at best-of-N
for every single completion, from whatever policy it came, so that the noise of its gradient vanishes with it, and
completions of earlier iterations can be used again without a ratio.
"""

import torch
from torch import Tensor


def value_gaps(log_ratios: Tensor, values: Tensor, log_weights: Tensor, mask: Tensor) -> Tensor:
    """Compute G before each token and after the last one.

    Args:
        log_ratios: log π_θ(y_t)/π_ref(y_t), (B, T), nats, differentiable.
        values: v before each token, (B, T), nats, differentiable; V is v relative to the first one, which is known.
        log_weights: log W of each completion, (B,), nats.
        mask: bool (B, T), True where a token counts; real tokens come first.

    Returns:
        G, (B, T + 1); after the last real token it stays as it is there.
    """
    ratios = torch.nn.functional.pad((log_ratios * mask).cumsum(1), (1, 0))
    inner = torch.nn.functional.pad(values - values[:, :1], (0, 1))
    ended = ~torch.nn.functional.pad(mask, (0, 1))
    return torch.where(ended, log_weights.to(inner.dtype)[:, None], inner) - ratios


def path_loss(gaps: Tensor, mask: Tensor, decay: float, clip: float) -> Tensor:
    """Compute ½(G_end − G_0)² + ½·mean over i < j of (G_j − G_i)², the mean weighted by decay^(j − i).

    Args:
        gaps: G of `value_gaps`, (B, T + 1).
        mask: bool (B, T), True where a token counts.
        decay: weight of a part relative to one that is a token shorter, in (0, 1].
        clip: a difference beyond ± this has the gradient of one at it, in nats.

    Returns:
        The loss of each completion, (B,).
    """
    places = torch.arange(gaps.shape[1], device=gaps.device)
    apart = places[None, :] - places[:, None]
    real = torch.nn.functional.pad(mask, (1, 0), value=True)
    weights = torch.where(apart > 0, decay ** apart.clamp_min(0).to(gaps.dtype), 0.0) * real[:, None, :]
    parts = _bounded(gaps[:, None, :] - gaps[:, :, None], clip) ** 2
    mean = (weights * parts).sum((1, 2)) / weights.sum((1, 2)).clamp_min(torch.finfo(gaps.dtype).tiny)
    return (_bounded(gaps[:, -1] - gaps[:, 0], clip) ** 2 + mean) / 2


def with_bounded_residual(values: Tensor, residuals: Tensor, limit: float) -> Tensor:
    """Shift values, without a change to their gradient, so that their residuals lie within ± limit.

    The gradient of the squared residual is then bounded: a target of −53 nats does not decide the step. `values` and
    `residuals` have one shape; a residual is the value less its target.
    """
    fixed = residuals.detach()
    return values - fixed + fixed.clamp(-limit, limit)


def _bounded(differences: Tensor, clip: float) -> Tensor:
    return with_bounded_residual(differences, differences, clip)
