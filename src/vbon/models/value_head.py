"""PPO's critic: a linear head, on a trunk of its own or on the policy's.

The head is initialised with zeros, so that V = 0 at first.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from vbon.errors import VbonError
from vbon.models.batch import Sequences
from vbon.models.forward import is_wrapped, per_completion_token


def value_head(policy: PreTrainedModel) -> nn.Linear:
    """Make the head V(x, y_<t) = w·h + c on the hidden state h that predicts y_t, with w and c 0."""
    head = nn.Linear(policy.config.get_text_config().hidden_size, 1)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


def values_of(head: nn.Module, hidden: Tensor) -> Tensor:
    """Apply the head to hidden states: (..., H) → (...), in the dtype of the head, which is float32 in training."""
    values: Tensor = head(hidden.to(next(head.parameters()).dtype))
    return values[..., 0]


def first_layers(trunk: PreTrainedModel, count: int) -> PreTrainedModel:
    """Cut the trunk to its first `count` layers, in place; embeddings and the last norm stay.

    Raises:
        VbonError: the trunk has fewer layers, or its architecture does not show which its layers are.
    """
    config = trunk.config.get_text_config()
    if count > config.num_hidden_layers:
        raise VbonError(f"--critic-layers is {count}, but the model has {config.num_hidden_layers}")
    layers = layers_of(trunk)
    if layers is None:
        raise VbonError(f"--critic-layers: {trunk.config.model_type} does not say which its layers are; leave it out")
    del layers[count:]
    config.num_hidden_layers = count
    return trunk


def layers_of(trunk: Any) -> nn.ModuleList | None:
    """Find the list of layers, the only ModuleList of the length that the config gives.

    None where there is no such list, or more than one.
    """
    count = trunk.config.get_text_config().num_hidden_layers
    stacks = [one for one in trunk.modules() if isinstance(one, nn.ModuleList) and len(one) == count]
    return stacks[0] if len(stacks) == 1 else None


class Critic(nn.Module):
    """V(x, y_<t) for each completion token, from a copy of the policy's trunk or of its first layers.

    Args:
        policy: the policy, without adapters.
        num_layers: how many of its layers; default: all.
        copied: how the trunk is copied: `copy.deepcopy`, or `sharing_weights` where adapters are trained.
    """

    def __init__(
        self, policy: PreTrainedModel, num_layers: int | None = None, copied: Callable[[Any], Any] = copy.deepcopy
    ):
        super().__init__()
        trunk = copied(policy.base_model)
        self.trunk = trunk if num_layers is None else first_layers(trunk, num_layers)
        self.head = value_head(policy)
        self._no_split_modules = policy._no_split_modules  # the layers, for those who shard it

    def forward(self, batch: Sequences) -> Tensor:
        """Compute the values before each completion token, float32 (B, T); 0 outside the mask."""
        return per_completion_token(self._values, batch, split=not is_wrapped(self.trunk))[0]

    def _values(self, ids: Tensor, at: Tensor, token: Tensor) -> Sequence[Tensor]:
        output = self.trunk(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
        return [values_of(self.head, output.last_hidden_state.flatten(0, 1).index_select(0, at))]
