"""From rollouts to a better policy: clipped minibatch steps whose advantages follow the policy.

Departs from common PPO in one point. The KL part of the return is taken again at the current policy in every
minibatch, instead of once at the rollout (`refresh_kl`): the target −KL(π_θ‖π_bon) then has its stationary point
where log π_θ/π_ref = log W on every sample, and further epochs on the same rollouts do not overshoot. On the lab
(N = 8, 150 iterations of 256 rollouts, 4 epochs) it takes KL(π_θ‖π_bon) from 0.059 to 0.038 nats with RLOO and from
0.055 to 0.037 with PPO (docs/experiments.md).

GRPO is an approximate host: ρ alone makes its advantages, and the KL is a term of the loss on the visited prefixes,
which drops the KL still to come (its fixed point is measured in docs/experiments.md). Its advantages are not divided by
their standard deviation, and the leave-one-out mean stands for the group's: the factor K/(K−1) keeps ρ : KL.

Advantages are in nats: divided by β, so that they do not depend on the scale of ρ, and bounded by `advantage_clip`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from vbon.core import kl, seeds
from vbon.core.masked import masked_mean
from vbon.core.policy_gradient import (
    clipped_token_loss,
    clipped_value_loss,
    gae,
    leave_one_out,
    returns_to_go,
    token_rewards,
)
from vbon.models.batch import Sequences
from vbon.training.policy_outputs import PolicyOutputs, policy_outputs
from vbon.training.rollout import RefStates, Rollouts


@dataclass(frozen=True)
class UpdateSettings:
    """The settings of an update; names as in `TrainConfig`."""

    algorithm: str
    critic: str
    temperature: float
    num_epochs: int
    minibatch_size: int
    clip_range: float
    value_clip_range: float
    value_coef: float
    gae_lambda: float
    advantage_clip: float
    kl_estimator: str
    refresh_kl: bool
    whiten_advantages: bool


@dataclass(frozen=True)
class Baseline:
    """The baseline of the advantages, fixed for the iteration: a value per token (PPO) or per sequence (RLOO)."""

    values: Tensor | None
    returns: Tensor | None
    sequence: Tensor | None


@dataclass(frozen=True)
class Minibatch:
    """Some rows of the rollouts, without the columns that none of them needs."""

    sequences: Sequences
    old_logprobs: Tensor
    ref_logprobs: Tensor
    ref_states: RefStates | None
    sequence_reward: Tensor
    kl_coef: float
    values: Tensor | None
    returns: Tensor | None
    baseline: Tensor | None
    prompt_index: Tensor | None = None
    """Which prompts its rows are, for messages."""
    advantage_scale: Tensor | None = None
    """The scale of whitened advantages, of the minibatch that this is a part of; None: its own."""

    @property
    def mask(self) -> Tensor:
        """True where a completion token counts, bool (B, T)."""
        return self.sequences.completion_mask

    def select(self, rows: Tensor) -> "Minibatch":
        """Select rows, without the columns that none of them needs."""
        rows = rows.to(self.mask.device)
        sequences = self.sequences.select(rows)
        steps = sequences.completion_ids.shape[1]

        def cut(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor[rows][:, :steps]

        index = self.prompt_index
        return replace(
            self,
            sequences=sequences,
            old_logprobs=self.old_logprobs[rows][:, :steps],
            ref_logprobs=self.ref_logprobs[rows][:, :steps],
            ref_states=None if self.ref_states is None else self.ref_states.select(rows, steps),
            sequence_reward=self.sequence_reward[rows],
            values=cut(self.values),
            returns=cut(self.returns),
            baseline=None if self.baseline is None else self.baseline[rows],
            prompt_index=None if index is None else index[rows.to(index.device)],
        )


@torch.no_grad()
def make_baseline(rollouts: Rollouts, critic: nn.Module | None, settings: UpdateSettings) -> Baseline:
    """Compute the baseline: the critic's values and returns (PPO), or the mean return of a prompt's other samples."""
    cost = _sampled_kl(rollouts.old_logprobs, rollouts.ref_logprobs)
    if settings.algorithm == "grpo":
        cost = torch.zeros_like(cost)
    rewards = token_rewards(rollouts.sequence_reward, cost, rollouts.mask, rollouts.kl_coef)
    if critic is None:
        total = rewards.sum(1)
        return Baseline(None, None, total - leave_one_out(total, rollouts.prompt_index.to(total.device)))
    values = rollouts.values
    if values is None:
        values = torch.cat([critic(part) for part in _chunks(rollouts.sequences, 4 * settings.minibatch_size)])
    returns = gae(rewards.float(), values, rollouts.mask, settings.gae_lambda) + values
    return Baseline(values, returns, None)


def minibatches(rollouts: Rollouts, baseline: Baseline, settings: UpdateSettings, *key: int) -> Iterator[Minibatch]:
    """Yield every row once per epoch, in an order that is a function of the key."""
    whole = Minibatch(
        sequences=rollouts.sequences,
        old_logprobs=rollouts.old_logprobs,
        ref_logprobs=rollouts.ref_logprobs,
        ref_states=rollouts.ref_states,
        sequence_reward=rollouts.sequence_reward,
        kl_coef=rollouts.kl_coef,
        values=baseline.values,
        returns=baseline.returns,
        baseline=baseline.sequence,
        prompt_index=rollouts.prompt_index,
    )
    for epoch in range(settings.num_epochs):
        order = seeds.permutation(len(rollouts.prompt_index), *key, epoch)
        yield from map(whole.select, order.split(settings.minibatch_size))


def losses(
    policy: nn.Module, critic: nn.Module | None, batch: Minibatch, settings: UpdateSettings, tokens_per_row: float
) -> tuple[Tensor, Tensor | None, dict[str, Tensor]]:
    """Compute the clipped loss of a minibatch and, for a critic on the policy's trunk, its value loss.

    Args:
        policy: the policy in training.
        critic: the critic, or None without PPO.
        batch: the minibatch.
        settings: the settings of the update.
        tokens_per_row: mean completion length over the whole iteration, so that every minibatch weighs rows alike.

    Returns:
        The loss in nats per real token, the value loss or None, and diagnostics, all scalars.
    """
    head = critic if settings.critic == "shared" else None
    outputs = _forward(policy, batch, settings, head)
    loss, diagnostics = _policy_loss(outputs, batch, settings, tokens_per_row)
    return loss, None if head is None else _value_loss(outputs.values, batch, settings, tokens_per_row), diagnostics


@torch.no_grad()
def advantage_scale(policy: nn.Module, parts: Sequence[Minibatch], settings: UpdateSettings) -> Tensor:
    """Compute the scale by which a minibatch's advantages are whitened, from its micro-batches."""
    one, squares = torch.ones((), dtype=torch.float64, device=parts[0].mask.device), []
    for part in parts:
        outputs = _forward(policy, part, settings, None)
        unscaled = replace(part, advantage_scale=one)
        squares.append(_advantages(outputs.logprobs, outputs.exact_kl, unscaled, settings).double().square().sum())
    tokens = torch.stack([part.mask.sum() for part in parts]).sum()
    return (torch.stack(squares).sum() / tokens.clamp_min(1)).sqrt().clamp_min(1e-8).float()


