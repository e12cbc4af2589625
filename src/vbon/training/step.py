"""One optimizer step on a minibatch of rollouts, by the gradients of its micro-batches."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from vbon.core.offline import jeffreys
from vbon.training.micro_batches import accumulate, micro_batches
from vbon.training.parallel.learner import Learner
from vbon.training.update import Minibatch, UpdateSettings, advantage_scale, critic_loss, losses

PoolPart = Callable[[Tensor, int], Tensor]
"""(rows, of how many) → the share of these rollouts of a minibatch in the loss on pool samples, nats per completion."""
SUMMED = ("policy_loss", "pool_loss", "value_loss")  # over micro-batches
MAX_LOSS = 1e4  # nats a token; advantages are bounded by 10 nats, so only a ratio that has run away gets here


def step(
    learner: Learner, batch: Minibatch, settings: UpdateSettings, tokens_per_row: float, pool_loss: PoolPart | None
) -> dict[str, Tensor]:
    """Take one clipped step on a minibatch.

    Args:
        learner: policy and critic with their optimizer.
        batch: the minibatch.
        settings: the settings of the update.
        tokens_per_row: mean completion length over the whole iteration.
        pool_loss: the loss on pool samples that is added (bond), or None.

    Returns:
        The diagnostics of the step, scalars.

    Raises:
        FloatingPointError: the loss or its gradient is not finite or has exploded; the weights are those before.
    """
    lengths = batch.sequences.lengths() * (1 if pool_loss is None else 2)  # as many pool rows go through beside them
    if settings.whiten_advantages:
        parts = [batch.select(rows) for rows in micro_batches(learner, lengths)]
        if len(parts) > 1:
            batch = replace(batch, advantage_scale=advantage_scale(learner.policy, parts, settings))
    tokens: list[Tensor] = []

    def backward(rows: Tensor) -> dict[str, Tensor]:
        part = batch.select(rows)
        tokens.append(part.mask.sum())
        pool_share = None if pool_loss is None else pool_loss(rows, len(batch.mask)) / tokens_per_row
        # The micro-batch is divided by the tokens of the whole minibatch, so it counts by its share of the rows.
        return _backward(learner, part, settings, tokens_per_row * (len(batch.mask) / len(rows)), pool_share)

    found = accumulate(learner, lengths, backward)
    sums = {name: torch.stack([one.pop(name) for one in found]).sum() for name in SUMMED if name in found[0]}
    diagnostics = combined(found, tokens[-len(found) :]) | sums
    check_loss(learner, diagnostics["policy_loss"])
    diagnostics["grad_norm"] = learner.optimizer.step()["policy"]
    return diagnostics


def _backward(
    learner: Learner, batch: Minibatch, settings: UpdateSettings, tokens_per_row: float, forward: Tensor | None
) -> dict[str, Tensor]:
    """Add the gradients of a micro-batch; `forward` is the loss on pool samples or None."""
    loss, value_loss, diagnostics = losses(learner.policy, learner.critic, batch, settings, tokens_per_row)
    diagnostics["policy_loss"] = loss.detach()
    if forward is not None:
        diagnostics["pool_loss"] = forward.detach().float()
        loss = jeffreys(forward.float(), loss)
    if value_loss is not None:  # one trunk, one backward pass
        learner.optimizer.backward(loss + value_loss)
    else:
        learner.optimizer.backward(loss)
        if learner.critic is not None:  # only now: what the policy kept for its gradient is free again
            value_loss = critic_loss(learner.critic, batch, settings, tokens_per_row)
            learner.optimizer.backward(value_loss)
    if value_loss is not None:
        diagnostics["value_loss"] = value_loss.detach()
    return diagnostics


def check_loss(learner: Learner, loss: Tensor) -> None:
    """FloatingPointError, before the weights change and in all processes alike, where the loss has exploded."""
    value = float(learner.accelerator.reduce(loss, "mean"))
    if not abs(value) <= MAX_LOSS:
        raise FloatingPointError(f"the loss is {value:.3g} nats per token")


def combined(parts: Sequence[dict[str, Tensor]], tokens: Sequence[Tensor]) -> dict[str, Tensor]:
    """Compute the diagnostics of a minibatch from those of its micro-batches, by the completion tokens of each."""
    if len(parts) == 1:
        return parts[0]
    columns = {name: torch.stack([part[name].double() for part in parts]) for name in parts[0]}
    weights = torch.stack(list(tokens)).double()
    weights = weights / weights.sum().clamp_min(1)
    found = {name: (values * weights).sum() for name, values in columns.items()}
    found["advantage_std"] = (columns["advantage_std"] ** 2 * weights).sum().sqrt()
    found["ratio_gap"] = columns["ratio_gap"].max()
    return {name: value.float() for name, value in found.items()}
