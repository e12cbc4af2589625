"""The critic of PPO: a language model's trunk with one linear head, zero-initialised so that it starts at V = 0."""

import copy

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from vbon.models.batch import Sequences
from vbon.models.forward import per_completion_token


class Critic(nn.Module):
    """V(x, y_<t) for each completion token, from its own copy of the policy's trunk."""

    def __init__(self, policy: PreTrainedModel):
        super().__init__()
        self.trunk = copy.deepcopy(policy.base_model)
        self.head = nn.Linear(policy.config.get_text_config().hidden_size, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, batch: Sequences) -> Tensor:
        """Values before each completion token, float32 (B, T)."""
        values: Tensor = self.head(per_completion_token(self._hidden, batch).to(self.head.weight.dtype))
        return values[..., 0].float()

    def _hidden(self, ids: Tensor, first: int) -> Tensor:
        output = self.trunk(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
        hidden: Tensor = output.last_hidden_state[:, first:]
        return hidden