def critic_loss(critic: nn.Module, batch: Minibatch, settings: UpdateSettings, tokens_per_row: float) -> Tensor:
    """Compute PPO's value loss of a critic with a trunk of its own.

    Args:
        critic: the critic.
        batch: the minibatch.
        settings: the settings of the update.
        tokens_per_row: as in `losses`.

    Returns:
        The loss, a scalar in the units of `losses`.
    """
    return _value_loss(critic(batch.sequences), batch, settings, tokens_per_row)


def _forward(
    policy: nn.Module, batch: Minibatch, settings: UpdateSettings, value_head: nn.Module | None
) -> PolicyOutputs:
    states = batch.ref_states if settings.kl_estimator == "full" else None
    return policy_outputs(policy, batch.sequences, settings.temperature, value_head, states)


def _policy_loss(
    outputs: PolicyOutputs, batch: Minibatch, settings: UpdateSettings, tokens_per_row: float
) -> tuple[Tensor, dict[str, Tensor]]:
    logprobs = outputs.logprobs
    advantages = _advantages(logprobs.detach(), outputs.exact_kl, batch, settings)
    token_losses = clipped_token_loss(logprobs, batch.old_logprobs, advantages, settings.clip_range)
    if outputs.exact_kl is not None:
        token_losses = token_losses + outputs.exact_kl
    elif settings.algorithm == "grpo":
        token_losses = token_losses + kl.importance_weighted_k3(logprobs, batch.old_logprobs, batch.ref_logprobs)
    loss = (token_losses * batch.mask).sum() / (len(batch.mask) * tokens_per_row)
    return loss, _diagnostics(logprobs.detach(), advantages, batch, settings)


