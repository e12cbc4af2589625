"""Methods as reward transforms: rewards and pool → sequence reward ρ and KL coefficient β.

The only place that knows methods. Every method maximises E_{y~π_θ}[ρ(y)] − β·KL(π_θ‖π_ref); ρ and β carry
the same factor.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vbon.core.best_of_n import kl_coef_from_n, log_weight
from vbon.core.reward_cdf import Interval

Float = NDArray[np.float64]


class Signal(NamedTuple):
    """What the trainer maximises: sequence reward ρ (B,), float64, and the fixed KL coefficient β."""

    sequence_reward: Float
    kl_coef: float


Objective = Callable[[Float, Interval, float, float | None], Signal]
BoundObjective = Callable[[Float, Interval], Signal]
"""An objective with its N and β: (rewards, interval) → signal."""


def vbon(rewards: Float, interval: Interval, n: float, kl_coef: float | None = None) -> Signal:
    """Exact vBoN: ρ = log W_N(F_<, F_≤)/(N−1), β = 1/(N−1); maximises −KL(π_θ‖π_bon) (arXiv 2407.06057, tie-aware).

    ρ lies in [−log(M+1), log N/(N−1)]. Only ranks of `rewards` matter, through `interval`.
    """
    beta = kl_coef_from_n(n)
    return Signal(log_weight(interval.cdf_lt, interval.cdf_le, n) * beta, beta)


def vbon_bound(rewards: Float, interval: Interval, n: float, kl_coef: float | None = None) -> Signal:
    """The paper's estimator of its bound: ρ = log((k_<+1)/(M+1)), β = 1/(N−1) (arXiv 2407.06057).

    Without ties (k_<+1)/(M+1) is F̂_≤, an upper form: L itself is −∞ wherever F_< = 0 has mass. With ties it is the
    one-sided count, as in the published code.
    """
    return Signal(np.log(interval.cdf_lt + interval.sample_mass), kl_coef_from_n(n))


def reward(rewards: Float, interval: Interval, n: float, kl_coef: float | None = None) -> Signal:
    """KL-constrained RL (RLHF): ρ = r, β given or 1/(N−1)."""
    return Signal(np.asarray(rewards, np.float64), _beta(n, kl_coef))


def quantile(rewards: Float, interval: Interval, n: float, kl_coef: float | None = None) -> Signal:
    """Calibrated reward (in the style of InfAlign): ρ = (F_< + F_≤)/2, β given or 1/(N−1)."""
    return Signal((interval.cdf_lt + interval.cdf_le) / 2, _beta(n, kl_coef))


def bond(rewards: Float, interval: Interval, n: float, kl_coef: float | None = None) -> Signal:
    """BOND's backward half: ρ = log F_≤, β = 1/(N−1), the bound in its upper form (arXiv 2407.14622).

    The forward half of its Jeffreys divergence is a loss on pool samples: `offline.jeffreys`.
    """
    return Signal(np.log(interval.cdf_le), kl_coef_from_n(n))


OBJECTIVES: dict[str, Objective] = {
    "vbon": vbon,
    "vbon-bound": vbon_bound,
    "reward": reward,
    "quantile": quantile,
    "bond": bond,
}


def bind_objective(name: str, n: float, kl_coef: float | None = None) -> BoundObjective:
    """Fix N and β of the objective of this name."""
    objective = OBJECTIVES[name]
    return lambda rewards, interval: objective(rewards, interval, n, kl_coef)


def _beta(n: float, kl_coef: float | None) -> float:
    return kl_coef_from_n(n) if kl_coef is None else float(kl_coef)
