"""Rewards that are known to a resolution only: which of them are equal.

A network gives one text rewards that differ by about 1e-7 between calls, by what it is batched with. Such rewards are
equal where they are nearer than their resolution: sorted, each belongs with the one before it if the gap is no larger
(single linkage), and all that belong together are given their lowest value. At resolution 0 nothing changes.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vbon.core.reward_cdf import count_below

Float = NDArray[np.float64]
Int = NDArray[np.int64]


class Levels:
    """The distinct rewards of ragged pools at a resolution.

    Args:
        rewards: float64 (ΣM,), the pools one after another.
        num_samples: int (P,), M of each pool; each at least 1.
        resolution: largest difference between equal rewards, at least 0.
    """

    def __init__(self, rewards: ArrayLike, num_samples: ArrayLike, resolution: float):
        values = np.ascontiguousarray(rewards, np.float64)
        self.resolution = resolution
        self._count = np.ascontiguousarray(num_samples, np.int64)
        self._first = np.cumsum(self._count) - self._count
        pool_index = np.repeat(np.arange(len(self._count)), self._count)
        order = np.lexsort((values, pool_index))
        self._sorted = values[order]
        starts = np.append(True, (np.diff(self._sorted) > resolution) | (np.diff(pool_index) > 0))[: len(values)]
        self._level = self._sorted[np.flatnonzero(starts)][np.cumsum(starts) - 1]
        self.rewards: Float = np.empty_like(values)
        """Each reward's level, (ΣM,)."""
        self.rewards[order] = self._level

    def snap(self, pool_index: ArrayLike, rewards: ArrayLike) -> Float:
        """The level of each reward in its pool, or itself where the pool holds none as near as the resolution."""
        index, values = np.asarray(pool_index, np.int64), np.array(rewards, np.float64)
        first, count = self._first[index], self._count[index]
        above = count_below(self._sorted, first, count, values, np.less)
        place = first + np.minimum(above, count - 1)
        before = first + np.maximum(above - 1, 0)
        nearer = np.abs(self._sorted[before] - values) < np.abs(self._sorted[place] - values)
        place = np.where(nearer, before, place)
        return np.where(np.abs(self._sorted[place] - values) <= self.resolution, self._level[place], values)
