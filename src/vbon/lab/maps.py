"""Maps of rewards on text: one that keeps their order, one that makes rewards tie."""

from collections.abc import Callable, Iterable

import numpy as np

from vbon.lab.exact import Float

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