def _value_loss(values: Tensor | None, batch: Minibatch, settings: UpdateSettings, tokens_per_row: float) -> Tensor:
    """The clipped squared error against the returns of the rollout, per token as the policy's loss counts them."""
    assert values is not None and batch.values is not None and batch.returns is not None
    loss = clipped_value_loss(values, batch.values, batch.returns, batch.mask, settings.value_clip_range)
    return settings.value_coef * loss * (batch.mask.sum().to(loss.dtype) / (len(batch.mask) * tokens_per_row))


def _advantages(logprobs: Tensor, exact_kl: Tensor | None, batch: Minibatch, settings: UpdateSettings) -> Tensor:
    cost = _kl_in_return(logprobs, exact_kl, batch, settings)
    rewards = token_rewards(batch.sequence_reward, cost, batch.mask, batch.kl_coef)
    if batch.values is not None:
        advantages = gae(rewards.float(), batch.values, batch.mask, settings.gae_lambda)
    else:
        assert batch.baseline is not None
        # With the exact KL a token answers for the KL after it only; the sampled one cancels over the whole sequence.
        returns = rewards.sum(1, keepdim=True) if exact_kl is None else returns_to_go(rewards, batch.mask)
        advantages = (returns - batch.baseline[:, None]) * batch.mask
    if settings.whiten_advantages:
        scale = batch.advantage_scale
        if scale is None:
            scale = masked_mean(advantages**2, batch.mask).sqrt().clamp_min(1e-8).float()
        return (advantages / scale).float()
    return (advantages / batch.kl_coef).clamp(-settings.advantage_clip, settings.advantage_clip).float()


def _kl_in_return(logprobs: Tensor, exact_kl: Tensor | None, batch: Minibatch, settings: UpdateSettings) -> Tensor:
    """Compute the KL that the advantages charge to each token, (B, T); the rest of it is in the loss."""
    if settings.algorithm == "grpo":
        return torch.zeros_like(logprobs)
    if exact_kl is not None:
        return kl.future_kl(exact_kl.detach(), batch.mask)
    return _sampled_kl(logprobs if settings.refresh_kl else batch.old_logprobs, batch.ref_logprobs)


def _sampled_kl(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    return kl.k1(logprobs.double(), ref_logprobs.double())


@torch.no_grad()
def _diagnostics(logprobs: Tensor, advantages: Tensor, batch: Minibatch, settings: UpdateSettings) -> dict[str, Tensor]:
    log_ratio = (logprobs - batch.old_logprobs) * batch.mask
    outside = (log_ratio.exp() - 1).abs() > settings.clip_range
    return {
        "approx_kl": masked_mean(kl.k3(batch.old_logprobs, logprobs), batch.mask),
        "clip_fraction": masked_mean(outside.float(), batch.mask),
        "ratio": masked_mean(log_ratio.exp(), batch.mask),
        "ratio_gap": log_ratio.abs().max(),
        "advantage_std": masked_mean(advantages**2, batch.mask).sqrt(),
    }


def _chunks(sequences: Sequences, size: int) -> Iterator[Sequences]:
    for start in range(0, len(sequences.prompt_ids), size):
        yield Sequences(*(tensor[start : start + size] for tensor in sequences))
