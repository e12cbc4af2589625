"""A dial for N after training: two policies mixed token by token.

From π_ref and a policy π_N that was trained for best-of-N, the logits (1−λ)·z_ref + λ·z_N with λ = (N′−1)/(N−1) give a
policy near best-of-N′ (after DeRa, arXiv 2402.02992). For whole sequences, π_ref^(1−λ)·π_N^λ is best-of-N′ exactly if
log W_N is (N−1)·log F + const; token by token it is an approximation, whose distance docs/guides/best-of-n-tools.md
lists.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from vbon.errors import VbonError


def dial_share(n: float, dial: float) -> float:
    """Compute λ = (N′−1)/(N−1), the share of a policy trained for N in the mixture for N′.

    Raises:
        ValueError: N ≤ 1 or N′ < 1.
    """
    if not (n > 1 and dial >= 1):
        raise ValueError(f"needs n > 1 and a dial of at least 1, got {n} and {dial}")
    return (dial - 1) / (n - 1)


class Dial(nn.Module):
    """The mixture of two policies, which is sampled (`models.generate`) and measured (`models.logprobs`) as one model.

    Args:
        ref_policy: π_ref.
        policy: π_N, of the same vocabulary.
        share: λ; 0 is π_ref, 1 is π_N, and more than 1 extrapolates.

    Raises:
        VbonError: the two have different vocabularies.
    """

    def __init__(self, ref_policy: PreTrainedModel, policy: PreTrainedModel, share: float):
        super().__init__()
        sizes = [model.config.get_text_config().vocab_size for model in (ref_policy, policy)]
        if sizes[0] != sizes[1]:
            raise VbonError(f"--dial: the run has a vocabulary of {sizes[1]} tokens, its reference one of {sizes[0]}")
        self.ref_policy, self.policy, self.share = ref_policy, policy, share

    @property
    def config(self) -> Any:
        """The config of the trained policy."""
        return self.policy.config

    @property
    def device(self) -> torch.device:
        """The device of the trained policy."""
        return self.policy.device

    def get_input_embeddings(self) -> nn.Module:
        """Return the token embeddings of the trained policy, whose number of rows is the vocabulary."""
        return self.policy.get_input_embeddings()

    def mix(self, ref_logits: Tensor, logits: Tensor) -> Tensor:
        """Mix logits of π_ref and of π_N (..., V) in float32; a token that one of them excludes stays excluded."""
        if self.share == 1:
            return logits
        mixed = torch.lerp(ref_logits.float(), logits.float(), self.share)
        excluded = torch.isneginf(ref_logits) | torch.isneginf(logits)
        return mixed.masked_fill(excluded, -torch.inf)
