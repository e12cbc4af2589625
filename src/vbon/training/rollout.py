"""One iteration's rollouts: completions of the policy, their rewards, their ranks in the pool, log π_ref."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vbon.core import kl
from vbon.core.objectives import BoundObjective
from vbon.core.reward_cdf import Interval
from vbon.models.batch import Sequences, pad_left
from vbon.models.batch_size import rows_at_a_time
from vbon.models.head import logits_of
from vbon.models.logprobs import at_completion_tokens, log_softmax, token_logprobs
from vbon.training.task import Task


@dataclass(frozen=True)
class RefStates:
    """The input of the reference's output head at each completion token, from which log π_ref(·) is made in chunks.

    Over the vocabulary of a real model the log-probabilities themselves take 50 to 100 times as much memory.
    """

    hidden: Tensor
    """(B, T, H), in the model's dtype; 0 outside the mask."""
    ref_policy: nn.Module

    def select(self, rows: Tensor, steps: int) -> "RefStates":
        """Select rows, and their first `steps` tokens."""
        return RefStates(self.hidden[rows][:, :steps], self.ref_policy)

    @torch.no_grad()
    def log_softmax(self, token: Tensor, temperature: float) -> Tensor:
        """Compute log π_ref(·), float32 (N, V), at flat places of N tokens in (B, T)."""
        hidden = self.hidden.flatten(0, 1).index_select(0, token)
        return log_softmax(logits_of(self.ref_policy, hidden), temperature)


@dataclass(frozen=True)
class Rollouts:
    """B completions of the policy. Token-level tensors are float32 (B, T), sequence-level ones float64 (B,)."""

    prompt_index: Tensor
    sequences: Sequences
    old_logprobs: Tensor
    ref_logprobs: Tensor
    ref_states: "RefStates | None"
    finished: Tensor
    rewards: NDArray[np.float64]
    interval: Interval
    sequence_reward: Tensor
    kl_coef: float
    values: Tensor | None = None
    """V before each token, where the critic is a head on the policy's trunk."""

    @property
    def mask(self) -> Tensor:
        """True where a completion token counts, bool (B, T)."""
        return self.sequences.completion_mask

    def log_ratio(self) -> Tensor:
        """Compute Σ_t log π_θ(y_t) − log π_ref(y_t), float64 (B,): the k1 estimate of KL(π_θ‖π_ref)."""
        return (kl.k1(self.old_logprobs.double(), self.ref_logprobs.double()) * self.mask).sum(1)


def roll_out(
    policy: nn.Module,
    ref_policy: nn.Module,
    task: Task,
    prompt_index: Tensor,
    uniforms: Tensor,
    objective: BoundObjective,
    *,
    keep_ref_states: bool = False,
    value_head: nn.Module | None = None,
) -> Rollouts:
    """Sample K completions for each of P prompts, score and rank them, and measure them under the reference.

    Args:
        policy: the model to sample from.
        ref_policy: the model that made the pool.
        task: its prompts, sampling, reward and ranks are used.
        prompt_index: int64 (P,), which of the task's prompts.
        uniforms: float64 (P, K, T) in [0, 1); the draws are a function of these.
        objective: (rewards, interval) → sequence rewards and β.
        keep_ref_states: also keep what log π_ref over the vocabulary is made from, for the full-vocabulary KL.
        value_head: the critic that shares the policy's trunk, whose values are kept from sampling.

    Returns:
        B = P·K rollouts; those of one prompt are adjacent.
    """
    num_samples, sampling = uniforms.shape[1], task.sampling
    prompt_ids = [task.prompt_ids[i] for i in prompt_index]
    completions = task.draw(policy, prompt_index, uniforms, value_head)
    ids, mask = (
        t.to(completions.ids.device).repeat_interleave(num_samples, 0)
        for t in pad_left(prompt_ids, sampling.pad_token_id)
    )
    steps = int(completions.mask.sum(1).max())
    sequences = Sequences(ids, mask, completions.ids[:, :steps], completions.mask[:, :steps])
    index = prompt_index.repeat_interleave(num_samples)
    rewards, interval = task.score(index.numpy(), completions.rows())
    signal = objective(rewards, interval)
    ref_logprobs, ref_states = _reference(ref_policy, sequences, sampling.temperature, keep_states=keep_ref_states)
    return Rollouts(
        prompt_index=index,
        sequences=sequences,
        old_logprobs=completions.logprobs[:, :steps],
        ref_logprobs=ref_logprobs,
        ref_states=ref_states,
        finished=completions.finished,
        rewards=rewards,
        interval=interval,
        sequence_reward=torch.from_numpy(signal.sequence_reward).to(mask.device),
        kl_coef=signal.kl_coef,
        values=None if completions.values is None else completions.values[:, :steps],
    )


@torch.no_grad()
def _reference(
    ref_policy: nn.Module, sequences: Sequences, temperature: float, *, keep_states: bool
) -> tuple[Tensor, RefStates | None]:
    parts, kept = [], []
    rows = rows_at_a_time("reference", sequences.prompt_ids.device)
    for part in map(Sequences._make, zip(*(tensor.split(rows) for tensor in sequences), strict=True)):
        ids = part.completion_ids.flatten()

        def measure(logits: Tensor, hidden: Tensor, token: Tensor, ids: Tensor = ids) -> list[Tensor]:
            logprobs = token_logprobs(logits, ids[token], temperature)
            return [logprobs, hidden] if keep_states else [logprobs]

        logprobs, *hidden = at_completion_tokens(ref_policy, part, measure)
        parts.append(logprobs)
        kept += hidden
    return torch.cat(parts), RefStates(torch.cat(kept), ref_policy) if keep_states else None
