"""Means over completion tokens only. `mask` is True where a token counts."""

import torch
from torch import Tensor


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Compute the mean of `values` over the True entries of `mask` (equal shapes); 0 where the mask is empty."""
    return (values * mask).sum() / mask.sum().clamp_min(1)


def last_token(mask: Tensor) -> Tensor:
    """Find the index of the last True in each row of `mask`, 0 for an empty row: (B, T) → int64 (B,)."""
    positions = torch.arange(mask.shape[1], device=mask.device)
    return (mask * positions).amax(dim=1)
