"""A warm start for PPO's critic: the value of every prefix under best-of-N, fitted to the pool; the policy stays.

The pool's W tell which prefixes lead to what best-of-N keeps. A critic that knows it from the first iteration lets
`gae_lambda` be small, so that a token answers for what it changed and not for the luck of all that follow: on real
text of over 100 nats that luck is most of what a policy gradient sees (docs/experiments.md).
"""

import time

import numpy as np
import torch
from torch import Tensor

from vbon.config.train import TrainConfig
from vbon.core import seeds
from vbon.core.best_of_n import kl_coef_from_n
from vbon.core.soft_values import soft_value_loss
from vbon.training.micro_batches import accumulate
from vbon.training.offline import offline_factor
from vbon.training.parallel.learner import Learner, set_learning_rates
from vbon.training.pool_data import PoolData, systematic_draw

TRACE_DECAY = 0.9


def critic_step(learner: Learner, data: PoolData, config: TrainConfig, step: int) -> dict[str, float]:
    """Take one optimizer step of the critic on pool rows, each as likely as another.

    Args:
        learner: with a critic of its own.
        data: the pool's completions.
        config: the configured training, with its defaults filled in.
        step: the number of the step, counted from 0.

    Returns:
        The metrics of the step: loss and seconds.

    Raises:
        FloatingPointError: the gradient is not finite; the weights are those before the step.
    """
    assert learner.critic is not None and config.offline_learning_rate is not None
    started = time.perf_counter()
    rows = systematic_draw(data.row_weights, config.offline_batch_size, config.seed, seeds.OFFLINE, step)
    device = learner.accelerator.device
    critic, tokens = learner.critic, data.completion_lengths(rows)

    def backward(part: Tensor) -> Tensor:
        own = rows[part.numpy()]
        batch = data.batch(own).to(device)
        weights = torch.from_numpy(np.exp(data.log_weights[own])).to(device)
        values = critic(batch) / kl_coef_from_n(config.n)  # the critic is in units of ρ
        loss = soft_value_loss(values, weights, batch.completion_mask, TRACE_DECAY)
        loss = loss * (int(tokens[part].sum()) / int(tokens.sum()))
        learner.optimizer.backward(loss)
        return loss.detach()

    rate = offline_factor(config, step) * config.offline_learning_rate
    set_learning_rates(learner, [rate] * len(learner.base_learning_rates))
    try:
        losses = accumulate(learner, data.lengths(rows), backward)
        learner.optimizer.step()
    except FloatingPointError as error:
        raise FloatingPointError(f"offline step {step + 1}, the critic: {error}") from None
    return {"offline_loss": float(torch.stack(losses).sum()), "seconds_update": time.perf_counter() - started}
