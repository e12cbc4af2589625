"""One forward pass of the policy over completions: what every online loss is made of."""

from typing import NamedTuple

from torch import Tensor, nn

from vbon.core import kl
from vbon.models.batch import Sequences
from vbon.models.logprobs import at_completion_tokens, log_softmax, token_logprobs
from vbon.models.value_head import values_of
from vbon.training.rollout import RefStates


class PolicyOutputs(NamedTuple):
    """The results of one forward pass of the policy on a minibatch, (B, T) each, differentiable; 0 outside the mask."""

    logprobs: Tensor
    exact_kl: Tensor | None
    """KL(π_θ‖π_ref) over the vocabulary, where the KL estimator is `full`."""
    values: Tensor | None
    """Values of a head on the policy's trunk."""


def policy_outputs(
    policy: nn.Module,
    sequences: Sequences,
    temperature: float,
    value_head: nn.Module | None,
    ref_states: RefStates | None = None,
) -> PolicyOutputs:
    """Run the policy once over completions.

    Args:
        policy: the policy in training.
        sequences: prompts and completions.
        temperature: the one of sampling.
        value_head: a head on the policy's trunk, or None.
        ref_states: the states that give log π_ref over the vocabulary, for the exact KL, or None.

    Returns:
        Log-probabilities, and what else was asked for.
    """
    ids = sequences.completion_ids.flatten()

    def measure(logits: Tensor, hidden: Tensor, token: Tensor) -> list[Tensor]:
        found = [token_logprobs(logits, ids[token], temperature)]
        if ref_states is not None:
            ref_log_softmax = ref_states.log_softmax(token, temperature)
            found.append(kl.full_vocabulary_kl(log_softmax(logits, temperature), ref_log_softmax))
        return found if value_head is None else [*found, values_of(value_head, hidden)]

    found = at_completion_tokens(policy, sequences, measure)
    exact_kl = None if ref_states is None else found[1]
    return PolicyOutputs(found[0], exact_kl, None if value_head is None else found[-1])
