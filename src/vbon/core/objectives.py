"""Methods as transformations of the reward: rewards and a pool → sequence reward ρ and KL coefficient β.

No other module of core depends on the method. Every method maximises E_{y~π_θ}[ρ(y)] − β·KL(π_θ‖π_ref); ρ and β carry
the same factor.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vbon.core import rank_tilts
from vbon.core.best_of_n import kl_coef_from_n, log_weight
from vbon.core.rank_tilts import Target, as_tilt
from vbon.core.reward_cdf import Interval

Float = NDArray[np.float64]


class Signal(NamedTuple):
    """Sequence reward ρ, float64 (B,), and KL coefficient β: the trainer maximises E[ρ] − β·KL(π_θ‖π_ref)."""

    sequence_reward: Float
    kl_coef: float


Objective = Callable[[Float, Interval, float, float | None], Signal]
BoundObjective = Callable[[Float, Interval], Signal]
"""An objective with its N and β: (rewards, interval) → signal."""


def vbon(rewards: Float, interval: Interval, n: float, kl_coef: float | None = None) -> Signal:
    """Compute exact vBoN: ρ = log W_N(F_<, F_≤)/(N−1), β = 1/(N−1); it maximises −KL(π_θ‖π_bon).

    The objective J of arXiv 2407.06057, extended to ties. ρ lies in [−log(M+1), log N/(N−1)].

    Args:
        rewards: rewards r of the completions, float64 (B,). Not used: only their ranks matter.
        interval: F_< and F_≤ of each completion within its prompt's pool, (B,) each.
        n: N of best-of-N, any real number greater than 1.
        kl_coef: not used: N fixes β.

    Returns:
        Sequence reward ρ, float64 (B,), and β.

    Raises:
        ValueError: N ≤ 1.
    """
    beta = kl_coef_from_n(n)
    return Signal(log_weight(interval.cdf_lt, interval.cdf_le, n) * beta, beta)


def tilted(interval: Interval, target: Target) -> Signal:
    """Compute `vbon` for any rank tilt: ρ = log W(F_<, F_≤)/(N−1), β = 1/(N−1); it maximises −KL(π_θ‖π_ref·W).

    For best-of-N it is `vbon`, bit by bit.
    """
    beta = kl_coef_from_n(as_tilt(target).n)
    return Signal(rank_tilts.log_weight(interval.cdf_lt, interval.cdf_le, target) * beta, beta)


def vbon_bound(rewards: Float, interval: Interval, n: float, kl_coef: float | None = None) -> Signal:
    """Compute the paper's estimator of its lower bound L: ρ = log((k_<+1)/(M+1)), β = 1/(N−1) (arXiv 2407.06057).

    Without ties (k_<+1)/(M+1) is F̂_≤, an upper form: L itself is −∞ wherever F_< = 0 has mass. With ties it is the
    one-sided count, as in the published code.

    Args:
        rewards: rewards r of the completions, float64 (B,). Not used: only their ranks matter.
        interval: F_< and F_≤ of each completion within its prompt's pool, (B,) each.
        n: N of best-of-N, any real number greater than 1.
        kl_coef: not used: N fixes β.

    Returns:
        Sequence reward ρ, float64 (B,), and β.

    Raises:
        ValueError: N ≤ 1.
    """
    return Signal(np.log(interval.cdf_lt + interval.sample_mass), kl_coef_from_n(n))


def reward(rewards: Float, interval: Interval, n: float, kl_coef: float | None = None) -> Signal:
    """Compute KL-constrained RL (RLHF): ρ = r, with β given or 1/(N−1).

    Args:
        rewards: rewards r of the completions, float64 (B,).
        interval: F_< and F_≤ of each completion within its prompt's pool, (B,) each. Not used.
        n: N of best-of-N, any real number greater than 1.
        kl_coef: β; None is 1/(N−1).

    Returns:
        Sequence reward ρ, float64 (B,), and β.

    Raises:
        ValueError: N ≤ 1, where `kl_coef` is None.
    """
    return Signal(np.asarray(rewards, np.float64), _beta(n, kl_coef))


def quantile(rewards: Float, interval: Interval, n: float, kl_coef: float | None = None) -> Signal:
    """Compute the calibrated reward (in the style of InfAlign): ρ = (F_< + F_≤)/2, with β given or 1/(N−1).

    Args:
        rewards: rewards r of the completions, float64 (B,). Not used: only their ranks matter.
        interval: F_< and F_≤ of each completion within its prompt's pool, (B,) each.
        n: N of best-of-N, any real number greater than 1.
        kl_coef: β; None is 1/(N−1).

    Returns:
        Sequence reward ρ, float64 (B,), and β.

    Raises:
        ValueError: N ≤ 1, where `kl_coef` is None.
    """
    return Signal((interval.cdf_lt + interval.cdf_le) / 2, _beta(n, kl_coef))


def bond(rewards: Float, interval: Interval, n: float, kl_coef: float | None = None) -> Signal:
    """Compute the backward half of BOND: ρ = log F_≤, β = 1/(N−1), the bound in its upper form (arXiv 2407.14622).

    The forward half of its Jeffreys divergence is a loss on pool samples: `offline.jeffreys`.

    Args:
        rewards: rewards r of the completions, float64 (B,). Not used: only their ranks matter.
        interval: F_< and F_≤ of each completion within its prompt's pool, (B,) each.
        n: N of best-of-N, any real number greater than 1.
        kl_coef: not used: N fixes β.

    Returns:
        Sequence reward ρ, float64 (B,), and β.

    Raises:
        ValueError: N ≤ 1.
    """
    return Signal(np.log(interval.cdf_le), kl_coef_from_n(n))


OBJECTIVES: dict[str, Objective] = {
    "vbon": vbon,
    "vbon-bound": vbon_bound,
    "reward": reward,
    "quantile": quantile,
    "bond": bond,
}


def _beta(n: float, kl_coef: float | None) -> float:
    return kl_coef_from_n(n) if kl_coef is None else float(kl_coef)
