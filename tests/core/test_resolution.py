"""Equality at a resolution, against comparison of every pair."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vbon.core.resolution import Levels

GRID = st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=8), min_size=1, max_size=4)


def linked(values: list[float], resolution: float) -> list[float]:
    """The lowest value that a chain of gaps within the resolution leads down to, by looking at every pair."""
    lowest = []
    for value in values:
        while below := [other for other in values if other < value <= other + resolution]:
            value = min(below)
        lowest.append(value)
    return lowest


@given(GRID, st.sampled_from([0, 1, 2, 5]))
def test_levels_are_chains_within_each_pool(pools, resolution):
    levels = Levels(np.concatenate(pools), [len(pool) for pool in pools], resolution)
    assert levels.rewards.tolist() == [value for pool in pools for value in linked(pool, resolution)]


@given(GRID, st.sampled_from([0, 1, 2, 5]), st.integers(-4, 40))
def test_a_new_reward_takes_the_level_of_its_nearest_neighbour(pools, resolution, reward):
    levels = Levels(np.concatenate(pools), [len(pool) for pool in pools], resolution)
    snapped = levels.snap(np.arange(len(pools)), np.full(len(pools), float(reward)))
    for pool, value in zip(pools, snapped, strict=True):
        distances = [abs(other - reward) for other in pool]
        if min(distances) > resolution:
            assert value == reward
        else:
            nearest = [
                level
                for level, distance in zip(linked(pool, resolution), distances, strict=True)
                if distance == min(distances)
            ]
            assert value in nearest


@pytest.mark.parametrize("change", [np.exp, lambda r: r**3 + r, lambda r: 1000 * r - 7])
def test_at_resolution_0_nothing_changes(change):
    rewards = change(np.random.default_rng(0).normal(size=40))
    levels = Levels(rewards, [15, 25], 0.0)
    assert levels.rewards.tobytes() == rewards.tobytes()
    fresh = change(np.random.default_rng(1).normal(size=9))
    assert levels.snap(np.zeros(9, int), fresh).tobytes() == fresh.tobytes()
