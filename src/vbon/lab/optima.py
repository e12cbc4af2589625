"""The optimum of each method in an enumerable world, given exact F and no limit on the network: log π*, float64 (P, C).

Methods with a sequence objective lead to a tilt of π_ref. GRPO leads to the fixed point of a recursion over prefixes.
BOND, BoNBoN and DPO have no closed form: their own losses are minimised over the free simplex, to rounding.
"""

import copy
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from vbon.config.methods import MethodName
from vbon.core import offline
from vbon.core.best_of_n import kl_coef_from_n, log_weight_upper_bound
from vbon.lab.enumerate import log_probs
from vbon.lab.exact import Float, Truth, tilted
from vbon.lab.training import MANY
from vbon.lab.world import World

_LBFGS_STEPS = 2000
PEAK_RATE_TIMES_WIDTH = 0.128


def own_optimum(method: MethodName, truth: Truth, world: World, n: int, kl_coef: float) -> Float:
    """log π* of a method of `vbon train`. `kl_coef` is read by the methods that have one."""
    lower, upper = truth.cdf
    if method == "kl-rl":
        return tilted(truth, truth.rewards, kl_coef)
    if method == "quantile":
        return tilted(truth, (lower + upper) / 2, kl_coef)
    if method == "vbon-bound":  # (k_<+1)/(M+1): a completion that the pool holds often ties with itself
        return tilted(truth, np.log(lower + 1 / (MANY + 1)), kl_coef_from_n(n))
    if method == "grpo":
        return prefix_recursion(truth, world, truth.log_weight(n), soft=False)
    if method == "bond":
        return _minimised(truth, lambda p: bond_loss(truth, n, p))
    if method in ("bonbon", "dpo"):
        return _minimised(truth, lambda p: pair_loss(method, truth, n, kl_coef, p))
    return truth.log_bon(n)


def prefix_recursion(truth: Truth, world: World, nats: Float, *, soft: bool) -> Float:
    """log π* of the prefix recursion π(a|h) ∝ π_ref(a|h)·exp(Q(h, a)/β), float64 (P, C).

    Args:
        truth: π_ref of every completion.
        world: The world's letters and depth.
        nats: ρ/β of every completion, (P, C).
        soft: False: Q is the expected ρ to come, E_π[Q]/β, without its KL. There the gradient of −E[ρ]/β and that of
            KL_t on visited prefixes cancel: GRPO's fixed point. True: log E_{π_ref}[exp Q/β]: the exact optimum.

    Returns:
        log π* of every completion.
    """
    return np.array([_backward(np.log(p), x, world, soft=soft) for p, x in zip(truth.ref_probs, nats, strict=True)])


def _backward(log_ref: Float, nats: Float, world: World, *, soft: bool) -> Float:
    """One prompt, from the longest words to the empty one; each level has a row a word, a column an action."""
    letters, depth = world.letters, world.max_new_tokens
    starts = np.cumsum([0, *(letters**length for length in range(depth + 1))])
    values, log_mass = nats[starts[depth] :], log_ref[starts[depth] :]
    actions: list[Float] = []
    for length in reversed(range(depth)):
        ended = slice(starts[length], starts[length + 1])
        q = np.column_stack([nats[ended], values.reshape(-1, letters)])
        log_masses = np.column_stack([log_ref[ended], log_mass.reshape(-1, letters)])
        log_mass = np.logaddexp.reduce(log_masses, axis=1)
        log_tilt = log_masses - log_mass[:, None] + q
        log_z = np.logaddexp.reduce(log_tilt, axis=1)
        actions.insert(0, log_tilt - log_z[:, None])
        values = log_z if soft else (np.exp(actions[0]) * q).sum(1)
    return _sequences(actions)


def _sequences(actions: list[Float]) -> Float:
    """log π of every completion from log π(a|h), level by level, in the order of `World.completions`."""
    so_far, finished = np.zeros(1), []
    for log_action in actions:
        finished.append(so_far + log_action[:, 0])
        so_far = (so_far[:, None] + log_action[:, 1:]).ravel()
    return np.concatenate([*finished, so_far])


def bond_loss(truth: Truth, n: int, log_policy: Tensor) -> Tensor:
    """½·KL(π_bon‖π) + ½·(KL(π‖π_ref) − E_π[(N−1)·log F_≤ + log N]), summed over prompts."""
    log_ref, log_bon = (torch.from_numpy(x) for x in (np.log(truth.ref_probs), truth.log_bon(n)))
    upper = torch.from_numpy(log_weight_upper_bound(truth.cdf[1], n))
    forward = (log_bon.exp() * (log_bon - log_policy)).sum()
    return offline.jeffreys(forward, (log_policy.exp() * (log_policy - log_ref - upper)).sum())


def pair_loss(method: str, truth: Truth, n: int, kl_coef: float, log_policy: Tensor) -> Tensor:
    """E over (best, worst) of N draws of π_ref of the loss of `bonbon` or `dpo`, summed over prompts."""
    total = torch.zeros((), dtype=torch.float64)
    log_ref = torch.from_numpy(np.log(truth.ref_probs))
    for prompt, pairs in enumerate(map(torch.from_numpy, best_worst_probabilities(truth, n))):
        ratio = log_policy[prompt] - log_ref[prompt]
        gap = ratio[:, None] - ratio[None]
        if method == "dpo":
            total = total - (pairs * torch.nn.functional.logsigmoid(kl_coef * gap)).sum()
        else:
            margin = (pairs * (gap - offline.bonbon_margin(n)) ** 2).sum()
            total = total + 0.995 * margin - 0.005 * (pairs.sum(1) * log_policy[prompt]).sum()
    return total


def best_worst_probabilities(truth: Truth, n: int) -> Float:
    """P(best = i, worst = j) of N draws, ties at random within their level, a set of one level in itself; (P, C, C).

    P(all in [j, i]) less those without i or without j: d(b_i−a_j) − d(a_i−a_j) − d(b_i−b_j) + d(a_i−b_j), d = (·)^N.
    """
    tables = []
    for p, a, b in zip(truth.ref_probs, *truth.cdf, strict=True):
        powers = [np.maximum(x[:, None] - y[None], 0.0) ** n for x, y in ((b, a), (a, a), (b, b), (a, b))]
        levels = np.where(a[:, None] > a[None], powers[0] - powers[1] - powers[2] + powers[3], 0.0)
        within = p / (b - a)
        tables.append(levels * within[:, None] * within[None] + np.diag((b - a) ** n * within))
    return np.array(tables)


def _minimised(truth: Truth, loss_of: Callable[[Tensor], Tensor]) -> Float:
    """log π with the smallest loss, L-BFGS from π_ref."""
    logits = torch.from_numpy(np.log(truth.ref_probs)).requires_grad_()
    optimizer = torch.optim.LBFGS(
        [logits], max_iter=_LBFGS_STEPS, tolerance_grad=1e-10, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(logits.log_softmax(-1))
        loss.backward()
        return loss

    optimizer.step(closure)
    return np.asarray(logits.detach().log_softmax(-1).numpy())


def exact_gradient_optimum(
    ref_policy: PreTrainedModel, world: World, truth: Truth, n: float, *, steps: int = 400
) -> PreTrainedModel:
    """Train a copy of π_ref by exact gradients of KL(π_θ‖π_bon), over all completions instead of samples.

    Args:
        ref_policy: π_ref.
        world: The world that π_ref speaks in.
        truth: log π_ref and the rewards of all its completions.
        n: N of best-of-N.
        steps: How many steps Adam takes, each over all completions.

    Returns:
        The policy of the step with the lowest KL.
    """
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
