"""Does a reward give one text the same number twice? Its resolution, measured, and whether it is the pool's reward."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vbon.rewards.protocol import Prompt, Reward

MARGIN = 8.0
"""A resolution is so many times the noise seen in a few calls: the largest of many is larger."""
SCORED_ALONE = 8

Float = NDArray[np.float64]


class Rescored(NamedTuple):
    """Rewards (B,) of some texts, and the largest difference that means nothing between two such numbers."""

    rewards: Float
    resolution: float


def rescore(
    reward: Reward, prompts: Sequence[Prompt], completions: Sequence[str], columns: dict[str, list[Any]]
) -> Rescored:
    """Score the rows together and, where the reward depends on its batch, in other batches too.

    Args:
        reward: its `noise` is None where it is a function of each row: its resolution is then 0. Else the least
            relative noise to reckon with; `MARGIN` times the larger of it and what is seen is the resolution.
        prompts, completions, columns: B aligned rows.
    """

    def score(rows: Sequence[int]) -> Float:
        part = {name: [values[row] for row in rows] for name, values in columns.items()}
        return reward([prompts[row] for row in rows], [completions[row] for row in rows], **part)

    everything = range(len(completions))
    rewards = np.asarray(score(everything), np.float64)
    noise = getattr(reward, "noise", None)
    if noise is None or not len(rewards):
        return Rescored(rewards, 0.0)
    alone = np.linspace(0, len(rewards) - 1, min(SCORED_ALONE, len(rewards))).astype(int)
    batches = [everything[::2], everything[1::2], everything[len(rewards) // 2 :], *([row] for row in alone)]
    seen = max(float(np.abs(score(batch) - rewards[list(batch)]).max()) for batch in batches if len(batch))
    return Rescored(rewards, MARGIN * max(seen, noise * float(np.abs(rewards).max())))
