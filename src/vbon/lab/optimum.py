"""What exact gradients reach with the same network: tells what optimisation costs from what the network cannot do."""

import copy
import math

import torch
from transformers import PreTrainedModel

from vbon.lab.enumerate import log_probs
from vbon.lab.exact import Truth
from vbon.lab.world import World

PEAK_RATE_TIMES_WIDTH = 0.128


def exact_gradient_optimum(
    ref_policy: PreTrainedModel, world: World, truth: Truth, n: float, *, steps: int = 400
) -> PreTrainedModel:
    """A copy of π_ref after `steps` of Adam down the exact KL(π_θ‖π_bon), by full enumeration; keeps the best step."""
    policy = copy.deepcopy(ref_policy).requires_grad_(True)
    log_bon = torch.from_numpy(truth.log_bon(n))
    peak = PEAK_RATE_TIMES_WIDTH / world.hidden_size
    optimizer = torch.optim.Adam(policy.parameters(), lr=peak)
    best, best_weights = math.inf, policy.state_dict()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = peak * min(1.0, (step + 1) / 20) * (1 + math.cos(math.pi * step / steps)) / 2
        logprobs = log_probs(policy, world)
        loss = (logprobs.exp() * (logprobs - log_bon)).sum(-1).mean()
        if loss.item() < best:
            best, best_weights = loss.item(), {k: v.clone() for k, v in policy.state_dict().items()}
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
    policy.load_state_dict(best_weights)
    return policy.eval()
