"""The critic of PPO: a language model's trunk with one linear head, zero-initialised so that it starts at V = 0."""

import copy

from torch import Tensor, nn
from transformers import PreTrainedModel

from vbon.models.batch import Sequences
from vbon.models.forward import model_inputs
from vbon.models.logprobs import _joined


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
        input_ids, attention_mask = _joined(batch)
        inputs = model_inputs(self.trunk, attention_mask)
        hidden = self.trunk(input_ids=input_ids, use_cache=False, **inputs).last_hidden_state
        steps = batch.completion_ids.shape[1]
        return self.head(hidden[:, -steps - 1 : -1].to(self.head.weight.dtype))[..., 0].float()
