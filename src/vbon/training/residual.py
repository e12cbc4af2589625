"""The update of `--algorithm residual`: squared residuals of path consistency, on rollouts of the last iterations.

No ratio is clipped. A row of an earlier policy weighs min(1, π_θ/π_old), so that what the present policy would no
longer say does not decide the step (truncated importance weights, arXiv 2503.14286).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from vbon.core.path_consistency import path_loss, value_gaps
from vbon.models.batch import Sequences
from vbon.training.micro_batches import accumulate
from vbon.training.parallel.learner import Learner
from vbon.training.policy_outputs import policy_outputs
from vbon.training.rollout_buffer import RolloutBuffer
from vbon.training.step import check_loss
from vbon.training.update import UpdateSettings

DECAY = 0.9
ROWS_PER_STEP = 2  # times the minibatch size: the other algorithms see a row in as many steps, but fewer rows


@dataclass(frozen=True)
class ResidualMinibatch:
    """Rows of the buffer; float32 (B, T) per token, float64 (B,) per completion."""

    rows: Tensor
    sequences: Sequences
    prompt_index: Tensor
    old_logprobs: Tensor
    ref_logprobs: Tensor
    log_weights: Tensor
    weights: Tensor
    """1/(probability with which the row was drawn × number of rows)."""

    @property
    def mask(self) -> Tensor:
        """True where a completion token counts, bool (B, T)."""
        return self.sequences.completion_mask

    def select(self, rows: Tensor) -> "ResidualMinibatch":
        """Select rows, without the columns that none of them needs."""
        rows = rows.to(self.mask.device)
        sequences = self.sequences.select(rows)
        steps = sequences.completion_ids.shape[1]
        return replace(
            self,
            sequences=sequences,
            old_logprobs=self.old_logprobs[rows][:, :steps],
            ref_logprobs=self.ref_logprobs[rows][:, :steps],
            log_weights=self.log_weights[rows],
            weights=self.weights[rows],
        )


def residual_minibatches(
    learner: Learner, buffer: RolloutBuffer, settings: UpdateSettings, num_steps: int, *key: int
) -> Iterator[ResidualMinibatch]:
    """Yield this process's rows of each step, drawn when the step begins: the one before has changed what is drawn.

    Args:
        learner: its processes share the rows of a step.
        buffer: the rows that are drawn from.
        settings: the settings of the update.
        num_steps: how many minibatches.
        key: of the draws.

    Returns:
        The minibatches, one after the other.
    """
    accelerator = learner.accelerator
    total = ROWS_PER_STEP * settings.minibatch_size * accelerator.num_processes
    for step in range(num_steps):
        rows, weights = buffer.draw(total, *key, step)
        mine = slice(accelerator.process_index, None, accelerator.num_processes)
        batch, columns = buffer.select(rows[mine])
        device = accelerator.device
        yield ResidualMinibatch(
            rows=rows[mine],
            sequences=batch.to(device),
            prompt_index=columns["prompt_index"],
            old_logprobs=columns["old_logprobs"].to(device),
            ref_logprobs=columns["ref_logprobs"].to(device),
            log_weights=columns["log_weights"].to(device),
            weights=weights[mine].to(device),
        )


def residual_losses(
    policy: nn.Module, head: nn.Module, batch: ResidualMinibatch, settings: UpdateSettings, tokens_per_row: float
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Compute the loss of policy and value head together.

    Args:
        policy: the policy in training.
        head: values on its trunk.
        batch: rows of the buffer.
        settings: the settings of the update.
        tokens_per_row: mean completion length, so that the loss is in nats² a token.

    Returns:
        The loss; each row's residual times its truncated importance weight, nats, (B,); and diagnostics, scalars.
    """
    outputs = policy_outputs(policy, batch.sequences, settings.temperature, head)
    assert outputs.values is not None
    log_ratios = (outputs.logprobs.double() - batch.ref_logprobs.double()) * batch.mask
    gaps = value_gaps(log_ratios, outputs.values.double(), batch.log_weights, batch.mask)
    with torch.no_grad():
        change = (outputs.logprobs - batch.old_logprobs) * batch.mask
        importance = change.double().sum(1).exp().clamp_max(1)
        residuals = log_ratios.sum(1) - batch.log_weights
    losses = path_loss(gaps, batch.mask, DECAY, settings.advantage_clip)
    loss = (losses * importance * batch.weights).mean() / tokens_per_row
    diagnostics = {
        "ratio_gap": change.abs().max(),
        "residual": (residuals**2 * importance * batch.weights).mean().sqrt().float(),
    }
    return loss, residuals * importance, diagnostics


def residual_step(
    learner: Learner, buffer: RolloutBuffer, batch: ResidualMinibatch, settings: UpdateSettings, tokens_per_row: float
) -> dict[str, Tensor]:
    """Take one step of policy and value head, and note the residuals of its rows in the buffer.

    Args:
        learner: policy and value head with their optimizer.
        buffer: where the rows come from.
        batch: this process's rows.
        settings: the settings of the update.
        tokens_per_row: mean completion length.

    Returns:
        The diagnostics of the step, scalars.

    Raises:
        FloatingPointError: the loss or its gradient is not finite or has exploded; the weights are those before.
    """
    assert learner.critic is not None
    head, residuals = learner.critic, torch.zeros(len(batch.rows), dtype=torch.float64)

    def backward(rows: Tensor) -> dict[str, Tensor]:
        share = len(rows) / len(batch.rows)
        part = residual_losses(learner.policy, head, batch.select(rows), settings, tokens_per_row)
        loss, residuals[rows], diagnostics = part[0] * share, part[1].cpu(), part[2]
        learner.optimizer.backward(loss.float())
        return {**diagnostics, "policy_loss": loss.detach(), "squares": diagnostics["residual"] ** 2 * share}

    found = accumulate(learner, batch.sequences.lengths(), backward)
    columns = {name: torch.stack([one[name] for one in found]) for name in found[0]}
    loss = columns["policy_loss"].sum()
    check_loss(learner, loss)
    grad_norm = learner.optimizer.step()["policy"]
    buffer.update(learner.gather_rows(batch.rows).cpu(), learner.gather_rows(residuals).cpu())
    return {
        "policy_loss": loss,
        "residual": columns["squares"].sum().sqrt(),
        "ratio_gap": columns["ratio_gap"].max(),
        "grad_norm": grad_norm,
    }
