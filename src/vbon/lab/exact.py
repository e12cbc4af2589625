"""What is exact in an enumerable world: F, π_bon, and how far any policy is from it. Arrays are float64 (P, C)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from vbon.core.best_of_n import log_weight, log_weight_lower_bound, log_weight_upper_bound
from vbon.core.reward_cdf import Interval
from vbon.lab.world import World
from vbon.rewards import load_reward

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Truth:
    """log π_ref and the rewards of every completion of every prompt."""

    ref_logprobs: Float
    rewards: Float

    @cached_property
    def ref_probs(self) -> Float:
        """π_ref, its rounding errors normalised away."""
        probs = np.exp(self.ref_logprobs)
        return np.asarray(probs / probs.sum(-1, keepdims=True))

    @cached_property
    def cdf(self) -> tuple[Float, Float]:
        """(F_<, F_≤) of every completion."""
        pairs = [_cdf(p, r) for p, r in zip(self.ref_probs, self.rewards, strict=True)]
        return np.array([a for a, _ in pairs]), np.array([b for _, b in pairs])

    def interval(self, prompt_index: NDArray[np.int64], completion: NDArray[np.int64]) -> Interval:
        """What an infinite pool would say of these completions."""
        lower, upper = self.cdf
        return Interval(lower[prompt_index, completion], upper[prompt_index, completion], np.zeros(len(completion)))

    def log_weight(self, n: float) -> Float:
        return log_weight(*self.cdf, n)

    def log_bon(self, n: float) -> Float:
        """log π_bon."""
        return np.log(self.ref_probs) + self.log_weight(n)


def score_all(world: World, reward: str) -> Float:
    """Rewards of every completion under every prompt, `reward` as on the command line. Shape (P, C)."""
    score = load_reward(reward)
    return np.array([score([prompt] * len(world.texts), world.texts) for prompt in world.prompts])


def measure(logprobs: Float, truth: Truth, n: float) -> dict[str, float]:
    """Everything exact about a policy against best-of-n, means over prompts, nats.

    `bound` is L + log N on {F_< > 0}; `bound_excluded` the policy's mass on the rest, where L is −∞; `mass` what the
    policy puts on completions at all (its leak to words of the prompt is the rest).
    """
    probs, log_bon = np.exp(logprobs), truth.log_bon(n)
    log_ref, (lower, upper) = np.log(truth.ref_probs), truth.cdf
    low, high = log_weight_lower_bound(lower, n), log_weight_upper_bound(upper, n)
    to_ref = kl(logprobs, log_ref)
    return {
        "kl_policy_bon": kl(logprobs, log_bon),
        "kl_bon_policy": kl(log_bon, logprobs),
        "kl_policy_ref": to_ref,
        "reward": expectation(probs, truth.rewards),
        "win_rate": expectation(probs, (lower + upper) / 2),
        "entropy": -expectation(probs, logprobs),
        "objective": expectation(probs, truth.log_weight(n)) - to_ref,
        "bound": expectation(probs, np.where(lower > 0, low, 0.0)) - to_ref,
        "bound_excluded": expectation(probs, (lower == 0).astype(np.float64)),
        "upper_form": expectation(probs, high) - to_ref,
        "mass": float(probs.sum(-1).mean()),
    }


def kl(log_p: Float, log_q: Float) -> float:
    """KL(p‖q), mean over prompts; 0·log 0 = 0."""
    with np.errstate(invalid="ignore"):
        terms = np.where(np.isneginf(log_p), 0.0, np.exp(log_p) * (log_p - log_q))
    return float(terms.sum(-1).mean())


def expectation(probs: Float, values: Float) -> float:
    """E[value], mean over prompts."""
    with np.errstate(invalid="ignore"):
        terms = np.where(probs > 0, probs * values, 0.0)
    return float(terms.sum(-1).mean())


def normalised(log_unnormalised: Float) -> Float:
    """log of the distribution proportional to exp(·), over completions."""
    top = log_unnormalised.max(-1, keepdims=True)
    return np.asarray(log_unnormalised - top - np.log(np.exp(log_unnormalised - top).sum(-1, keepdims=True)))


def level_masses(probs: Float, rewards: Float) -> tuple[Float, NDArray[np.int64]]:
    """π_ref's mass of each reward level of one prompt, ascending, and each completion's level."""
    levels, index = np.unique(rewards, return_inverse=True)
    return np.bincount(index, weights=probs, minlength=len(levels)).astype(np.float64), index.astype(np.int64)


def tilted(truth: Truth, sequence_reward: Float, kl_coef: float) -> Float:
    """log of the exact optimum of E[ρ] − β·KL(π‖π_ref): π ∝ π_ref·exp(ρ/β)."""
    return normalised(np.log(truth.ref_probs) + sequence_reward / kl_coef)


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean and half the width of its 95 % interval, by the normal law."""
    data = np.asarray(values, np.float64)
    return float(data.mean()), float(1.96 * data.std(ddof=1) / np.sqrt(len(data))) if len(data) > 1 else 0.0


def _cdf(probs: Float, rewards: Float) -> tuple[Float, Float]:
    mass, index = level_masses(probs, rewards)
    upper = np.minimum(np.cumsum(mass), 1.0)
    lower = np.concatenate([[0.0], upper[:-1]])
    return lower[index], upper[index]
