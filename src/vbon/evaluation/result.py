"""From per-prompt metrics to what evaluation.json holds: estimates with intervals, shares of gain, differences."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vbon.core import stats

Float = NDArray[np.float64]
PerPrompt = Mapping[str, Float]
REFERENCE_WIN_RATE = 0.5


def estimates(per_prompt: PerPrompt, seed: int) -> dict[str, dict[str, float]]:
    """Mean over prompts of each metric, with its 95 % bootstrap interval over prompts."""
    return {name: stats.mean(values, seed)._asdict() for name, values in per_prompt.items()}


def gain_shares(policy: PerPrompt, target: PerPrompt, pool_reward: Float, seed: int) -> dict[str, Any]:
    """How much of best-of-N's gain over the reference the policy has; null where best-of-N gains nothing.

    Ratios of means, numerator and denominator resampled together (core.stats.ratio).
    """
    return {
        "reward_gain_share": _share(policy["reward"] - pool_reward, target["reward"] - pool_reward, seed),
        "win_rate_gain_share": _share(
            policy["win_rate"] - REFERENCE_WIN_RATE, target["win_rate"] - REFERENCE_WIN_RATE, seed
        ),
    }


def differences(policy: PerPrompt, first: PerPrompt, seed: int) -> dict[str, dict[str, float]]:
    """Paired per-prompt differences to the first policy, for every metric that both have."""
    return {
        name: stats.paired_difference(policy[name], first[name], seed)._asdict() for name in policy if name in first
    }


def _share(gain: Float, target_gain: Float, seed: int) -> dict[str, float | None] | None:
    if not target_gain.mean() > 0:
        return None
    with np.errstate(divide="ignore", invalid="ignore"):  # a resample may hold only prompts without any gain
        share = stats.ratio(gain, target_gain, seed)
    return {name: value if np.isfinite(value) else None for name, value in share._asdict().items()}
