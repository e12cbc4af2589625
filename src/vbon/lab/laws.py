"""Laws of the reward under π_ref, continuous or enumerated, on which best-of-N and KL-RL's optimum are exact."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch

from vbon.core.best_of_n import log_weight
from vbon.lab.exact import Float, Truth, normalised

GRID = np.linspace(-60.0, 60.0, 24_001)
"""log-odds of the quantile u: fine in both tails."""


@dataclass(frozen=True)
class Law:
    """Atoms of π_ref with their rewards, F_< and F_≤; float64 (K,). `lower` = `upper` for a grid over a continuum."""

    log_ref: Float
    rewards: Float
    lower: Float
    upper: Float

    def log_bon(self, n: float) -> Float:
        """log π_bon of each atom."""
        return normalised(self.log_ref + log_weight(self.lower, self.upper, n))

    def log_tilted(self, kl_coef: float) -> Float:
        """log of KL-RL's optimum, π_ref·exp(r/β)."""
        return normalised(self.log_ref + self.rewards / kl_coef)

    def std(self) -> float:
        """Standard deviation of the reward under π_ref."""
        probs = np.exp(self.log_ref)
        return float(np.sqrt(probs @ (self.rewards - probs @ self.rewards) ** 2))

    def kl_from_ref(self, log_probs: Float) -> float:
        probs = np.exp(log_probs)
        return float(np.sum(np.where(probs > 0, probs * (log_probs - self.log_ref), 0.0)))

    def mean(self, log_probs: Float) -> float:
        return float(np.exp(log_probs) @ self.rewards)

    def win_rate(self, log_probs: Float) -> float:
        return float(np.exp(log_probs) @ (self.lower + self.upper) / 2)


def continuous_law(quantile: Callable[[Float], Float]) -> Law:
    """The law whose reward at quantile u is `quantile`(log-odds of u)."""
    log_u, log_not_u = -np.logaddexp(0, -GRID), -np.logaddexp(0, GRID)
    u = np.exp(log_u)
    return Law(normalised(log_u + log_not_u), quantile(GRID), u, u)


def enumerated_law(truth: Truth) -> Law:
    """The first prompt of an enumerable world."""
    lower, upper = truth.cdf
    return Law(np.log(truth.ref_probs[0]), truth.rewards[0], lower[0], upper[0])


def normal_quantile(log_odds: Float) -> Float:
    """Φ⁻¹, equally exact in both tails."""
    tail = torch.special.ndtri(torch.from_numpy(1 / (1 + np.exp(np.abs(log_odds))))).numpy()
    return np.where(log_odds > 0, -tail, tail)


def exponential_quantile(log_odds: Float) -> Float:
    """−log(1−u)."""
    return np.asarray(np.logaddexp(0, log_odds))


def log_rank_quantile(log_odds: Float) -> Float:
    """log u."""
    return np.asarray(-np.logaddexp(0, -log_odds))


def uniform_quantile(log_odds: Float) -> Float:
    """u."""
    return np.asarray(1 / (1 + np.exp(-log_odds)))


def match(target: float, measured: Callable[[float], float], scale: float) -> float:
    """The β at which `measured`(β), falling in β, equals `target`: bisection over 12 decades around `scale`."""
    low, high = np.log(scale) - 14, np.log(scale) + 14
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if measured(float(np.exp(middle))) > target else (low, middle)
    return float(np.exp((low + high) / 2))


def kl_matched(law: Law, n: float) -> float:
    """The β whose optimum spends as much KL to π_ref as best-of-N."""
    target = law.kl_from_ref(law.log_bon(n))
    return match(target, lambda beta: law.kl_from_ref(law.log_tilted(beta)), law.std())


def reward_matched(law: Law, n: float) -> float:
    """The β whose optimum has best-of-N's mean reward."""
    return match(law.mean(law.log_bon(n)), lambda beta: law.mean(law.log_tilted(beta)), law.std())


STEP = 0.01
"""Of rewards that are stored after tanh."""
MAPS: dict[str, Callable[[Float, float], Float]] = {
    "identity": lambda rewards, _: rewards,
    "exponential": lambda rewards, spread: np.exp(rewards / spread),
    "saturated": lambda rewards, _: np.round(np.tanh(rewards) / STEP) * STEP,
}
"""What becomes of rewards, given their standard deviation within prompts."""


def spread_of(rewards: Iterable[Float]) -> float:
    """The standard deviation within prompts, of each one's rewards: what they are divided by under exp."""
    return float(np.sqrt(np.mean([of_prompt.var() for of_prompt in rewards])))
